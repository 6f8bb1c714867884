package dataplane

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/xenvnet/xend/dataplane/port"
	"github.com/xenvnet/xend/internal/lab"
	"github.com/xenvnet/xend/internal/nettest"
	"github.com/xenvnet/xend/sxp"
	"github.com/xenvnet/xend/vnet"
)

func TestMain(m *testing.M) {
	if os.Getenv(asDaemon) != "" {
		os.Exit(daemon()) // killed_test.go
	}
	goleak.VerifyTestMain(m)
}

// soon and eventually wait for what has an event, and for what has none.
var soon, eventually = nettest.Soon, nettest.Eventually

// testLog is what an engine logged.
type testLog = nettest.Log

func logger(t testing.TB, name string) *slog.Logger { return nettest.Logger(t, name) }

func loggerTo(l *testLog) *slog.Logger { return l.Logger(slog.LevelDebug) }

// testConfig is a configuration with two workers.
func testConfig() Config {
	c := DefaultConfig()
	c.Workers = 2
	// Before Linux 6.6 a vif that gets a program is deaf for a moment; shortcuts_test.go waits for that.
	c.Bypass = BypassOff
	return c
}

// testHost is a host of the lab with an engine.
type testHost struct {
	*lab.Host
	*Engine
	log  *testLog
	t    testing.TB
	stop func()
}

// startEngine runs an engine on a host until the test ends or stop is called.
func startEngine(t testing.TB, h *lab.Host, cfg Config) *testHost {
	t.Helper()
	return startEngineWith(t, h, cfg, func(*Engine) {})
}

// startEngineWith is startEngine for an engine that is changed before it runs.
func startEngineWith(t testing.TB, h *lab.Host, cfg Config, change func(*Engine)) *testHost {
	t.Helper()
	log := &testLog{T: t, Name: h.Name}
	e, err := New(cfg, h.Net, loggerTo(log))
	require.NoError(t, err)
	if strings.HasSuffix(h.Name, "B") { // so that every test has both kinds of hooks
		withoutTCX(e)
	}
	change(e)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- e.Run(ctx) }()
	stopped := false
	th := &testHost{Host: h, Engine: e, log: log, t: t, stop: func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		require.NoError(t, <-done)
	}}
	t.Cleanup(th.stop)
	select {
	case <-e.Ready():
	case err := <-done:
		stopped = true
		cancel()
		require.NoError(t, err)
		t.Fatal("engine ended")
	}
	return th
}

// newLab makes a lab with one switch and hosts A, B, … that run engines.
func newLab(t testing.TB, hosts int, cfg Config) (*lab.Lab, *lab.Switch, []*testHost) {
	t.Helper()
	l := lab.New(t)
	s, err := l.Switch("lan", 0)
	require.NoError(t, err)
	return l, s, addHosts(t, s, hosts, cfg)
}

// addHost makes a host without an engine.
func addHost(t testing.TB, s *lab.Switch, name string) *lab.Host {
	t.Helper()
	h, err := s.Host(name)
	require.NoError(t, err)
	return h
}

func addHosts(t testing.TB, s *lab.Switch, hosts int, cfg Config) (out []*testHost) {
	t.Helper()
	for i := range hosts {
		h, err := s.Host(s.Name + string(rune('A'+i)))
		require.NoError(t, err)
		out = append(out, startEngine(t, h, cfg))
	}
	return out
}

// config97 is the configuration of a vnet with all defaults.
func configOf(t testing.TB, id string) vnet.Config {
	t.Helper()
	c, err := vnet.ConfigFromSXP(sxp.List(sxp.Atom("vnet"), sxp.Pair("id", id)))
	require.NoError(t, err)
	return c
}

func idOf(t testing.TB, text string) vnet.ID {
	t.Helper()
	id, err := vnet.ParseID(text)
	require.NoError(t, err)
	return id
}

// add creates a vnet on hosts.
func add(t testing.TB, id string, hosts ...*testHost) {
	t.Helper()
	for _, h := range hosts {
		require.NoError(t, attach(h.Engine, configOf(t, id)))
	}
	for _, h := range hosts {
		h.settled(id)
	}
}

// settled waits until it was decided how the kernel carries a vnet: a card that gets the programs sends nothing for a moment.
func (h *testHost) settled(id string) {
	h.t.Helper()
	eventually(h.t, "it is decided who carries vnet "+id, func() bool {
		s := h.Counters().FastPath
		_, decided := s.Vnets[idOf(h.t, id)]
		return decided || s.Problem != "" || s.Mode == FastPathOff
	})
}

