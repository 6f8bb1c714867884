package service

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"golang.org/x/sync/errgroup"

	"github.com/xenvnet/xend/dataplane"
	"github.com/xenvnet/xend/dataplane/port"
	"github.com/xenvnet/xend/dataplane/port/porttest"
	"github.com/xenvnet/xend/internal/hostnet"
	"github.com/xenvnet/xend/internal/nettest"
	"github.com/xenvnet/xend/vnet"
	"github.com/xenvnet/xend/xendcompat/domain"
	"github.com/xenvnet/xend/xendcompat/registry"
)

func TestMain(m *testing.M) {
	if os.Getenv(childTask) != "" {
		os.Exit(childMain())
	}
	goleak.VerifyTestMain(m)
}

// newHost moves the test into a network namespace of its own, which ends with the test.
func newHost(t *testing.T) *hostnet.Host { return nettest.Enter(t) }

// ground is what devices are on: the kernel's network or a list. Both have these verbs.
type ground interface {
	LinkByName(name string) (hostnet.Link, error)
	Links() ([]hostnet.Link, error)
	CreateVeth(v hostnet.Veth) error
	CreateBridge(b hostnet.Bridge) (hostnet.Link, error)
	Delete(index int) error
	SetMaster(index, master int) error
	SetAlias(index int, alias string) error
	SetDown(index int) error
	Rename(index int, name string) error
}

var (
	_ ground = (*hostnet.Host)(nil)
	_ ground = (*porttest.Devices)(nil)
)

// onGrounds runs a test on a list, which anybody may, and in the kernel, where root may.
func onGrounds(t *testing.T, f func(t *testing.T, h ground)) {
	t.Run("list", func(t *testing.T) { f(t, &porttest.Devices{}) })
	t.Run("kernel", func(t *testing.T) { f(t, newHost(t)) })
}

// A daemon is a service with its parts and tasks, as cmd/xend runs them.
type daemon struct {
	*Service
	host ground
	log  *journal
	stop func() error
}

// options are what a test wants otherwise.
type options struct {
	enabled bool // the data plane
	wrap    func(Engine) Engine
	step    func(string) error
}

// startDaemon starts everything and waits until it is ready; stop, also at the end of the test, ends it.
func startDaemon(t *testing.T, h ground, state string, o options) *daemon {
	t.Helper()
	d, err := runDaemon(h, state, o)
	require.NoError(t, err)
	t.Cleanup(func() { d.stop() }) //nolint:errcheck // tests that care stop it themselves
	return d
}

func runDaemon(h ground, state string, o options) (*daemon, error) {
	d := &daemon{host: h, log: newJournal()}
	log := slog.New(slog.NewTextHandler(d.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	reg, err := registry.Open(registry.Options{Dir: state, Log: log, Step: o.step})
	if err != nil {
		return nil, err
	}
	so := Options{Registry: reg, Domains: domain.NewManager(domain.Options{}), Log: log, Step: o.step}
	var engine *dataplane.Engine
	if o.enabled {
		so.Settings.Defaults = vnet.DefaultVnets()
	}
	switch h := h.(type) {
	case *porttest.Devices:
		so.Devices = h
	case *hostnet.Host:
		so.Devices = &port.Maker{Host: h, Step: o.step}
		if o.enabled {
			cfg := dataplane.DefaultConfig()
			cfg.Workers = 1
			if engine, err = dataplane.New(cfg, h, log); err != nil {
				return nil, err
			}
			so.Engine = engine
		}
	}
	if o.wrap != nil {
		so.Engine = o.wrap(newOff())
	}
	d.Service = New(so)

	ctx, cancel := context.WithCancel(context.Background())
	group, ctx := errgroup.WithContext(ctx)
	d.stop = sync.OnceValue(func() error {
		cancel()
		return errors.Join(group.Wait(), reg.Close())
	})
	start := func(run func(context.Context) error, ready <-chan struct{}) error {
		group.Go(func() error { return run(ctx) })
		select {
		case <-ready:
			return nil
		case <-ctx.Done():
			return d.stop()
		}
	}
	if engine != nil {
		if err := start(engine.Run, engine.Ready()); err != nil {
			return nil, err
		}
	}
	return d, start(d.Run, d.Ready())
}

// journal keeps a log and lets tests wait for what is in it.
type journal struct {
	mu      sync.Mutex
	changed *sync.Cond
	text    bytes.Buffer
}

func newJournal() *journal {
	j := &journal{}
	j.changed = sync.NewCond(&j.mu)
	return j
}

func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	defer j.changed.Broadcast()
	return j.text.Write(p)
}

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.String()
}

// wait returns when the text has been logged n times. The test's own time limit ends a wait in vain.
func (j *journal) wait(text string, n int) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for strings.Count(j.text.String(), text) < n {
		j.changed.Wait()
	}
}

func config(t testing.TB, text string) vnet.Config {
	t.Helper()
	c, err := vnet.ParseConfig([]byte(text))
	require.NoError(t, err)
	return c
}

func simple(t testing.TB, id string) vnet.Config { return config(t, "(vnet (id "+id+"))") }

// vnets are the ids that are listed, as written.
func vnets(s *Service) string {
	var ids []string
	for _, c := range s.Vnets() {
		ids = append(ids, c.IDText)
	}
	return strings.Join(ids, " ")
}

// layout describes all devices but lo: "vnet97 vnif97@vnet97 …", without the peers.
func layout(t testing.TB, h ground) string {
	t.Helper()
	links, err := h.Links()
	require.NoError(t, err)
	byIndex := map[int]string{}
	for _, l := range links {
		byIndex[l.Index] = l.Name
	}
	var all []string
	for _, l := range links {
		switch {
		case l.Name == "lo" || strings.HasPrefix(l.Name, "vnp"):
		case l.Master != 0:
			all = append(all, fmt.Sprintf("%s@%s", l.Name, byIndex[l.Master]))
		default:
			all = append(all, l.Name)
		}
	}
	slices.Sort(all)
	return strings.Join(all, " ")
}
