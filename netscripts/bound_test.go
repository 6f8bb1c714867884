package netscripts

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/xenvnet/xend/netscripts/bound"
)

// nftables loads rules.
func (h *host) nftables(rules string) {
	h.t.Helper()
	if _, err := exec.LookPath("nft"); err != nil {
		h.t.Skip("the nft program is not there to make rules with")
	}
	cmd := exec.Command("nft", "-f", "-")
	cmd.Stdin = strings.NewReader(rules)
	out, err := h.Output(cmd)
	require.NoError(h.t, err, out)
}

// byIndex is a firewall that lets in and out only what comes and goes by eth0, the device with that index.
const byIndex = `table inet f {
	chain in {
		type filter hook input priority 0; policy drop;
		iif lo accept
		iif eth0 tcp dport { 22, 5001 } drop comment "not even these"
		iif eth0 accept
		iif != eth0 log prefix "who" drop
	}
	chain out {
		type filter hook output priority 0; policy drop;
		oif { lo, eth0 } accept
	}
}
`

func newBoundHost(t *testing.T) *host {
	h := newHost(t)
	h.nftables(byIndex)
	h.needsKind("link add vx0 type vxlan id 7 dstport 4789 group 239.7.7.7 dev eth0")
	h.IP("link set vx0 addrgenmode none\nlink set vx0 up\naddr add 10.7.0.1/24 dev vx0\naddr add 2001:db8:77::1/64 dev vx0 nodad")
	h.waitForAddresses()
	h.eventually(func() bool { // made in the background
		return strings.Contains(h.Show("-6", "route", "show", "table", "local"), "2001:db8:77::1 ")
	})
	return h
}

// whole is the network with the packet filter and the memberships.
func (h *host) whole() string {
	igmp, err := h.Output(exec.Command("grep", "-c", "070707EF", "/proc/net/igmp"))
	require.NoError(h.t, err)
	return h.dump() + h.nft() + igmp
}

// Rules and tunnels that the kernel binds to the device's index go with its name, under a connection.
func TestBoundToTheIndexMoves(t *testing.T) {
	kernels(t, func(t *testing.T, _ *host, before func(string) error) {
		h := newBoundHost(t)
		plain := func(string) error { return nil }
		if before("rename a to b") == nil && strings.HasSuffix(t.Name(), "6.2") {
			plain = h.oldKernel
		}
		was := h.whole()
		x := startTransfer(t, h, h, "192.0.2.254:7001")
		const much = 1 << 20
		x.more(much)
		for range 2 {
			r := h.runWith(context.Background(), Env{Before: plain}, "network-bridge", "start", "bridge=xenbr0")
			require.Equal(t, 0, r.status, r.stderr)
			x.more(much)
			h.ping("192.0.2.254")
			require.NotContains(t, h.nft(), `"peth0"`)
			require.Contains(t, h.nft(), `iif "xenbr0" accept`)
			require.Contains(t, h.Show("-d", "link", "show", "vx0"), "dev xenbr0 ")
			igmp, err := h.Output(exec.Command("sh", "-c", `awk '/^[0-9]/ {d=$2} /070707EF/ {print d}' /proc/net/igmp`))
			require.NoError(t, err)
			require.Equal(t, "xenbr0\n", igmp)
			r = h.runWith(context.Background(), Env{Before: plain}, "network-bridge", "stop", "bridge=xenbr0")
			require.Equal(t, 0, r.status, r.stderr)
			x.more(much)
		}
		x.close()
		h.sameBy(h.whole, was, "stopped")
	})
}

// Each change fails once, with rules and tunnels in the transaction: all is as it was.
func TestBoundFailureAtEachChange(t *testing.T) {
	t.Parallel()
	h := newBoundHost(t)
	for _, command := range []string{"start", "stop"} {
		was := h.whole()
		for n := 1; ; n += stride(7) {
			i, failed := 0, ""
			r := h.runWith(context.Background(), Env{Before: func(what string) error {
				if i++; i == n {
					failed = what
					return errors.New("injected")
				}
				return nil
			}}, "network-bridge", command)
			if failed == "" {
				require.Equal(t, 0, r.status, r.stderr)
				break
			}
			if r.status == 0 { // only a help, or what comes after the point of no return
				back := map[string]string{"start": "stop", "stop": "start"}[command]
				require.Equal(t, 0, h.run("network-bridge", back).status)
				continue
			}
			require.Contains(t, r.stderr, "everything was put back as it was", failed)
			h.sameBy(h.whole, was, fmt.Sprintf("%s at change %d, %s", command, n, failed))
		}
	}
}

// The script is killed at each change, and the next run puts everything back.
func TestBoundKilledAtEachChange(t *testing.T) {
	t.Parallel()
	h := newBoundHost(t)
	for _, command := range []string{"start", "stop"} {
		was := h.whole()
		for n := 1; ; n += stride(7) {
			cmd := h.process(fmt.Sprintf("%d:kill", n), "network-bridge", command)
			out, err := h.Output(cmd)
			if err == nil {
				break
			}
			require.Contains(t, err.Error(), "killed", out)
			// Any run undoes it first.
			r := h.run("network-bridge", command, "bridge=null")
			require.Equal(t, 0, r.status, r.stderr)
			if strings.Contains(r.stderr, "the bridge is gone, so the rest is done") || command == "stop" && h.whole() != was {
				// Killed behind the point of no return.
				require.Equal(t, 0, h.run("network-bridge", "start").status)
				continue
			}
			h.sameBy(h.whole, was, fmt.Sprintf("%s at change %d", command, n))
		}
	}
}

