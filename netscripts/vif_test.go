package netscripts

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// xenhost is a machine with a bridge xenbr0, an interface vif1.0 and a xenstore that is a directory.
type xenhost struct {
	*host
	env map[string]string
}

const backend = "backend/vif/1/0"

func newXenHost(t testing.TB) *xenhost {
	h := newHost(t)
	h.IP(`link add xenbr0 type bridge
link set xenbr0 mtu 1400 up
link add vif1.0 type veth peer name dom1`)
	x := &xenhost{h, map[string]string{"XENBUS_PATH": backend, "vif": "vif1.0", "type_if": "vif"}}
	x.tools()
	return x
}

// tools puts xenstore-read and xenstore-write on the PATH.
func (x *xenhost) tools() {
	dir := filepath.Join(x.prefix, "bin")
	require.NoError(x.t, os.MkdirAll(dir, 0o755))
	for name, text := range map[string]string{
		"xenstore-read":  `[ -f "$S/$1" ] && exec cat "$S/$1"; echo "xenstore-read: couldn't read path $1" >&2; exit 1`,
		"xenstore-write": `mkdir -p "$S/${1%/*}" && printf %s "$2" >"$S/$1" && echo "$1=$2" >>"$S/log"`,
	} {
		text = "#!/bin/sh\nPATH=/usr/bin:/bin\nS=" + x.prefix + "/store\n" + text + "\n"
		require.NoError(x.t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o755))
	}
	x.env["PATH"] = dir
}

func (x *xenhost) store(key, value string) {
	path := filepath.Join(x.prefix, "store", backend, key)
	require.NoError(x.t, os.MkdirAll(filepath.Dir(path), 0o755))
	require.NoError(x.t, os.WriteFile(path, []byte(value+"\n"), 0o644))
}

// stored is what was written below the backend path.
func (x *xenhost) stored(key string) string {
	b, err := os.ReadFile(filepath.Join(x.prefix, "store", backend, key))
	if err != nil {
		return "(absent)"
	}
	return strings.TrimSpace(string(b))
}

func (x *xenhost) vif(args ...string) result {
	return x.runWith(context.Background(), Env{Getenv: func(key string) string { return x.env[key] }}, append([]string{"vif-bridge"}, args...)...)
}

func (x *xenhost) attached(dev, bridge string) {
	x.t.Helper()
	l, err := x.LinkByName(dev)
	require.NoError(x.t, err)
	require.Equal(x.t, bridge, x.master(dev))
	require.True(x.t, l.Up())
	require.Equal(x.t, "fe:ff:ff:ff:ff:ff", l.MAC.String())
	require.Empty(x.t, x.Show("-o", "addr", "show", "dev", dev))
}

// master is the name of the bridge that a device is on.
func (h *host) master(dev string) string {
	l, err := h.LinkByName(dev)
	require.NoError(h.t, err)
	if l.Master == 0 {
		return ""
	}
	m, err := h.LinkByIndex(l.Master)
	require.NoError(h.t, err)
	return m.Name
}

// nft is the whole ruleset as the nft program shows it.
func (h *host) nft() string {
	if _, err := exec.LookPath("nft"); err != nil {
		h.t.Skip("the nft program is not there to check with")
	}
	out, err := h.Output(exec.Command("nft", "list", "ruleset"))
	require.NoError(h.t, err, out)
	return out
}

func TestOnlineOffline(t *testing.T) {
	t.Parallel()
	x := newXenHost(t)
	x.IP("addr add 10.0.0.1/24 dev vif1.0")
	require.Equal(t, result{}, x.vif("online", "type_if=vif"))
	x.attached("vif1.0", "xenbr0")
	require.Equal(t, 1400, x.mtu("vif1.0"))
	require.Equal(t, "connected", x.stored("hotplug-status"))
	require.Equal(t, result{}, x.vif("online", "type_if=vif"), "twice")
	x.attached("vif1.0", "xenbr0")

	require.Equal(t, result{}, x.vif("add"), "for a tap")
	require.Equal(t, result{}, x.vif("remove"))
	x.attached("vif1.0", "xenbr0")

	require.Equal(t, result{}, x.vif("offline"))
	l, err := x.LinkByName("vif1.0")
	require.NoError(t, err)
	require.False(t, l.Up())
	require.Zero(t, l.Master)
	require.Equal(t, result{}, x.vif("offline"), "twice")
	x.IP("link del vif1.0")
	require.Equal(t, result{}, x.vif("offline"), "gone")
	x.IP("link del xenbr0")
	x.env["bridge"] = "xenbr0"
	require.Equal(t, result{}, x.vif("offline"), "bridge gone as well")
	require.Equal(t, "connected", x.stored("hotplug-status"), "left to the toolstack")
}

