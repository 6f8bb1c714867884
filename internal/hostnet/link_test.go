package hostnet

import (
	"errors"
	"fmt"
	"net"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func TestEnsureBridge(t *testing.T) {
	h := newHost(t)
	l, created, err := h.EnsureBridge("vnet97")
	require.NoError(t, err)
	require.True(t, created)
	require.Equal(t, "bridge", l.Kind)
	require.True(t, l.Up())
	again, created, err := h.EnsureBridge("vnet97")
	require.NoError(t, err)
	require.False(t, created)
	require.Equal(t, l.Index, again.Index)

	for setting, want := range map[string]string{"stp_state": "0", "forward_delay": "0"} {
		require.Equal(t, want, bridgeSetting(t, h, "vnet97", setting))
	}

	require.NoError(t, h.SetDown(l.Index))
	l, _, err = h.EnsureBridge("vnet97")
	require.NoError(t, err)
	require.True(t, link(t, h, "vnet97").Up())

	require.NoError(t, h.Delete(l.Index))
	require.NoError(t, h.Delete(l.Index), "a second time")
	_, err = h.LinkByName("vnet97")
	require.ErrorIs(t, err, ErrNotFound)
}

func TestEnsureBridgeRefusesOtherDevices(t *testing.T) {
	h := newHost(t)
	pair(t, h, "vnet97", "other")
	_, _, err := h.EnsureBridge("vnet97")
	var notOurs *NotOursError
	require.ErrorAs(t, err, &notOurs)
	require.Equal(t, "vnet97", notOurs.Device.Name)
	require.ErrorContains(t, err, "vnet97 (veth, index")
}

func TestEnsureVeth(t *testing.T) {
	h := newHost(t)
	mac, partnerMAC := net.HardwareAddr{0xaa, 0xff, 1, 2, 3, 4}, net.HardwareAddr{0xaa, 0xff, 1, 2, 3, 5}
	v := Veth{Name: "a", Partner: "b", MAC: mac, PartnerMAC: partnerMAC, MTU: 1400, Group: 1797, PartnerGroup: 1798}
	created, err := h.EnsureVeth(v)
	require.NoError(t, err)
	require.True(t, created)
	created, err = h.EnsureVeth(v)
	require.NoError(t, err)
	require.False(t, created)

	a, b := link(t, h, "a"), link(t, h, "b")
	require.Equal(t, b.Index, a.Partner)
	require.Equal(t, a.Index, b.Partner)
	require.Equal(t, mac, a.MAC)
	require.Equal(t, partnerMAC, b.MAC)
	require.Equal(t, 1400, a.MTU)
	require.Equal(t, 1400, b.MTU)
	require.EqualValues(t, 1797, a.Group)
	require.EqualValues(t, 1798, b.Group)

	_, err = h.EnsureVeth(Veth{Name: "a", Partner: "c"})
	var notOurs *NotOursError
	require.ErrorAs(t, err, &notOurs)
	require.ErrorIs(t, h.CreateVeth(v), ErrExists)
}

func TestVethBetweenNamespaces(t *testing.T) {
	h, other := newHost(t), newHost(t)
	for _, created := range []bool{true, false} {
		got, err := h.EnsureVeth(Veth{Name: "a", Partner: "eth0", PartnerHost: other})
		require.NoError(t, err)
		require.Equal(t, created, got)
	}
	a, b := link(t, h, "a"), link(t, other, "eth0")
	require.True(t, a.PartnerAway)
	require.Zero(t, a.Partner)
	require.True(t, b.PartnerAway)
}

func TestSetters(t *testing.T) {
	h := newHost(t)
	br, _, err := h.EnsureBridge("br")
	require.NoError(t, err)
	a, _ := pair(t, h, "a", "b")

	for range 2 { // all are idempotent
		require.NoError(t, h.SetAlias(a.Index, "xend vnet 0000:0000:0000:0000:0000:0000:0000:0097"))
		require.NoError(t, h.SetMTU(a.Index, 1400))
		require.NoError(t, h.SetHardwareAddr(a.Index, net.HardwareAddr{0xaa, 0xff, 0, 0, 0, 1}))
		require.NoError(t, h.SetGroup(a.Index, 1798))
		require.NoError(t, h.SetNoARP(a.Index, true))
		require.NoError(t, h.SetMaster(a.Index, br.Index))
	}
	got := link(t, h, "a")
	require.Equal(t, "xend vnet 0000:0000:0000:0000:0000:0000:0000:0097", got.Alias)
	require.Equal(t, 1400, got.MTU)
	require.Equal(t, "aa:ff:00:00:00:01", got.MAC.String())
	require.EqualValues(t, 1798, got.Group)
	require.True(t, got.NoARP)
	require.Equal(t, br.Index, got.Master)
	require.True(t, got.Up())

	ports, err := h.Ports(br.Index)
	require.NoError(t, err)
	require.Equal(t, []Link{got}, ports)

	for range 2 {
		require.NoError(t, h.SetMaster(a.Index, 0))
		require.NoError(t, h.SetNoARP(a.Index, false))
		require.NoError(t, h.SetAlias(a.Index, ""))
		require.NoError(t, h.SetDown(a.Index))
	}
	require.NoError(t, h.Rename(a.Index, "vif1.0"))
	got = link(t, h, "vif1.0")
	require.Zero(t, got.Master)
	require.Empty(t, got.Alias)
	require.False(t, got.NoARP)
	require.False(t, got.Up())
	require.ErrorIs(t, h.Rename(a.Index, "b"), ErrExists)

	const nobody = 4711
	require.ErrorIs(t, h.SetUp(nobody), ErrNotFound)
	require.ErrorIs(t, h.SetMTU(nobody, 1500), ErrNotFound)
	require.ErrorContains(t, h.SetMTU(nobody, 1500), "set MTU of device 4711")
	require.ErrorIs(t, h.SetMaster(a.Index, nobody), ErrNotFound)
}

func TestDisableIPv6(t *testing.T) {
	h := newHost(t)
	_, err := h.EnsureVeth(Veth{Name: "vif1.0", Partner: "b"})
	require.NoError(t, err)
	a, b := link(t, h, "vif1.0"), link(t, h, "b")
	require.NoError(t, h.DisableIPv6(a.Index))
	require.NoError(t, h.SetUp(a.Index))
	require.NoError(t, h.SetUp(b.Index))
	got, err := h.Addresses(a.Index)
	require.NoError(t, err)
	require.Empty(t, got)
	v, err := h.Sysctl("net", "ipv6", "conf", "vif1.0", "disable_ipv6")
	require.NoError(t, err)
	require.Equal(t, "1", v)
}

func TestGenerateNoAddress(t *testing.T) {
	h := newHost(t)
	_, err := h.EnsureVeth(Veth{Name: "a", Partner: "b"})
	require.NoError(t, err)
	a, b := link(t, h, "a"), link(t, h, "b")
	require.NoError(t, h.generateNoAddress(a.Index))
	require.NoError(t, h.SetUp(a.Index))
	require.NoError(t, h.SetUp(b.Index))
	require.NoError(t, h.AwaitRunning(t.Context(), a.Index))
	got, err := h.Addresses(a.Index)
	require.NoError(t, err)
	require.Empty(t, got)
}

// Dumps are whole although devices come and go meanwhile.
func TestLinksWhileTheyChange(t *testing.T) {
	h := newHost(t)
	for i := range 200 {
		_, _, err := h.EnsureBridge(fmt.Sprint("stay", i))
		require.NoError(t, err)
	}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			if l, _, err := h.EnsureBridge("go"); err == nil {
				_ = h.Delete(l.Index)
			}
		}
	})
	for range 30 {
		list, err := h.Links()
		require.NoError(t, err)
		stay := 0
		for _, l := range list {
			if l.Name[0] == 's' {
				stay++
			}
		}
		require.Equal(t, 200, stay)
	}
	close(stop)
	wg.Wait()
}

