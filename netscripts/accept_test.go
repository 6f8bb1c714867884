package netscripts

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/xenvnet/xend/internal/firewall"
)

// iptables runs commands of iptables, a line each.
func (h *host) iptables(lines string) {
	h.t.Helper()
	if inVM {
		h.t.Skip("the emulated machine has no iptables")
	}
	for line := range strings.Lines(lines) {
		words := strings.Fields(line)
		out, err := h.Output(exec.Command(words[0], words[1:]...))
		require.NoError(h.t, err, "%s: %s", line, out)
	}
}

// dockerLike is what Docker makes of a machine's firewall, with bridged packets going through it.
const dockerLike = `iptables -P FORWARD DROP
iptables -N DOCKER-USER
iptables -I FORWARD -j DOCKER-USER
iptables -A DOCKER-USER -i docker0 -j ACCEPT
ip6tables -P FORWARD DROP`

func (h *host) likeDocker() {
	if _, err := os.Stat("/proc/sys/net/bridge"); err != nil {
		h.t.Skip("br_netfilter is not loaded: modprobe br_netfilter")
	}
	for _, name := range []string{"iptables", "ip6tables"} {
		h.Sysctl("bridge/bridge-nf-call-"+name, "1")
	}
	h.iptables(dockerLike)
}

// toml makes text the machine's vnet.toml.
func (h *host) toml(text string) {
	path := filepath.Join(h.prefix, "etc/xen/vnet.toml")
	require.NoError(h.t, os.MkdirAll(filepath.Dir(path), 0o755))
	require.NoError(h.t, os.WriteFile(path, []byte(text), 0o644))
}

// ip= is no restriction, unless that is asked for: a router's domain sends with any source.
func TestAddressesDoNotRestrict(t *testing.T) {
	t.Parallel()
	x := newXenHost(t)
	x.env["PATH"] += ":/usr/sbin:/sbin"
	require.Equal(t, result{}, x.vif("online", "ip=192.0.2.11", "bridge=xenbr0"))
	require.Empty(t, x.nft())
	x.toml("[scripts]\nantispoof = true\n")
	require.Equal(t, result{}, x.vif("online", "ip=192.0.2.11", "bridge=xenbr0"))
	require.Contains(t, x.nft(), "vif-vif1.0")
	x.toml("")
	require.Equal(t, result{}, x.vif("online", "ip=192.0.2.11", "bridge=xenbr0"))
	require.Empty(t, x.nft())
}

// A vnet's bridge whose frames a firewall drops is found, with a cure that cures.
func TestBlockedBridge(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.IP("link add vnet97 type bridge\nlink set vnet97 up")
	var domains []*host
	for i := 1; i <= 2; i++ {
		h.IP(fmt.Sprintf("link add vif%[1]d.0 type veth peer name dom%[1]d\nlink set vif%[1]d.0 master vnet97\nlink set vif%[1]d.0 up", i))
		domains = append(domains, newDomain(t, h, fmt.Sprintf("dom%d", i), fmt.Sprintf("10.9.0.%d/24", i)))
	}
	ping := func() error {
		_, err := domains[0].Output(exec.Command("ping", "-c", "1", "-W", "2", "10.9.0.2"))
		return err
	}
	blocked := func() (list []firewall.Blocked) {
		require.NoError(t, h.Do(func() error {
			list = (&firewall.Firewall{}).Read().Blocked("vnet97")
			return nil
		}))
		return list
	}
	reaches := func() {
		t.Helper()
		domains[0].ping("10.9.0.2")
	}
	reaches()
	require.Empty(t, blocked())
	h.likeDocker()
	require.Error(t, ping())
	list := blocked()
	require.Len(t, list, 2, "a family each")
	require.Equal(t, "IPv4 packets on the bridge vnet97 are dropped by iptables FORWARD (policy DROP)", list[0].String())
	require.Equal(t, "[scripts] accept_bridges = true in vnet.toml, or: iptables -I DOCKER-USER -i vnet97 -o vnet97 -j ACCEPT", list[0].Advice())
	require.Equal(t, "ip6tables -I FORWARD -i vnet97 -o vnet97 -j ACCEPT", list[1].Cure)
	h.iptables(list[0].Cure + "\n" + list[1].Cure)
	reaches()
	require.Empty(t, blocked())

	h.nftables("table inet strict {\n chain pass {\n type filter hook forward priority 0; policy drop;\n }\n}\n")
	require.Error(t, ping())
	list = blocked()
	require.Len(t, list, 1)
	require.Equal(t, "frames on the bridge vnet97 are dropped by the nftables chain inet strict pass (policy drop)", list[0].String())
	out, err := h.Output(exec.Command("sh", "-c", list[0].Cure))
	require.NoError(t, err, out)
	reaches()
	require.Empty(t, blocked())

	for _, name := range []string{"iptables", "ip6tables"} {
		h.Sysctl("bridge/bridge-nf-call-"+name, "0")
	}
	h.iptables("iptables -F DOCKER-USER")
	reaches()
	require.Empty(t, blocked(), "nothing of it reaches iptables")
}

