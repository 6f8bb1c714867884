package netscripts

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Why start does nothing, or refuses; in both cases nothing has changed.
func TestStartDoesNothing(t *testing.T) {
	for _, c := range []struct {
		name   string
		setup  string // ip commands
		args   []string
		status int
		text   string // of either output
	}{
		{"null", "", []string{"bridge=null"}, 0, "nothing to do: bridge=null asks for no bridge"},
		{"an admin's bridge", "link add br7 type bridge\nlink add v0 type veth peer name v1\nlink set v0 master br7", []string{"bridge=br7"}, 0,
			"nothing to do: br7 is a bridge already (ports: v0); domains can use it as it is"},
		{"the default route's bridge", "link add br7 type bridge\nlink set br7 up\naddr add 198.18.0.1/24 dev br7\nroute add default via 198.18.0.2 metric 1\nroute del default via 192.0.2.254", nil, 0,
			"nothing to do: br7 is a bridge already (no ports); domains can use it as it is"},
		{"a port of an admin's", "link add br7 type bridge\nlink set eth0 master br7", []string{"netdev=eth0", "bridge=xenbr0"}, 0,
			"nothing to do: eth0 is a port of the bridge br7 already; domains can use that"},
		{"bridged before", "link add peth0 type veth peer name v1", nil, 0, "nothing to do: there is a device peth0 already, so eth0 has been bridged before"},
		{"no such device", "", []string{"netdev=eth7"}, 1, "there is no device eth7; name the right one with netdev=; nothing was changed"},
		{"long name", "link add verylongname12x type veth peer name v1", []string{"netdev=verylongname12x"}, 1,
			"its new name pverylongname12x would be longer than 15 characters"},
		{"bad bridge name", "", []string{"bridge=a/b"}, 1, `bad device name "a/b"`},
		{"bridge name taken", "link add xenbr0 type veth peer name v1", []string{"bridge=xenbr0"}, 1, "there is a device of that name (xenbr0 (veth"},
		{"loopback", "", []string{"netdev=lo"}, 1, "cannot bridge lo: it is the loopback device"},
		{"a vnet's", "link add vnif9 type veth peer name v1\nlink set vnif9 alias 'xend vnet 0:0:0:0:0:0:0:9'", []string{"netdev=vnif9"}, 1, "cannot bridge vnif9: it belongs to a vnet"},
		{"a vnet's bridge", "link add vnet9 type bridge\nlink set vnet9 alias 'xend vnet 0:0:0:0:0:0:0:9'", []string{"netdev=vnet9"}, 1, "cannot bridge vnet9: it"},
		{"a port of a vnet's", "link add vnet9 type bridge\nlink set vnet9 alias 'xend vnet 0:0:0:0:0:0:0:9'\nlink set eth0 master vnet9", nil, 0,
			"nothing to do: eth0 is a port of the bridge vnet9 already; domains can use that"},
		{"misspelt", "", []string{"netdv=eth1", "bridge=null"}, 0, ""},
		{"no Ethernet", "tuntap add tun0 mode tun", []string{"netdev=tun0"}, 1, "cannot bridge tun0: it is no Ethernet device"},
		{"bad antispoof", "", []string{"antispoof=perhaps"}, 1, "antispoof=perhaps: expected yes or no"},
		{"half quoted", "", []string{`netdev="eth`}, 1, `netdev="eth: the quotes do not match`},
		{"macvlan", "link add link eth0 name m0 type macvlan", nil, 1, "cannot bridge eth0: the macvlan m0 stands on it"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			h := newHost(t)
			if out, err := h.TryIP(c.setup); c.setup != "" && err != nil {
				if strings.Contains(out, "Unknown device type") || strings.Contains(out, "tun") {
					t.Skip("this kernel lacks it; test-vm has it: " + out)
				}
				require.NoError(t, err, out)
			}
			h.waitForAddresses() // also those of what setup made
			was := h.dump()
			r := h.run(append([]string{"network-bridge", "start"}, c.args...)...)
			require.Equal(t, c.status, r.status, r.stderr)
			if c.name == "misspelt" {
				require.Contains(t, r.stderr, "there is no variable netdv (is netdev meant?); netdv=eth1 has no effect")
			} else if c.status == 0 {
				require.Contains(t, r.stdout, c.text)
				require.Empty(t, r.stderr)
			} else {
				require.Contains(t, r.stderr, c.text)
				if c.name == "half quoted" {
					return // the log is not open yet
				}
				log, err := os.ReadFile(filepath.Join(h.prefix, "var/log/xen/xen-hotplug.log"))
				require.NoError(t, err)
				require.Contains(t, string(log), c.text)
			}
			h.same(was, "refusal")
		})
	}
}