func (h *host) mtu(dev string) int {
	l, err := h.LinkByName(dev)
	require.NoError(h.t, err)
	return l.MTU
}

// Parameters come from the environment, then arguments, then xenstore.
func TestVifParameters(t *testing.T) {
	t.Parallel()
	x := newXenHost(t)
	x.IP("link add br1 type bridge\nlink add br2 type bridge\nlink add br3 type bridge")
	r := x.vif("online")
	require.Equal(t, 1, r.status)
	require.Contains(t, r.stderr, "no bridge is given, and this machine has several: br1, br2, br3, xenbr0; say bridge=NAME in the domain's vif")
	x.env["bridge"] = "br2"
	require.Equal(t, 0, x.vif("online").status)
	require.Equal(t, "br2", x.master("vif1.0"))
	require.Equal(t, 0, x.vif("bridge=br3", "online").status)
	require.Equal(t, "br3", x.master("vif1.0"))
	x.store("bridge", "xenbr0")
	x.store("mtu", "1300")
	x.store("vifname", "web0")
	require.Equal(t, 0, x.vif("bridge=br3", "online").status)
	x.attached("web0", "xenbr0")
	require.Equal(t, 1300, x.mtu("web0"))
	require.Equal(t, 0, x.vif("online").status, "renamed already")
	x.attached("web0", "xenbr0")
	require.Equal(t, 0, x.vif("offline").status)
	require.Equal(t, "", x.master("web0"))
}

// An old kernel renames only what is down.
func TestVifnameOfDeviceThatIsUp(t *testing.T) {
	t.Parallel()
	x := newXenHost(t)
	x.IP("link set vif1.0 up")
	r := x.runWith(context.Background(), Env{Before: x.oldKernel, Getenv: func(key string) string { return x.env[key] }}, "vif-bridge", "online", "vifname=web0")
	require.Equal(t, result{}, r)
	x.attached("web0", "xenbr0")
}

func TestBridgeNames(t *testing.T) {
	t.Parallel()
	x := newXenHost(t)
	x.IP("link add eth3 type bridge\nlink add eth4 type veth peer name v4")
	require.Equal(t, 0, x.vif("online", "bridge=xenbr3").status)
	require.Equal(t, "eth3", x.master("vif1.0"))
	for bridge, text := range map[string]string{
		"xenbr4": "there is no bridge xenbr4",
		"br9":    "there is no bridge br9",
		"eth4":   "is not a bridge",
	} {
		x.store("hotplug-status", "")
		r := x.vif("online", "bridge="+bridge)
		require.Equal(t, 1, r.status)
		require.Contains(t, r.stderr, text)
		require.Equal(t, "error", x.stored("hotplug-status"))
		require.Contains(t, x.stored("hotplug-error"), text)
	}
	// Of the machine's bridges, those of vnets are nobody's default.
	x.IP("link del eth3\nlink del xenbr0\nlink add aaa type bridge\nlink set aaa alias 'xend vnet 0000:0000:0000:0000:0000:0000:0000:0097'")
	r := x.vif("online")
	require.Equal(t, 1, r.status)
	require.Contains(t, r.stderr, "no bridge is given, and this machine has none but those of vnets")
	require.Equal(t, 0, x.vif("online", "bridge=aaa").status)
}

