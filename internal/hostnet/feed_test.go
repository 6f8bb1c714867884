package hostnet

import (
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// TestFeed: what was done before a Read is told by it.
func TestFeed(t *testing.T) {
	h := newHost(t)
	links, err := h.FeedOfLinks()
	require.NoError(t, err)
	defer links.Close()
	fdb, err := h.FeedOfFDB()
	require.NoError(t, err)
	defer fdb.Close()
	read := func(f *Feed, most int) (list []Event, lost bool) {
		lost, err := f.Read(most, func(ev Event) { list = append(list, ev) })
		require.NoError(t, err)
		return list, lost
	}
	list, lost := read(links, 100)
	require.Empty(t, list)
	require.False(t, lost)

	waited := make(chan error, 1)
	go func() { waited <- links.Wait() }()
	b, err := h.CreateBridge(Bridge{Name: "vnet97"})
	require.NoError(t, err)
	require.NoError(t, h.CreateVeth(Veth{Name: "vif1.0", Partner: "eth0"}))
	p, err := h.LinkByName("vif1.0")
	require.NoError(t, err)
	require.NoError(t, h.SetMaster(p.Index, b.Index))
	require.NoError(t, <-waited)
	joined := 0
	list, lost = read(links, 100)
	require.False(t, lost)
	for _, ev := range list {
		if ev, ok := ev.(LinkEvent); ok && ev.Link.Index == p.Index && ev.Link.Master == b.Index {
			joined++
		}
	}
	require.NotZero(t, joined)
	list, _ = read(links, 100)
	require.Empty(t, list, "once")
	list, _ = read(fdb, 100)
	require.NotEmpty(t, list, "the port's own address")
	require.IsType(t, FDBEvent{}, list[0])

	require.NoError(t, h.SetUp(p.Index))
	require.NoError(t, h.SetUp(b.Index))
	_, lost = read(links, 1)
	require.True(t, lost, "there was more")
	list, lost = read(links, 100)
	require.NotEmpty(t, list)
	require.False(t, lost)
}

// TestFeedOverflow: more than the kernel remembers is lost, and that is told; what comes after that is told again.
func TestFeedOverflow(t *testing.T) {
	h := newHost(t)
	f, err := h.FeedOfLinks()
	require.NoError(t, err)
	require.NoError(t, f.raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 4096) }))
	require.NoError(t, err)
	for range 5 {
		require.NoError(t, h.CreateVeth(Veth{Name: "a", Partner: "b"}))
		l, err := h.LinkByName("a")
		require.NoError(t, err)
		require.NoError(t, h.Delete(l.Index))
	}
	lost, err := f.Read(1<<10, func(Event) {})
	require.NoError(t, err)
	require.True(t, lost)
	_, err = h.CreateBridge(Bridge{Name: "later"})
	require.NoError(t, err)
	told := false
	lost, err = f.Read(1<<10, func(ev Event) {
		ev2, ok := ev.(LinkEvent)
		told = told || ok && ev2.Link.Name == "later"
	})
	require.NoError(t, err)
	require.False(t, lost)
	require.True(t, told)

	f.Close()
	require.Error(t, f.Wait())
	_, err = f.Read(1, func(Event) {})
	require.Error(t, err)
}