// domainMAC is the MAC of domain n.
func domainMAC(n int) net.HardwareAddr {
	return net.HardwareAddr{0x00, 0x16, 0x3e, 0, byte(n >> 8), byte(n)}
}

// domain starts domain number n, with address 10.97.0.n and fd97::n, on a host's vnet.
func (h *testHost) domain(n int, id string) *lab.Domain {
	h.t.Helper()
	return h.domainOf(n, id, lab.DomainSpec{})
}

// domainOf is domain for one of a kind of its own.
func (h *testHost) domainOf(n int, id string, s lab.DomainSpec) *lab.Domain {
	h.t.Helper()
	s.Name, s.Vif, s.Bridge, s.MAC = fmt.Sprintf("dom%d", n), fmt.Sprintf("vif%d.0", n), "vnet"+id, domainMAC(n)
	s.Addrs = []netip.Prefix{
		netip.MustParsePrefix(fmt.Sprintf("10.97.%d.%d/16", n>>8, n&255)),
		netip.MustParsePrefix(fmt.Sprintf("fd97::%x/64", n)),
	}
	d, err := h.Domain(s)
	require.NoError(h.t, err)
	h.forwarding("vnet" + id)
	return d
}

// forwarding waits until all ports of a bridge forward.
func (h *testHost) forwarding(bridge string) {
	h.t.Helper()
	require.NoError(h.t, h.AwaitForwarding(soon(h.t), bridge))
}

// attach makes the devices of a vnet and has an engine carry its frames.
func attach(e *Engine, c vnet.Config) error {
	d, err := port.Ensure(e.host, port.Spec{ID: c.ID, Bridge: c.Bridge, Vnetif: c.Vnetif})
	if err != nil {
		return err
	}
	return e.Attach(c, d)
}

// detach undoes attach.
func detach(e *Engine, c vnet.Config) error {
	if err := e.Detach(c.ID); err != nil {
		return err
	}
	return port.Remove(e.host, port.Spec{ID: c.ID, Bridge: c.Bridge, Vnetif: c.Vnetif})
}

// bareNetwork is a network without devices.
func bareNetwork(c vnet.Config, workers int) *network {
	return newNetwork(network{config: c, meter: &meter{shares: make([]share, workers)}}, 0)
}

// addDefaults adds the vnets that exist without being created.
func addDefaults(t testing.TB, hosts ...*testHost) {
	t.Helper()
	for _, h := range hosts {
		for _, c := range vnet.DefaultVnets() {
			require.NoError(t, attach(h.Engine, c))
		}
	}
}

// counted waits until the workers have counted what they have passed on: a batch is counted at its end, when its frames have long arrived.
func (h *testHost) counted() { quiesce(h.view.Load().workers) }

// Counters are the engine's, with all that has arrived by now.
func (h *testHost) Counters() Counters {
	h.counted()
	return h.Engine.Counters()
}

// Status is the engine's, with all that has arrived by now.
func (h *testHost) Status() Status {
	h.counted()
	return h.Engine.Status()
}

// Snapshot is the engine's, with all that has arrived by now.
func (h *testHost) Snapshot() snapshot {
	h.counted()
	return h.Engine.Snapshot()
}

// drops returns a host's counter.
func (h *testHost) drops(r Reason) uint64 { return h.Snapshot().Drops[r].Count }

// ping makes sure that a domain reaches an address.
func ping(t testing.TB, from *lab.Domain, to netip.Addr) {
	t.Helper()
	_, err := from.Ping(soon(t), to, lab.PingOptions{})
	require.NoError(t, err)
}

// snapshot is all that can be asked for.
type snapshot struct {
	Status
	Vifs    []Vif
	Entries []Entry
}

// Snapshot asks for all at once.
func (e *Engine) Snapshot() snapshot {
	return snapshot{Status: e.Status(), Vifs: e.Vifs(Filter{}), Entries: e.Entries(Filter{})}
}

// run runs an engine that was made by hand, until stop is called.
func run(t testing.TB, e *Engine) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- e.Run(ctx) }()
	return func() {
		cancel()
		require.NoError(t, <-done)
	}
}

// data filters our test frames.
func data(f lab.Frame) bool { return f.EtherType() == 0x88b5 }

// capture captures test frames at a domain.
func capture(t testing.TB, d *lab.Domain) *lab.Capture {
	t.Helper()
	c, err := d.Capture("eth0", func(f lab.Frame) bool { return data(f) && !f.Outgoing })
	require.NoError(t, err)
	return c
}

// expect waits for a frame.
func expect(t testing.TB, c *lab.Capture, frame []byte) {
	t.Helper()
	_, err := c.WaitFor(soon(t), isData(frame))
	require.NoError(t, err)
}