func TestVifErrors(t *testing.T) {
	t.Parallel()
	x := newXenHost(t)
	for _, c := range []struct {
		args []string
		text string
	}{
		{[]string{"frob"}, "Unknown command: frob\nValid commands are: add, remove, online, offline"},
		{[]string{"online", "type_if=frob"}, "type_if=frob: expected vif or tap"},
		{[]string{"online", "vif=vif9.9"}, "there is no device vif9.9"},
		{[]string{"online", "vif="}, "the variable vif is not set"},
		{[]string{"add", "type_if=tap"}, "the variable INTERFACE is not set"},
		{[]string{"online", "ip=10.0.0.256"}, `ip=10.0.0.256: "10.0.0.256" is not an address`},
		{[]string{"online", "mac=00:16"}, "mac=00:16 is not an Ethernet address"},
		{[]string{"online", "mtu=big"}, "mtu=big: expected a number from 68 to 65535"},
		{[]string{"online", "vifname=eth0"}, "vifname=eth0: there is a device of that name"},
		{[]string{"online", "vifname=a/b"}, `vifname: bad device name "a/b"`},
	} {
		x.store("hotplug-status", "")
		r := x.vif(c.args...)
		require.Equal(t, 1, r.status, c.text)
		require.Contains(t, r.stderr, c.text)
		require.Equal(t, "error", x.stored("hotplug-status"), c.text)
		require.Contains(t, x.stored("hotplug-error"), strings.Split(c.text, "\n")[0])
		require.Equal(t, "", x.master("vif1.0"), c.text)
	}
	// An MTU that the device does not take is no reason to leave a domain without network.
	r := x.vif("online", "mtu=65535")
	require.Equal(t, 0, r.status, r.stderr)
}

// Without the xenstore tools, without a daemon behind them, without a path.
func TestWithoutXenstore(t *testing.T) {
	t.Parallel()
	x := newXenHost(t)
	x.env["PATH"] = "/nonexistent"
	require.Equal(t, result{}, x.vif("online"))
	x.attached("vif1.0", "xenbr0")
	require.Equal(t, result{}, x.vif("offline"))
	x.tools()
	delete(x.env, "XENBUS_PATH")
	require.Equal(t, result{}, x.vif("online"))
	require.Equal(t, result{}, x.vif("offline"))
	x.env["XENBUS_PATH"] = backend
	require.NoError(t, os.WriteFile(filepath.Join(x.prefix, "bin/xenstore-write"), []byte("#!/bin/sh\necho 'no daemon' >&2\nexit 1\n"), 0o755))
	r := x.vif("online")
	require.Equal(t, 0, r.status)
	require.Contains(t, r.stderr, "no daemon")
	x.attached("vif1.0", "xenbr0")
}

func TestTap(t *testing.T) {
	t.Parallel()
	x := newXenHost(t)
	x.IP("link add tap1.0 type veth peer name t1\nlink add vif1.0-emu type veth peer name t2")
	delete(x.env, "XENBUS_PATH")
	x.env["type_if"] = "tap"
	full := filepath.Join(x.prefix, "store/local/domain/0", backend)
	require.NoError(t, os.MkdirAll(full, 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(full, "mtu"), []byte("1350"), 0o644))
	for _, name := range []string{"tap1.0", "vif1.0-emu"} {
		x.env["INTERFACE"] = name
		require.Equal(t, result{}, x.vif("online"), "for a vif")
		require.Equal(t, "", x.master(name))
		require.Equal(t, result{}, x.vif("add"))
		x.attached(name, "xenbr0")
		require.Equal(t, 1350, x.mtu(name))
		require.NoFileExists(t, filepath.Join(full, "hotplug-status"), "never connected")
		require.Equal(t, result{}, x.vif("offline"), "for a vif")
		x.attached(name, "xenbr0")
		require.Equal(t, result{}, x.vif("remove"))
		require.Equal(t, "", x.master(name))
	}
}

// Many at the same time, the same one and others, each twice.
func TestParallelVifs(t *testing.T) {
	t.Parallel()
	x := newXenHost(t)
	x.toml("[scripts]\nantispoof = true\n")
	const n = 6
	for i := range n {
		x.IP(fmt.Sprintf("link add vif%d.0 type veth peer name d%d", 10+i, i))
	}
	for _, command := range []string{"online", "offline"} {
		var list []*exec.Cmd
		for i := range 2 * n {
			cmd := x.process("0:run", "vif-bridge", command, fmt.Sprintf("vif=vif%d.0", 10+i%n), fmt.Sprintf("ip=10.0.0.%d", i%n), "bridge=xenbr0")
			require.NoError(t, x.Do(cmd.Start))
			list = append(list, cmd)
		}
		for _, cmd := range list {
			require.NoError(t, cmd.Wait())
		}
		for i := range n {
			want := ""
			if command == "online" {
				want = "xenbr0"
				require.Contains(t, x.nft(), fmt.Sprintf(`"vif%d.0" : jump vif-vif%d.0`, 10+i, 10+i))
			}
			require.Equal(t, want, x.master(fmt.Sprintf("vif%d.0", 10+i)))
		}
	}
	require.Empty(t, x.nft(), "the table goes with its last interface")
}

