package hostnet

import (
	"errors"
	"io/fs"
	"net/netip"
	"slices"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// FuzzParse feeds every decoder of kernel messages; seeds are the kernel's own answers.
func FuzzParse(f *testing.F) {
	h, err := Unshare()
	if errors.Is(err, fs.ErrPermission) {
		f.Skip("needs the privilege to make network namespaces")
	}
	require.NoError(f, err)
	defer h.Close()
	for _, q := range []struct {
		kind int
		part nl.NetlinkRequestData
	}{
		{unix.RTM_GETLINK, nl.NewIfInfomsg(unix.AF_UNSPEC)},
		{unix.RTM_GETADDR, nl.NewIfAddrmsg(unix.AF_UNSPEC)},
		{unix.RTM_GETROUTE, routeMessage(unix.AF_INET6)},
	} {
		msgs, err := h.dump(q.kind, 0, q.part)
		require.NoError(f, err)
		for _, m := range msgs {
			f.Add(m)
		}
	}
	e := FDBEntry{MAC: [6]byte{0, 0x16, 0x3e, 0, 0, 1}, Port: 1, VLAN: 5}
	var neigh []byte
	for _, p := range fdbParts(e) {
		neigh = append(neigh, p.Serialize()...)
	}
	f.Add(neigh)
	f.Add(portMessage(nl.BridgeVlanInfo{Flags: nl.BRIDGE_VLAN_INFO_RANGE_BEGIN, Vid: 5}, nl.BridgeVlanInfo{Flags: nl.BRIDGE_VLAN_INFO_RANGE_END, Vid: 9}))
	f.Fuzz(func(_ *testing.T, b []byte) {
		for kind := range uint16(unix.RTM_DELCHAIN + 1) {
			b := slices.Clone(b)
			if ev, ok := parseEvent(kind, b).(LinkEvent); ok {
				_ = ev.Link.String()
			}
		}
		_, _ = parseNextHop(b, netip.IPv6Unspecified(), 1)
	})
}

// Kernel messages that are cut off anywhere are refused or read as far as they go.
func TestParseTruncated(t *testing.T) {
	e := FDBEntry{MAC: [6]byte{0, 0x16, 0x3e, 0, 0, 1}, Port: 7, VLAN: 5}
	var b []byte
	for _, p := range fdbParts(e) {
		b = append(b, p.Serialize()...)
	}
	got, err := parseFDB(b)
	require.NoError(t, err)
	require.Equal(t, e, got)
	for n := range len(b) {
		_, _ = parseFDB(b[:n])
	}
	_, err = parseFDB(b[:sizeofNdMsg])
	require.Error(t, err)
}

// One Host serves all goroutines of the daemon.
func TestConcurrentUse(t *testing.T) {
	h := newHost(t)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			name := "br" + string(rune('a'+i))
			for range 10 {
				l, _, err := h.EnsureBridge(name)
				if err == nil {
					_, err = h.Links()
				}
				if err == nil {
					err = h.DropIngress(l.Index)
				}
				if err == nil {
					err = h.SetAlias(l.Index, name)
				}
				if err == nil {
					err = h.Delete(l.Index)
				}
				if err != nil {
					t.Errorf("%s: %v", name, err)
					return
				}
			}
		})
	}
	wg.Wait()
}

func TestAlternativeNames(t *testing.T) {
	h := newHost(t)
	a, _ := pair(t, h, "a", "b")
	require.NoError(t, h.Do(func() error { return run("ip", "link", "property", "add", "dev", "a", "altname", "vnet97") }))
	_, err := h.LinkByName("vnet97")
	require.ErrorIs(t, err, ErrNotFound)
	_, _, err = h.EnsureBridge("vnet97")
	require.ErrorIs(t, err, ErrExists)
	require.Equal(t, a.Index, link(t, h, "a").Index)
}