func TestUnknownCommand(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	for _, name := range []string{"network-bridge", "network-vnet"} {
		r := h.run(name, "netdev=eth0", "frob", "x=y")
		require.Equal(t, result{1, "", "Unknown command: frob\nValid commands are: start, stop, status\n"}, r)
		r = h.run(name)
		require.Equal(t, result{1, "", "Unknown command: \nValid commands are: start, stop, status\n"}, r)
		r = h.run(name, "--frob")
		require.Equal(t, result{1, "", name + ": unknown option --frob\n"}, r)
		require.Contains(t, h.must(name, "--help").stdout, "usage: "+name)
	}
	require.Equal(t, 1, h.run("network-frob", "start").status)
}

// A vnet's bridges do not count, whoever made them.
func TestVnetBridgesDoNotCount(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.IP(`link add vnet97 type bridge
link set vnet97 alias 'xend vnet 0000:0000:0000:0000:0000:0000:0000:0097'
link add mybridge type bridge
link add vnif98 type veth peer name x98
link set vnif98 alias 'xend vnet 0000:0000:0000:0000:0000:0000:0000:0098'
link set vnif98 master mybridge
link add admins type bridge`)
	// Configured for a vnet, and xend does not run yet.
	vnets := filepath.Join(h.prefix, "var/lib/xend/vnets")
	require.NoError(t, os.MkdirAll(vnets, 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(vnets, "0000-0000-0000-0000-0000-0000-0000-0099.sxp"), []byte("(vnet (id 99) (bridge admins))\n"), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(vnets, "bad.sxp"), []byte("(vnet"), 0o600))
	was := h.dump()
	require.Contains(t, h.must("network-vnet", "start").stdout, "eth0 is a bridge now")
	require.Contains(t, h.must("network-vnet", "start").stdout, "nothing to do")
	require.Contains(t, h.must("network-vnet", "status").stdout, "port peth0")
	require.Contains(t, h.must("network-vnet", "stop").stdout, "is gone")
	h.same(was, "stop")
	require.Equal(t, result{}, h.run("vnet-insert"))
}