// fakeDaemon answers on the control socket and passes on what it was told.
func (x *xenhost) fakeDaemon(answer string) <-chan string {
	path := filepath.Join(x.prefix, "run/xend/vnetd.sock")
	require.NoError(x.t, os.MkdirAll(filepath.Dir(path), 0o755))
	l, err := net.Listen("unix", path)
	require.NoError(x.t, err)
	heard := make(chan string, 10)
	done := make(chan struct{})
	x.t.Cleanup(func() {
		l.Close()
		<-done
	})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			line, _ := bufio.NewReader(c).ReadString('\n')
			heard <- strings.TrimSpace(line)
			_, _ = c.Write([]byte(answer))
			c.Close()
		}
	}()
	return heard
}

const (
	vnet97 = "0000:0000:0000:0000:0000:0000:0000:0097"
	domMAC = "00:16:3e:00:00:01"
)

// On a vnet's bridge other hosts hear at once where the domain is.
func TestVifOnVnet(t *testing.T) {
	t.Parallel()
	x := newXenHost(t)
	heard := x.fakeDaemon("")
	x.IP("link add vnet97 type bridge\nlink set vnet97 mtu 1400 alias 'xend vnet " + vnet97 + "'\nlink set vnet97 up")
	x.store("bridge", "vnet97")
	x.store("mac", domMAC)
	require.Equal(t, result{}, x.vif("online"))
	x.attached("vif1.0", "vnet97")
	require.Equal(t, 1500, x.mtu("vif1.0"), "domains assume it, and the vnet carries it")
	require.Equal(t, "(vif.add (vnet "+vnet97+") (vmac "+domMAC+"))", <-heard)
	require.Equal(t, result{}, x.vif("offline"))
	require.Equal(t, "(vif.del (vnet "+vnet97+") (vmac "+domMAC+"))", <-heard)
	x.IP("link del vif1.0")
	require.Equal(t, result{}, x.vif("offline"), "the interface is gone, what xenstore says remains")
	require.Equal(t, "(vif.del (vnet "+vnet97+") (vmac "+domMAC+"))", <-heard)

	// On another bridge there is nobody to tell.
	x.IP("link add vif1.0 type veth peer name dom1")
	x.store("bridge", "xenbr0")
	require.Equal(t, result{}, x.vif("online"))
	require.Empty(t, heard)
}

// A bridge that somebody else made belongs to a vnet whose interface is on it.
func TestVifOnAdoptedVnetBridge(t *testing.T) {
	t.Parallel()
	x := newXenHost(t)
	heard := x.fakeDaemon("(error \"no such vnet\")\n")
	x.IP("link add vnif97 type veth peer name x97\nlink set vnif97 alias 'xend vnet " + vnet97 + "'\nlink set vnif97 master xenbr0")
	r := x.vif("online", "bridge=xenbr0", "mac="+domMAC)
	require.Equal(t, 0, r.status)
	require.Contains(t, r.stderr, `xend answers (error "no such vnet")`)
	require.Equal(t, "(vif.add (vnet "+vnet97+") (vmac "+domMAC+"))", <-heard)
	x.attached("vif1.0", "xenbr0")
	// A daemon that was started anew knows nothing of the domain that is destroyed.
	x.IP("link del vif1.0")
	x.env["bridge"], x.env["mac"] = "xenbr0", domMAC
	require.Equal(t, result{}, x.vif("offline"))
	require.Equal(t, "(vif.del (vnet "+vnet97+") (vmac "+domMAC+"))", <-heard)
}

