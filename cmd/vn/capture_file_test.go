package main

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/xenvnet/xend/internal/lab"
	"github.com/xenvnet/xend/internal/nettest"
)

// levels are those of the vnets 97, 98 and 99.
var levels = []string{"none", "conf", "auth"}

// overheard returns what passed the underlay of host A while A and B started and their domains pinged each other in three vnets,
// with packets so large that they go in fragments.
func overheard(t *testing.T) (f *faultLab, frames []lab.Frame) {
	t.Helper()
	f = newFaultLab(t, "A", "B")
	wire, err := f.hosts[a].Capture("eth0", nil)
	require.NoError(t, err)
	for i, h := range f.hosts {
		dir := filepath.Join(h.Dir, "etc/xen/vnet-keys")
		require.NoError(t, os.MkdirAll(dir, 0o700))
		if i == 0 {
			f.sh(i, "vn key-generate")
		} else {
			b, err := os.ReadFile(filepath.Join(f.hosts[a].Dir, "etc/xen/vnet-keys/default.key"))
			require.NoError(t, err)
			require.NoError(t, os.WriteFile(filepath.Join(dir, "default.key"), b, 0o600))
		}
		f.sh(i, "xend start")
		for n, level := range levels {
			f.sh(i, fmt.Sprintf("echo '(vnet (id %[1]d) (bridge vnet%[1]d) (vnetif vnif%[1]d) (security %[2]s))' >$XEND_PREFIX/v.sxp && xm vnet-create $XEND_PREFIX/v.sxp", 97+n, level))
		}
	}
	for n := range levels {
		var domains []*lab.Domain
		for i, h := range f.hosts {
			d, err := h.Domain(lab.DomainSpec{
				Name: fmt.Sprintf("dom%d-%d", i, 97+n), Vif: fmt.Sprintf("vif%d.%d", 97+n, i), Bridge: fmt.Sprintf("vnet%d", 97+n), MAC: net.HardwareAddr{0, 0x16, 0x3e, 0, byte(97 + n), byte(i + 1)},
				Addrs: []netip.Prefix{netip.MustParsePrefix(fmt.Sprintf("10.%d.0.%d/24", 97+n, i+1))},
			})
			require.NoError(t, err)
			domains = append(domains, d)
			require.NoError(t, h.AwaitForwarding(nettest.Soon(t), fmt.Sprintf("vnet%d", 97+n)))
		}
		_, err := domains[0].Ping(nettest.Soon(t), domains[1].Addr(), lab.PingOptions{Size: 1472})
		require.NoError(t, err)
	}
	// A ping between the hosts themselves tells that all before it is here.
	f.sh(a, "ping -c 1 -w 20 "+f.hosts[b].Addr().String())
	for {
		x, err := wire.Next(nettest.Soon(t))
		require.NoError(t, err)
		frames = append(frames, x)
		const icmp = 1
		if len(x.Data) > 34 && x.EtherType() == 0x0800 && x.Data[23] == icmp && x.Data[34] == 0 {
			return f, frames
		}
	}
}

// write writes frames as tcpdump would.
func write(t *testing.T, file string, frames []lab.Frame) {
	t.Helper()
	f, err := os.Create(file)
	require.NoError(t, err)
	defer f.Close()
	w := pcapgo.NewWriter(f)
	require.NoError(t, w.WriteFileHeader(1<<18, layers.LinkTypeEthernet))
	for _, x := range frames {
		require.NoError(t, w.WritePacket(gopacket.CaptureInfo{Timestamp: x.Time, CaptureLength: len(x.Data), Length: len(x.Data)}, x.Data))
	}
}