// What cannot be moved is refused by name; force=yes, and xend's start, go on.
func TestBoundRefused(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.nftables("table inet f {\n chain in {\n type filter hook input priority 0;\n iif . ct state { eth0 . new } accept\n }\n}\n")
	fd := -1
	require.NoError(t, h.Do(func() (err error) {
		if fd, err = unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_IGMP); err != nil {
			return err
		}
		const mrtInit, mrtAddVif, useIndex = 200, 202, 0x8
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_IP, mrtInit, 1); err != nil {
			return err
		}
		vif := make([]byte, 16) // struct vifctl
		vif[2], vif[3] = useIndex, 1
		vif[8] = byte(h.Index("eth0"))
		return unix.SetsockoptString(fd, unix.IPPROTO_IP, mrtAddVif, string(vif))
	}))
	defer unix.Close(fd)
	for _, args := range []string{"qdisc add dev lo clsact", "filter add dev lo ingress protocol ip u32 match u32 0 0 indev eth0"} {
		out, err := h.Output(exec.Command("tc", strings.Fields(args)...))
		require.NoError(t, err, out)
	}
	was := h.dump() + h.nft()
	r := h.run("network-bridge", "start")
	require.Equal(t, 1, r.status)
	require.Contains(t, r.stderr, "cannot bridge eth0: a rule of the nftables chain inet f in names eth0 by its index in a way that cannot be moved")
	require.Contains(t, r.stderr, "multicast is routed by eth0; stop the multicast routing daemon")
	require.Contains(t, r.stderr, "a traffic filter on lo asks whether a packet came by eth0 (indev), and means its index; remove it, and add it again afterwards")
	require.Contains(t, r.stderr, "force=yes goes on nevertheless; nothing was changed")
	require.Contains(t, h.must("network-bridge", "start", "--dry-run").stdout, "what stands in the way, so that it would be refused (force=yes goes on nevertheless):\n     a rule of the nftables chain inet f in")
	require.Equal(t, was, h.dump()+h.nft())
	r = h.runWith(context.Background(), Env{Getenv: func(key string) string { return map[string]string{"XEND_START": "yes"}[key] }}, "network-bridge", "start")
	require.Equal(t, 0, r.status)
	require.Contains(t, r.stderr, "going on since xend starts")
	r = h.run("network-bridge", "stop", "force=yes")
	require.Equal(t, 0, r.status, r.stderr)
	r = h.run("network-bridge", "start", "force=yes")
	require.Equal(t, 0, r.status)
	require.Contains(t, r.stderr, "going on since force=yes")
}

// Programs whose sockets and memberships stay behind are named, but for the data plane's.
func TestProgramsAreNamed(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	require.NoError(t, h.Do(func() error {
		bound, err := (&net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
			var opErr error
			err := c.Control(func(fd uintptr) { opErr = unix.BindToDevice(int(fd), "eth0") })
			return errors.Join(err, opErr)
		}}).ListenPacket(context.Background(), "udp4", ":6868")
		if err != nil {
			return err
		}
		t.Cleanup(func() { bound.Close() })
		for _, group := range []string{"224.0.0.251:5353", "224.10.0.1:1798", "239.1.2.3:0"} {
			address := net.UDPAddrFromAddrPort(netip.MustParseAddrPort(group))
			device, err := net.InterfaceByName("eth0")
			if err != nil {
				return err
			}
			c, err := net.ListenMulticastUDP("udp4", device, address)
			if err != nil {
				return err
			}
			t.Cleanup(func() { c.Close() })
		}
		return nil
	}))
	out := h.must("network-bridge", "start", "--dry-run").stdout
	_, list, ok := strings.Cut(out, "what has to be seen to by hand:\n")
	require.True(t, ok, out)
	me := fmt.Sprintf("(process %s) has ", pid())
	require.Contains(t, list, me+"a UDP socket bound to eth0, port 6868, which does not follow: restart it afterwards")
	require.Contains(t, list, me+"joined the group 224.0.0.251 on eth0, which does not follow: restart it afterwards")
	require.Contains(t, list, "joined the group 239.1.2.3 on eth0")
	require.NotContains(t, list, "224.10.0.1")
	r := h.run("network-bridge", "start")
	require.Equal(t, 0, r.status)
	require.Contains(t, r.stderr, me+"a UDP socket bound to eth0, port 6868")
	r = h.run("network-bridge", "stop")
	require.Equal(t, 0, r.status, r.stderr)
}

// A DHCP client is named first: without it the host loses its address, whatever else goes on.
func TestDHCPClientsFirst(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	proc := t.TempDir()
	require.NoError(t, h.Do(func() error {
		for pid, comm := range map[string]string{"7": "collector", "8": "dhclient", "9": "sniffer"} {
			fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				return err
			}
			t.Cleanup(func() { unix.Close(fd) })
			if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: 0x0800, Ifindex: h.Index("eth0")}); err != nil {
				return err
			}
			var st unix.Stat_t
			if err := unix.Fstat(fd, &st); err != nil {
				return err
			}
			dir := filepath.Join(proc, pid)
			require.NoError(t, os.MkdirAll(filepath.Join(dir, "fd"), 0o755))
			require.NoError(t, os.WriteFile(filepath.Join(dir, "comm"), []byte(comm+"\n"), 0o644))
			require.NoError(t, os.Symlink(fmt.Sprintf("socket:[%d]", st.Ino), filepath.Join(dir, "fd", "3")))
		}
		list := bound.Programs(h.Index("eth0"), "eth0", proc, func(netip.Addr) bool { return false })
		var names []string
		for _, p := range list {
			if p.Pid != 0 {
				names = append(names, p.Name)
			}
		}
		require.ElementsMatch(t, []string{"dhclient", "collector", "sniffer"}, names)
		require.Equal(t, "dhclient", names[0])
		require.True(t, list[0].DHCP)
		return nil
	}))
}