func TestChoice(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	env := Env{}
	dry := func(args ...string) string {
		t.Helper()
		r := h.runWith(context.Background(), env, append([]string{"network-bridge", "start", "--dry-run"}, args...)...)
		require.Equal(t, 0, r.status, r.stderr)
		return r.stdout
	}
	h.IP("link add eth1 type veth peer name eth3")
	was := h.dump()
	require.Contains(t, dry(), "create the bridge eth0,")
	require.Contains(t, dry("bridge=xenbr7"), "create the bridge xenbr7,")
	require.Contains(t, dry(`bridge="xenbr7"`, `netdev='eth1'`), "create the bridge xenbr7,")
	require.Contains(t, dry("antispoofing=yes"), "let domains on eth0 use only the addresses given to them")
	require.Contains(t, dry("vifnum=3"), "create the bridge xenbr3,")
	require.Contains(t, dry("vifnum=3"), "rename eth0 to peth0", "the default route decides")
	require.Contains(t, dry("netdev=eth1"), "rename eth1 to peth1")
	require.Contains(t, dry("netdev=eth1"), "create the bridge eth1,")
	env.Getenv = func(key string) string { return map[string]string{"netdev": "eth1", "bridge": "xenbr9"}[key] }
	require.Contains(t, dry(), "rename eth1 to peth1")
	require.Contains(t, dry("bridge=xenbr8"), "create the bridge xenbr8,", "arguments override the environment")
	env.Getenv = nil
	h.same(was, "dry runs")

	h.IP("route del default via 192.0.2.254")
	require.Contains(t, dry(), "rename eth0", "the default route of IPv6")
	h.IP("route del default via 2001:db8::254")
	require.Contains(t, dry(), "rename eth0", "eth0 in the end")
	require.Contains(t, dry("vifnum=3"), "rename eth3 to peth3")
	h.IP("link set eth1 up\nlink set eth3 up\naddr add 198.18.0.1/24 dev eth1\nroute add default nexthop via 198.18.0.2 dev eth1 nexthop via 192.0.2.254 dev eth0")
	require.Contains(t, dry(), "rename eth1 to peth1", "the first next hop")
	h.IP("route add default via 192.0.2.254 dev eth0 metric 5")
	require.Contains(t, dry(), "rename eth1 to peth1", "the lowest metric")
}

func TestDryRunShowsEverything(t *testing.T) {
	t.Parallel()
	h := newRichHost(t)
	was := h.dump()
	out := h.must("network-bridge", "start", "--dry-run", "antispoof=yes").stdout
	for _, text := range []string{
		"1. create the bridge eth0, for now as xendtmp", "2. rename eth0 to peth0", "use only the addresses given to them",
		"address 192.0.2.9/24 on eth0\n", "address 10.1.0.1/16 on eth0 for ", "route to 10.4.0.0/16 via 192.0.2.253 on eth0 table 100\n",
		"route to 10.6.0.0/16 via 192.0.2.253 on eth0 via 192.0.2.252 on eth0\n", "next hop 6 (group of [7])\n",
		"route to ::/0 via fe80::99 on eth0 metric 2000 for ", "neighbour 192.0.2.200 on eth0 at 02:00:00:00:02:00 (permanent)\n",
	} {
		require.Contains(t, out, text)
	}
	require.NotContains(t, out, "198.51.100.0/25", "what the kernel makes by itself")
	h.same(was, "dry run")
	require.Equal(t, 0, h.run("network-bridge", "start").status)
	was = h.dump()
	require.Contains(t, h.must("network-bridge", "stop", "--dry-run").stdout, "delete the bridge")
	h.same(was, "dry run of stop")
}

func TestStatus(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	out := h.must("network-bridge", "status").stdout
	require.Contains(t, out, "eth0: veth, up, MAC 02:00:00:00:00:01, MTU 1500\n  address 192.0.2.1/24 on eth0\n")
	require.Contains(t, out, "  route to 0.0.0.0/0 via 192.0.2.254 on eth0\n")
	require.Contains(t, h.must("network-bridge", "status", "netdev=eth9").stdout, "there is no device eth9\n")
	require.Equal(t, 0, h.run("network-bridge", "start", "bridge=xenbr0", "antispoof=yes").status)
	out = h.must("network-bridge", "status").stdout
	require.Contains(t, out, "peth0: veth, up, MAC 02:00:00:00:00:01, MTU 1500\nxenbr0: bridge, up, MAC 02:00:00:00:00:01, MTU 1500\n  port peth0\n  antispoof")
	require.Contains(t, out, "  address 192.0.2.1/24 on xenbr0\n")
}

