package daemon

import (
	"context"
	"log/slog"
	"net"
	"time"

	"github.com/xenvnet/xend/xendcompat/console"
	"github.com/xenvnet/xend/xendcompat/control"
	"github.com/xenvnet/xend/xendcompat/httpsxp"
	"github.com/xenvnet/xend/xendcompat/httpx"
	"github.com/xenvnet/xend/xendcompat/status"
	"github.com/xenvnet/xend/xendcompat/xmlrpc"
)

// server is a front end.
type server interface {
	Serve(ctx context.Context, ln net.Listener) error
	String() string
}

// front is the task of a front end on one of its sockets.
type front struct {
	server server
	socket *socket // nil: there was no room for it, and bind is tried again
	bind   func() (*socket, error)
	log    *slog.Logger
	ready  chan struct{}
}

// roomEvery is how often a socket is tried for which there was no room.
const roomEvery = time.Second

// Run makes the socket accept, which it has not done so far: clients find all vnets up.
func (f front) Run(ctx context.Context) error {
	if f.socket == nil {
		return f.runLater(ctx)
	}
	ln, err := f.socket.listen()
	if err != nil {
		return err
	}
	close(f.ready)
	return f.server.Serve(ctx, ln)
}

// runLater waits for room. Nobody waits for it: vnets do without.
func (f front) runLater(ctx context.Context) error {
	close(f.ready)
	ticker := time.NewTicker(roomEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		s, err := f.bind()
		if noRoom(err) {
			continue
		}
		if err != nil {
			return err
		}
		ln, err := s.listen()
		if err != nil {
			s.close()
			return err
		}
		f.log.Info("there is room for a socket again", "server", f.server)
		return f.server.Serve(ctx, ln)
	}
}

// Ready tells that the socket accepts, or that it will when there is room.
func (f front) Ready() <-chan struct{} { return f.ready }

func (f front) String() string { return f.server.String() + " server" }

// closed is a channel that is closed.
var closed = func() chan struct{} { c := make(chan struct{}); close(c); return c }()

// frontEnds binds all sockets: one that can't be had is found here, before the network is touched. That a file
// system is full keeps no vnet down.
func (d *Daemon) frontEnds(ctx context.Context, signals *signals) (tasks []task, err error) {
	cfg := d.cfg
	o := httpx.Options{
		Log:      d.log,
		Hosts:    append([]string{cfg.HTTPAddress, cfg.XMLRPCAddress}, cfg.AllowedHosts...),
		MaxBody:  int64(cfg.Limits.BodyBytes),
		MaxConns: cfg.Limits.Connections,
	}
	http, rpc := httpsxp.New(d.status.Measure(d.svc, "http"), o), xmlrpc.New(d.status.Measure(d.svc, "xmlrpc"), o)
	ctl := control.New(d.status.Measure(d.svc, "control"), control.Options{
		Log: d.log, Check: d.checker.Run, Trace: d.checker.Trace, Members: d.checker.Members, Reload: signals.reload,
	})
	// Root's own socket has the status page and the metrics, too.
	local := httpx.NewServer("http", d.status.Handler(status.Everybody(), http), o)
	relocation := d.relocation()
	everywhere := func(address string, port int) func() (*socket, error) {
		return func() (*socket, error) {
			if address != "" {
				return bindTCP(ctx, address, port)
			}
			s, err := bindTCP(ctx, "::", port)
			if err != nil { // without IPv6
				return bindTCP(ctx, "0.0.0.0", port)
			}
			return s, nil
		}
	}
	unix := func(path string) func() (*socket, error) {
		return func() (*socket, error) { return bindUnix(path, d.log) }
	}
	tcp := func(address string, port int) func() (*socket, error) {
		return func() (*socket, error) { return bindTCP(ctx, address, port) }
	}
	for _, f := range []struct {
		on     bool
		server server
		bind   func() (*socket, error)
	}{
		{cfg.UnixServer, local, unix(cfg.UnixPath)},
		{cfg.HTTPServer, http, tcp(cfg.HTTPAddress, cfg.HTTPPort)},
		{cfg.XMLRPCUnixServer, rpc, unix(cfg.XMLRPCPath)},
		{cfg.XMLRPCServer, rpc, tcp(cfg.XMLRPCAddress, cfg.XMLRPCPort)},
		{true, ctl, unix(cfg.ControlSocket)},
		{relocation != nil, relocation, everywhere(cfg.RelocationAddress, cfg.RelocationPort)},
		{d.domains.Toolstack() != "", console.New(d.domains, d.log), unix(d.o.Paths.ConsoleSocket())},
		{cfg.LegacyControlSocket != "", ctl, unix(cfg.LegacyControlSocket)},
		{d.access != nil, d.statusServer(http, o), everywhere(cfg.Status.Address, cfg.Status.Port)},
	} {
		if !f.on {
			continue
		}
		s, err := f.bind()
		switch {
		case noRoom(err):
			d.log.Error("no room for a socket: the file system is full; it is tried again", "server", f.server, "error", err)
		case err != nil:
			return nil, err
		default:
			d.onClose(s.close)
		}
		tasks = append(tasks, front{server: f.server, socket: s, bind: f.bind, log: d.log, ready: make(chan struct{})})
	}
	return tasks, nil
}