// vif-setup runs what xenstore names, or vif-bridge. It replaces its process, so it runs as one.
func TestVifSetup(t *testing.T) {
	t.Parallel()
	x := newXenHost(t)
	scripts := filepath.Join(x.prefix, "etc/xen/scripts")
	require.NoError(t, os.MkdirAll(scripts, 0o755))
	setup := func(args ...string) (string, error) {
		cmd := x.process("0:run", append([]string{"vif-setup"}, args...)...)
		for k, v := range x.env {
			cmd.Env = append(cmd.Env, k+"="+v)
		}
		return x.Output(cmd)
	}
	out, err := setup("online", "type_if=vif")
	require.NoError(t, err, out)
	x.attached("vif1.0", "xenbr0")
	require.Equal(t, "connected", x.stored("hotplug-status"))

	script := "#!/bin/sh\necho \"$0 $* $XEND_PREFIX $vif\"\n"
	require.NoError(t, os.WriteFile(filepath.Join(scripts, "vif-mine"), []byte(script), 0o755))
	x.store("script", "vif-mine fast bridge=br9")
	out, err = setup("online", "type_if=vif")
	require.NoError(t, err, out)
	require.Equal(t, filepath.Join(scripts, "vif-mine")+" fast bridge=br9 online type_if=vif "+x.prefix+" vif1.0\n", out)

	require.NoError(t, os.WriteFile(filepath.Join(scripts, "vif-bridge"), []byte(script), 0o755))
	x.store("script", "vif-bridge")
	out, err = setup("offline")
	require.NoError(t, err, out)
	require.Equal(t, filepath.Join(scripts, "vif-bridge")+" offline "+x.prefix+" vif1.0\n", out)

	x.store("script", filepath.Join(scripts, "vif-mine"))
	out, err = setup("online")
	require.NoError(t, err, out)
	require.Contains(t, out, "vif-mine online")

	x.store("script", "vif-setup")
	out, err = setup("online")
	require.Error(t, err)
	require.Contains(t, out, "which would run itself for ever")

	x.store("script", "vif-none")
	out, err = setup("online")
	require.Error(t, err)
	require.Contains(t, out, "there is no script "+filepath.Join(scripts, "vif-none"))
}

// vnet.toml may have put things elsewhere.
func TestConfiguration(t *testing.T) {
	t.Parallel()
	x := newXenHost(t)
	heard := x.fakeDaemon("")
	elsewhere := filepath.Join(x.prefix, "elsewhere")
	require.NoError(t, os.Rename(filepath.Join(x.prefix, "run/xend/vnetd.sock"), elsewhere))
	file := filepath.Join(x.prefix, "etc/xen/vnet.toml")
	require.NoError(t, os.MkdirAll(filepath.Dir(file), 0o755))
	log := filepath.Join(x.prefix, "my.log")
	require.NoError(t, os.WriteFile(file, fmt.Appendf(nil, "[paths]\ncontrol_socket = %q\nhotplug_log = %q\n[dataplane]\nmtu_mode = \"pmtu\"\n", elsewhere, log), 0o644))
	x.IP("link set xenbr0 alias 'xend vnet " + vnet97 + "'")
	require.Equal(t, result{}, x.vif("online", "bridge=xenbr0", "mac="+domMAC))
	require.Equal(t, 1400, x.mtu("vif1.0"), "what the bridge has is what fits")
	<-heard
	require.Equal(t, 1, x.vif("online", "bridge=none").status)
	b, err := os.ReadFile(log)
	require.NoError(t, err)
	require.Regexp(t, `^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d vif-bridge\[\d+\]: there is no bridge none\n$`, string(b))

	// A broken file is the daemon's business.
	require.NoError(t, os.WriteFile(file, []byte("[paths\n"), 0o644))
	r := x.vif("online", "bridge=xenbr0")
	require.Equal(t, 0, r.status)
	require.Contains(t, r.stderr, "etc/xen/vnet.toml")
	require.Contains(t, r.stderr, "going on with the defaults")
}

// What xend runs has the log for its standard error output already.
func TestLogIsNotWrittenTwice(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "log")
	f, err := os.Create(path)
	require.NoError(t, err)
	defer f.Close()
	require.True(t, (&hotplugLog{path: path}).is(f))
	require.False(t, (&hotplugLog{path: path}).is(os.Stderr))
	require.False(t, (&hotplugLog{path: path + "2"}).is(f))
}