// stop without arguments finds what start with arguments made.
func TestStopFindsTheBridge(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	was := h.dump()
	for _, stop := range [][]string{{}, {"netdev=eth0"}, {"bridge=xenbr5"}, {"vifnum=5"}, {"netdev=eth0", "bridge=xenbr5"}} {
		h.must("network-bridge", "start", "bridge=xenbr5")
		require.Contains(t, h.must("network-bridge", "stop", "bridge=other").stdout, "nothing to do: there is no bridge other")
		require.Contains(t, h.must(append([]string{"network-bridge", "stop"}, stop...)...).stdout, "the bridge xenbr5 is gone; eth0 has")
		h.same(was, strings.Join(stop, " "))
	}
	// The journal is a help, no more.
	h.must("network-bridge", "start")
	require.NoError(t, os.RemoveAll(filepath.Join(h.prefix, "run")))
	require.Contains(t, h.must("network-bridge", "stop").stdout, "the bridge eth0 is gone")
	h.same(was, "stop without the journal")
}

func TestStopRefuses(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.IP("link add br0 type bridge\nlink set br0 up")
	require.Contains(t, h.must("network-bridge", "stop", "bridge=br0", "netdev=eth0").stdout, "nothing to do: br0 was not made by network-bridge start: no device peth0 is a port of it")
	h.IP("link del br0")
	h.must("network-bridge", "start")
	h.IP("link add vif1.0 type veth peer name d1\nlink add vif2.0 type veth peer name d2\nlink set vif1.0 master eth0\nlink set vif2.0 master eth0")
	was := h.dump()
	r := h.run("network-bridge", "stop")
	require.Equal(t, 1, r.status)
	require.Contains(t, r.stderr, "cannot remove the bridge eth0: it still has the ports vif1.0, vif2.0; shut those domains down or take the ports off first; nothing was changed")
	h.same(was, "refusal")
	h.IP("link del vif1.0\nlink del vif2.0")
	if _, err := h.TryIP("link add link eth0 name eth0.7 type vlan id 7"); err == nil {
		r := h.run("network-bridge", "stop")
		require.Equal(t, 1, r.status)
		require.Contains(t, r.stderr, "the devices eth0.7 stand on it and would go with it")
		h.IP("link del eth0.7")
	}
	require.Contains(t, h.must("network-bridge", "stop").stdout, "is gone")
}

// A port that comes while stop works, from a script that takes no lock, is not cut off.
func TestPortComesDuringStop(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.must("network-bridge", "start")
	h.IP("link add vif1.0 type veth peer name d1")
	was := h.dump()
	r := h.runWith(context.Background(), Env{Before: func(what string) error {
		if strings.HasPrefix(what, "note step 8") {
			h.IP("link set vif1.0 master xendtmp" + pid())
		}
		return nil
	}}, "network-bridge", "stop")
	require.Equal(t, 1, r.status)
	require.Contains(t, r.stderr, "it got the ports vif1.0 meanwhile")
	h.IP("link set vif1.0 nomaster")
	h.same(was, "port came")
}

func TestNoLink(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.far.IP("link set eth0 down")
	was := h.dump()
	r := h.runWith(context.Background(), Env{LinkTimeout: 50 * time.Millisecond}, "network-bridge", "start")
	require.Equal(t, 0, r.status, r.stderr)
	require.Contains(t, r.stderr, "peth0 has no link after 50ms; going on without (is the cable in?)")
	r = h.runWith(context.Background(), Env{LinkTimeout: 50 * time.Millisecond}, "network-bridge", "stop")
	require.Equal(t, 0, r.status, r.stderr)
	h.same(was, "without link")
}

