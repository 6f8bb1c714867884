// Package fronttest runs a whole service for the tests of the front ends, on devices and an engine that are fakes: it
// needs no kernel and no root. The way from a client to the kernel is tested with the programs, in cmd.
package fronttest

import (
	"context"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/xenvnet/xend/dataplane/port/porttest"
	"github.com/xenvnet/xend/internal/nettest"
	"github.com/xenvnet/xend/vnet"
	"github.com/xenvnet/xend/xendcompat/domain"
	"github.com/xenvnet/xend/xendcompat/registry"
	"github.com/xenvnet/xend/xendcompat/service"
	"github.com/xenvnet/xend/xendcompat/service/servicetest"
)

// soon bounds what takes milliseconds.
const soon = 20 * time.Second

// Daemon is a service and what it stands on.
type Daemon struct {
	*service.Service
	Devices *porttest.Devices
	// Dir is where its files are.
	Dir string
	Log *slog.Logger
}

// New starts a service that runs until the test ends. With carry its data plane is on, and has the default
// vnets; else there are devices only. Nothing runs domains.
func New(t testing.TB, carry bool) *Daemon {
	t.Helper()
	return NewWith(t, carry, nil)
}

// NewWith is New with a toolstack that runs domains.
func NewWith(t testing.TB, carry bool, tool domain.Toolstack) *Daemon {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	if _, fuzzing := t.(*testing.F); !fuzzing { // which may not log while its target runs
		log = nettest.Logger(t, "")
	}
	// Socket paths are short.
	dir, err := os.MkdirTemp("", "xend")
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	reg, err := registry.Open(registry.Options{Dir: filepath.Join(dir, "vnets"), Log: log})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, reg.Close()) })

	logFile, devices := filepath.Join(dir, "xend.log"), &porttest.Devices{}
	bridges := &service.Bridges{Dir: filepath.Join(dir, "vnets.d")}
	domains, err := domain.Open(domain.Options{Toolstack: tool, Dir: filepath.Join(dir, "domains"), Networks: bridges, Log: log})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, domains.Close()) })
	o := service.Options{Registry: reg, Devices: devices, Domains: domains,
		LogFile: func() string { return logFile }, Log: log}
	if carry {
		o.Engine, o.Settings.Defaults = &servicetest.Engine{}, vnet.DefaultVnets()
	}
	svc := service.New(o)
	bridges.Service = svc
	run(t, svc)
	run(t, domains)
	return &Daemon{Service: svc, Devices: devices, Dir: dir, Log: log}
}

// run runs a task until the test ends, and returns when it is ready.
func run(t testing.TB, task interface {
	Run(context.Context) error
	Ready() <-chan struct{}
}) {
	t.Helper()
	serve(t, task.Run)
	select {
	case <-task.Ready():
	case <-time.After(soon):
		require.Fail(t, "a task does not start")
	}
}

// serve runs a task until the test ends.
func serve(t testing.TB, task func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- task(ctx) }()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-done:
			require.NoError(t, err)
		case <-time.After(soon):
			require.Fail(t, "a task does not end")
		}
	})
}

// Server is a front end.
type Server interface {
	Serve(ctx context.Context, ln net.Listener) error
}

// Unix serves on a unix socket until the test ends, and returns its path.
func (d *Daemon) Unix(t testing.TB, s Server) string {
	t.Helper()
	f, err := os.CreateTemp(d.Dir, "s")
	require.NoError(t, err)
	f.Close()
	require.NoError(t, os.Remove(f.Name()))
	ln, err := net.Listen("unix", f.Name())
	require.NoError(t, err)
	serve(t, func(ctx context.Context) error { return s.Serve(ctx, ln) })
	return f.Name()
}

// TCP serves on a port of the loopback address until the test ends, and returns host:port.
func (d *Daemon) TCP(t testing.TB, s Server) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	serve(t, func(ctx context.Context) error { return s.Serve(ctx, ln) })
	return ln.Addr().String()
}

// Dial connects to a server; the connection is closed when the test ends.
func Dial(t testing.TB, address string) net.Conn {
	t.Helper()
	network := "tcp"
	if filepath.IsAbs(address) {
		network = "unix"
	}
	c, err := net.DialTimeout(network, address, soon)
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	require.NoError(t, c.SetDeadline(time.Now().Add(soon)))
	return c
}

// Exchange sends a request on a connection of its own, and returns all that comes until the server closes it.
func Exchange(t testing.TB, address string, request []byte) []byte {
	t.Helper()
	c := Dial(t, address)
	_, err := c.Write(request)
	require.NoError(t, err)
	return ReadAll(t, c)
}

// ReadAll reads until the server closes the connection, and closes it.
func ReadAll(t testing.TB, c net.Conn) []byte {
	t.Helper()
	b, err := io.ReadAll(c)
	require.NoError(t, err, "after %q", b)
	c.Close()
	return b
}

// Refusing is a fake of the operations: those that change something, or fetch something that may not be had, are refused
// with an error. Nothing is there.
type Refusing struct {
	*service.Service
	Err error
}

// NewRefusing is one whose other operations are those of a service without vnets.
func NewRefusing(t testing.TB, err error) (*Daemon, Refusing) {
	t.Helper()
	d := New(t, false)
	return d, Refusing{d.Service, err}
}

// CreateVnet is refused.
func (r Refusing) CreateVnet(context.Context, vnet.Config) error { return r.Err }

// ChangeVnet is refused.
func (r Refusing) ChangeVnet(context.Context, vnet.Config) error { return r.Err }

// DeleteVnet is refused.
func (r Refusing) DeleteVnet(context.Context, vnet.ID) error { return r.Err }

// FindDeletable finds a vnet of any id.
func (r Refusing) FindDeletable(id string) (vnet.Config, error) {
	return vnet.ParseConfig([]byte("(vnet (id " + id + "))"))
}

// AddTransient is refused.
func (r Refusing) AddTransient(context.Context, vnet.Config) error { return r.Err }

// DeleteTransient is refused.
func (r Refusing) DeleteTransient(context.Context, vnet.ID) error { return r.Err }

// NodeLog is refused.
func (r Refusing) NodeLog(context.Context) ([]byte, error) { return nil, r.Err }

// Dmesg is refused.
func (r Refusing) Dmesg(context.Context) ([]byte, error) { return nil, r.Err }

// ClearDmesg is refused.
func (r Refusing) ClearDmesg(context.Context) error { return r.Err }