// What another program captured is shown, and opened with the keys of the key folder, wherever in the file the KEY messages are; and
// tshark reads what was written, and what running hosts send.
func TestCaptureFile(t *testing.T) {
	f, frames := overheard(t)
	dir := t.TempDir()
	file := filepath.Join(dir, "eth0.pcap")
	write(t, file, frames)
	slices.Reverse(frames)
	backwards := filepath.Join(dir, "backwards.pcap")
	write(t, backwards, frames)

	out := func(n int) string { return filepath.Join(dir, fmt.Sprintf("%d.pcapng", 97+n)) }
	for n, level := range levels {
		said := f.sh(a, fmt.Sprintf("vn capture -r %s -w %s %d 2>&1", file, out(n), 97+n))
		require.Contains(t, said, "packets written")
		info, err := os.Stat(out(n))
		require.NoError(t, err)
		require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
		inside := ""
		if level != "none" {
			inside = "inside of ESP: "
		}
		for _, file := range []string{file, backwards} {
			shown := f.sh(a, fmt.Sprintf("vn capture -r %s %d 2>&1", file, 97+n))
			for _, text := range []string{"VUDP from 10.9.1.1 to 10.9.1.2 by unicast", "VUDP from 10.9.1.2 to 10.9.1.1 by unicast", "to 224.10.0.1 by the group", "put together from fragments"} {
				require.Contains(t, shown, text, level)
			}
			require.Contains(t, shown, inside+"VUDP from", level)
			require.Equal(t, level != "none", strings.Contains(shown, "KEY or ASK message of this vnet"), level)
			require.NotContains(t, shown, "seen")
		}
	}

	// What would show the content to others, or spoil the recording, is not done.
	require.Contains(t, f.sh(a, fmt.Sprintf("vn capture -r %[1]s -w %[1]s 98 2>&1 || true", backwards)), "this is the file that is read")
	open := filepath.Join(dir, "open.pcapng")
	require.NoError(t, os.WriteFile(open, []byte("kept"), 0o600))
	require.NoError(t, os.Chmod(open, 0o644))
	require.Contains(t, f.sh(a, fmt.Sprintf("vn capture -r %s -w %s 98 2>&1 || true", file, open)), "others may read this file (mode 0644)")
	b, err := os.ReadFile(open)
	require.NoError(t, err)
	require.Equal(t, "kept", string(b))
	// Without the daemon, and without the key.
	f.sh(a, "xend stop")
	require.Contains(t, f.sh(a, fmt.Sprintf("vn capture -r %s 98 2>&1", file)), "inside of ESP: VUDP from")
	require.NoError(t, os.RemoveAll(filepath.Join(f.hosts[a].Dir, "etc/xen/vnet-keys")))
	require.Contains(t, f.sh(a, fmt.Sprintf("vn capture -r %s 98 2>&1", file)), "ESP packets were not opened: there is no key of vnet 98 on this host")

	if _, err := exec.LookPath("tshark"); err != nil {
		t.Skip("tshark is not installed; make test installs it")
	}
	tshark := func(file, filter string, fields ...string) string {
		args := []string{"-X", "lua_script:../../wireshark/xend.lua", "-r", file, "-Y", filter, "-T", "fields", "-E", "separator=/s"}
		for _, field := range fields {
			args = append(args, "-e", field)
		}
		cmd := exec.CommandContext(t.Context(), "tshark", args...)
		var said strings.Builder
		cmd.Stderr = &said
		b, err := cmd.Output()
		require.NoError(t, err, said.String())
		assert.NotContains(t, said.String(), "Lua")
		return string(b)
	}
	for n, level := range levels {
		got := tshark(out(n), "icmp.type == 0", "vnet.id", "ip.src")
		require.Contains(t, got, fmt.Sprintf("%d 10.9.1.2,10.%d.0.2", 97+n, 97+n), level)
	}
	wire := tshark(file, "vnet || vnet_key || esp", "_ws.col.Protocol")
	for _, protocol := range []string{"VARP", "KEY", "ASK", "ESP", "vnet 97 ICMP"} {
		require.Contains(t, wire, protocol)
	}
	require.Empty(t, tshark(file, "vnet.short || vnet.version || vnet.unknown || (vnet && _ws.malformed)", "frame.number", "_ws.col.Info"))
}