// Root is the prefix of a machine whose root file system comes from the network.
func TestRootOnTheNetwork(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.IP("link add eth1 type veth peer name v1\nlink set eth1 up\nlink set v1 up\naddr add 198.18.0.1/24 dev eth1")
	h.waitForAddresses()
	was := h.dump()
	for _, c := range []struct {
		name, mount string
		files       map[string]string // below sys; "-> target" is a link
		text        string            // "": not refused
	}{
		{"disk", "8:1 / / rw - ext4 /dev/sda1 rw", map[string]string{
			"devices/pci/ata1/block/sda/sda1/partition": "1", "dev/block/8:1": "-> ../../devices/pci/ata1/block/sda/sda1",
		}, ""},
		{"nfs", "0:20 / / rw - nfs 192.0.2.254:/srv rw,vers=3,addr=192.0.2.254", nil, "refusing to touch eth0: it carries the root file system (NFS from 192.0.2.254:/srv)"},
		{"nfs over IPv6", "0:20 / / rw - nfs4 [2001:db8::254]:/srv rw,addr=2001:db8::254", nil, "it carries the root file system (NFS from"},
		{"nfs over another device", "0:20 / / rw - nfs 198.18.0.9:/srv rw,addr=198.18.0.9", nil, ""},
		{"nfs without an address", "0:20 / / rw - nfs server:/srv rw", nil, "which device that uses cannot be told (the server's address is unknown)"},
		{"nbd", "43:0 / / rw - ext4 /dev/nbd0 rw", map[string]string{
			"devices/virtual/block/nbd0/size": "1", "dev/block/43:0": "-> ../../devices/virtual/block/nbd0",
		}, "the root file system is on the network block device nbd0"},
		{"iscsi under lvm", "253:0 / / rw - xfs /dev/mapper/root rw", map[string]string{
			"devices/platform/host2/session1/target2:0:0/2:0:0:1/block/sdb/sdb2/partition": "2",
			"devices/virtual/block/dm-0/slaves/sdb2":                                       "-> ../../../../platform/host2/session1/target2:0:0/2:0:0:1/block/sdb/sdb2",
			"dev/block/253:0":                                                              "-> ../../devices/virtual/block/dm-0",
			"class/iscsi_connection/connection1:0/address":                                 "192.0.2.77\n",
		}, "it carries the root file system (the iSCSI disk sdb from 192.0.2.77)"},
		{"nvme over tcp", "259:1 / / rw - ext4 /dev/nvme1n1 rw", map[string]string{
			"devices/virtual/nvme-fabrics/ctl/nvme1/nvme1n1/size": "1", "dev/block/259:1": "-> ../../devices/virtual/nvme-fabrics/ctl/nvme1/nvme1n1",
			"class/nvme/nvme1/transport": "tcp\n", "class/nvme/nvme1/address": "traddr=192.0.2.78,trsvcid=4420\n",
		}, "it carries the root file system (the NVMe disk nvme1 over tcp)"},
		{"nvme", "259:1 / / rw - ext4 /dev/nvme0n1 rw", map[string]string{
			"devices/pci/nvme0/nvme0n1/size": "1", "dev/block/259:1": "-> ../../devices/pci/nvme0/nvme0n1",
			"class/nvme/nvme0/transport": "pcie\n",
		}, ""},
	} {
		dir := t.TempDir()
		write := func(path, text string) {
			path = filepath.Join(dir, path)
			require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
			if target, ok := strings.CutPrefix(text, "-> "); ok {
				require.NoError(t, os.Symlink(target, path))
			} else {
				require.NoError(t, os.WriteFile(path, []byte(text), 0o644))
			}
		}
		write("proc/self/mountinfo", "1 0 0:1 / / rw - rootfs rootfs rw\n22 1 "+c.mount+"\n23 22 0:5 / /proc rw - proc proc rw\n")
		for path, text := range c.files {
			write("sys/"+path, text)
		}
		env := Env{Proc: filepath.Join(dir, "proc"), Sys: filepath.Join(dir, "sys")}
		r := h.runWith(context.Background(), env, "network-bridge", "start", "--dry-run")
		if c.text == "" {
			require.Equal(t, 0, r.status, c.name+": "+r.stderr)
		} else {
			require.Equal(t, 1, r.status, c.name)
			require.Contains(t, r.stderr, c.text, c.name)
		}
	}
	h.same(was, "refusals")
}
