package hostnet

import (
	"io/fs"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// What arrives at the device never reaches the host's stack: a datagram sent over the pair is
// received before, and not after.
func TestDropIngress(t *testing.T) {
	h, far, a, _ := hostPair(t)

	var in, out net.PacketConn
	require.NoError(t, h.Do(func() (err error) { in, err = net.ListenPacket("udp4", "10.9.0.1:1798"); return err }))
	defer in.Close()
	require.NoError(t, far.Do(func() (err error) { out, err = net.ListenPacket("udp4", "10.9.0.2:0"); return err }))
	defer out.Close()
	send := func() {
		_, err := out.WriteTo([]byte("x"), in.LocalAddr())
		require.NoError(t, err)
	}
	buf := make([]byte, 16)
	send()
	require.NoError(t, in.SetReadDeadline(time.Now().Add(10*time.Second)))
	_, _, err := in.ReadFrom(buf)
	require.NoError(t, err)

	for range 2 {
		require.NoError(t, h.DropIngress(a.Index))
	}
	send()
	// A datagram on loopback, sent later, arrives alone.
	var local net.Conn
	require.NoError(t, h.Do(func() (err error) { local, err = net.Dial("udp4", "10.9.0.1:1798"); return err }))
	defer local.Close()
	_, err = local.Write([]byte("local"))
	require.NoError(t, err)
	n, _, err := in.ReadFrom(buf)
	require.NoError(t, err)
	require.Equal(t, "local", string(buf[:n]))

	for range 2 {
		require.NoError(t, h.PassIngress(a.Index))
	}
	send()
	n, _, err = in.ReadFrom(buf)
	require.NoError(t, err)
	require.Equal(t, "x", string(buf[:n]))

	require.ErrorIs(t, h.DropIngress(4711), ErrNotFound)
}

func TestSettingsOfDevice(t *testing.T) {
	h := newHost(t)
	a, _ := pair(t, h, "a.1", "b")
	for setting, name := range map[IPv4Setting]string{ARPIgnore: "arp_ignore", DropUnicastInMulticast: "drop_unicast_in_l2_multicast"} {
		require.NoError(t, h.SetIPv4(a.Index, setting, 1))
		value, err := h.Sysctl("net", "ipv4", "conf", "a.1", name)
		require.NoError(t, err)
		require.Equal(t, "1", value, name)
	}
	require.NoError(t, h.RefuseRouters(a.Index))
	value, err := h.Sysctl("net", "ipv6", "conf", "a.1", "accept_ra")
	require.NoError(t, err)
	require.Equal(t, "0", value)
	require.ErrorIs(t, h.SetIPv4(4711, ARPIgnore, 1), ErrNotFound)
}

// A Host that was bound by a path is in that namespace, and keeps it alive.
func TestAt(t *testing.T) {
	far := newHost(t)
	h, err := At(far.Path())
	require.NoError(t, err)
	defer h.Close()
	require.Equal(t, far.Inode(), h.Inode())
	require.NoError(t, h.CreateVeth(Veth{Name: "a", Partner: "b"}))
	link(t, far, "a")
	far.Close()
	link(t, h, "b")

	_, err = At("/nowhere")
	require.ErrorIs(t, err, fs.ErrNotExist)
}