func TestDoFromAnywhere(t *testing.T) {
	h := newHost(t)
	here := func() (n int) {
		require.NoError(t, h.Do(func() error {
			list, err := net.Interfaces()
			n = len(list)
			return err
		}))
		return n
	}
	before := here() // lo, and what modules put into every namespace
	pair(t, h, "a", "b")
	require.Equal(t, before+2, here())
	require.NoError(t, h.Do(func() error { // nested
		require.Equal(t, before+2, here())
		return nil
	}))
	require.Panics(t, func() { _ = h.Do(func() error { panic("ouch") }) })
	ended := make(chan bool)
	go func() {
		defer close(ended)
		_ = h.Do(func() error { runtime.Goexit(); return nil })
		ended <- false
	}()
	_, went := <-ended
	require.False(t, went, "runtime.Goexit must end the caller")
}

func TestClosedHost(t *testing.T) {
	h := newHost(t)
	h.Close()
	h.Close()
	require.ErrorContains(t, h.Do(func() error { return nil }), "released")
	_, err := h.Links()
	require.ErrorContains(t, err, "released")
	require.ErrorContains(t, h.DropIngress(1), "released")
}

// bridgeSetting asks iproute2, which knows attributes that Link leaves out.
func bridgeSetting(t *testing.T, h *Host, bridge, setting string) string {
	t.Helper()
	var out []byte
	require.NoError(t, h.Do(func() (err error) {
		out, err = exec.Command("ip", "-d", "link", "show", bridge).CombinedOutput()
		return err
	}), "%s", out)
	_, after, found := strings.Cut(string(out), setting+" ")
	require.True(t, found, "%s", out)
	value, _, _ := strings.Cut(after, " ")
	return value
}

func TestVLANs(t *testing.T) {
	h := newHost(t)
	b, err := h.CreateBridge(Bridge{Name: "one"})
	require.NoError(t, err)
	list, err := h.VLANs()
	require.NoError(t, err)
	require.Empty(t, list)
	err = h.handle.LinkAdd(&netlink.Vlan{LinkAttrs: netlink.LinkAttrs{Name: "one.5", ParentIndex: b.Index}, VlanId: 5})
	if errors.Is(err, unix.EOPNOTSUPP) {
		return // this kernel has none
	}
	require.NoError(t, err)
	list, err = h.VLANs()
	require.NoError(t, err)
	require.Len(t, list, 1)
	require.Equal(t, "one.5", list[0].Name)
	require.Equal(t, b.Index, list[0].Partner)
}