// Where the firewall drops what bridges forward, ip= has its addresses pass, in the chain that drops.
func TestAcceptWhereFORWARDDrops(t *testing.T) {
	t.Parallel()
	x := newXenHost(t)
	x.env["PATH"] += ":/usr/sbin:/sbin"
	x.IP("link del xenbr0")
	x.must("network-bridge", "start")
	x.likeDocker()
	rules := func() string { return regexp.MustCompile(`packets \d+ bytes \d+`).ReplaceAllString(x.nft(), "") }
	before := rules()
	require.Equal(t, result{}, x.vif("online"))
	dom := newDomain(t, x.host, "dom1", "192.0.2.11/24", "192.0.2.12/24")
	dom.IP("addr add 2001:db8::11/64 dev dom1 nodad")
	ping := func(from, to string) error {
		_, err := dom.Output(exec.Command("ping", "-c", "1", "-W", "1", "-I", from, to))
		return err
	}
	require.Error(t, ping("192.0.2.11", "192.0.2.254"), "dropped")

	for range 2 { // twice is once
		require.Equal(t, result{}, x.vif("online", "ip=192.0.2.11 2001:db8::11"))
		dom.ping("192.0.2.254", "-I", "192.0.2.11")
		dom.ping("2001:db8::254", "-I", "2001:db8::11")
		require.Error(t, ping("192.0.2.12", "192.0.2.254"), "the firewall's own business")
		have, err := x.Output(exec.Command("iptables", "-S", "DOCKER-USER"))
		require.NoError(t, err)
		have = strings.ReplaceAll(have, `"`, "") // some versions quote comments
		require.Equal(t, `-N DOCKER-USER
-A DOCKER-USER -s 192.0.2.11/32 -m physdev --physdev-in vif1.0 --physdev-is-bridged -m comment --comment xend:vif:vif1.0 -j ACCEPT
-A DOCKER-USER -p udp -m physdev --physdev-in vif1.0 --physdev-is-bridged -m udp --sport 68 --dport 67 -m comment --comment xend:vif:vif1.0 -j ACCEPT
-A DOCKER-USER -m physdev --physdev-out vif1.0 --physdev-is-bridged -m comment --comment xend:vif:vif1.0 -j ACCEPT
-A DOCKER-USER -i docker0 -j ACCEPT
`, have)
	}
	require.Equal(t, result{}, x.vif("offline"))
	require.Equal(t, before, rules())
	require.Equal(t, result{}, x.vif("offline"))

	// Without iptables the domain has what else there is, and the log says why it has no more.
	x.env["PATH"] = filepath.Join(x.prefix, "bin")
	r := x.vif("online", "ip=192.0.2.11")
	require.Equal(t, 0, r.status)
	require.Contains(t, r.stderr, "iptables FORWARD drops what is forwarded, and there is no program iptables to say otherwise; install iptables")
	require.Equal(t, result{}, x.vif("offline"))
}
