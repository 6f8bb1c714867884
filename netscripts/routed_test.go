package netscripts

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func (h *host) sysctlIs(key, want string) {
	h.t.Helper()
	require.NoError(h.t, h.Do(func() error {
		b, err := os.ReadFile("/proc/sys/net/" + key)
		require.Equal(h.t, want, strings.TrimSpace(string(b)), key)
		return err
	}))
}

// routedHost is a machine without a bridge, with an interface and a domain behind it.
func routedHost(t *testing.T) (x *xenhost, vif func(script string, args ...string) result, domain func(address, router string) *host) {
	x = newXenHost(t)
	x.IP("link del xenbr0")
	x.Sysctl("ipv4/ip_forward", "0")
	x.env["PATH"] += ":/usr/sbin:/sbin"
	vif = func(script string, args ...string) result {
		return x.runWith(context.Background(), Env{Getenv: func(key string) string { return x.env[key] }}, append([]string{script}, args...)...)
	}
	domain = func(address, router string) *host {
		d := newDomain(t, x.host, "dom1", address)
		d.IP("route add " + router + " dev dom1\nroute add default via " + router)
		return d
	}
	return x, vif, domain
}

// A domain with a route to it shares the machine's network, by proxy ARP.
func TestRoute(t *testing.T) {
	t.Parallel()
	x, vif, domain := routedHost(t)
	before := x.dump()
	require.Contains(t, x.must("network-route", "start", "--dry-run").stdout, "would set net/ipv4/conf/eth0/proxy_arp to 1")
	x.same(before, "dry run")
	require.Equal(t, "network-route: this machine forwards IPv4, and answers ARP on eth0\n", x.must("network-route", "start").stdout)
	x.must("network-route", "start")
	require.Contains(t, x.must("network-route", "status").stdout, "net/ipv4/ip_forward = 1, was 0")
	for range 2 {
		require.Equal(t, result{}, vif("vif-route", "online", "ip=192.0.2.11"))
	}
	require.Equal(t, "connected", x.stored("hotplug-status"))
	require.Contains(t, x.Show("addr", "show", "vif1.0"), "192.0.2.1/32")
	dom := domain("192.0.2.11/32", "192.0.2.1")
	dom.ping("192.0.2.254")
	(&host{Host: x.far, t: t}).ping("192.0.2.11")

	x.likeDocker()
	_, err := dom.Output(exec.Command("ping", "-c", "1", "-W", "1", "192.0.2.254"))
	require.Error(t, err)
	require.Equal(t, result{}, vif("vif-route", "online", "ip=192.0.2.11"))
	dom.ping("192.0.2.254")
	require.Equal(t, result{}, vif("vif-route", "offline"))
	require.Equal(t, result{}, vif("vif-route", "offline"))
	require.NotContains(t, x.nft(), "xend")
	require.Empty(t, x.Show("-o", "addr", "show", "dev", "vif1.0"))
	x.must("network-route", "stop")
	x.sysctlIs("ipv4/ip_forward", "0")
	x.sysctlIs("ipv4/conf/eth0/proxy_arp", "0")
	require.Contains(t, x.must("network-route", "stop").stdout, "nothing to do: it was not started")
}

// A domain behind the machine's address, with addresses derived from its interface's name.
func TestNAT(t *testing.T) {
	t.Parallel()
	x, vif, domain := routedHost(t)
	r := vif("vif-nat", "online")
	require.Equal(t, 0, r.status)
	require.Contains(t, r.stderr, "IPv4 forwarding is off: the domain reaches this machine only; network-route start or network-nat start switches it on")
	x.must("network-nat", "start", "dhcp=no")
	require.Equal(t, result{}, vif("vif-nat", "online"))
	require.Contains(t, x.Show("addr", "show", "vif1.0"), "10.0.1.128/32")
	x.far.IP("route del default") // nothing but the machine's address can be answered
	dom := domain("10.0.1.1/32", "10.0.1.128")
	dom.ping("192.0.2.254")
	require.Contains(t, x.nft(), "masquerade")
	r = x.run("network-nat", "start", "netdev=vif1.0")
	require.Equal(t, 1, r.status)
	require.Contains(t, r.stderr, "it was started for eth0; stop it first")
	require.Equal(t, result{}, vif("vif-nat", "online", "ip=10.5.0.9"))
	require.Contains(t, x.Show("addr", "show", "vif1.0"), "10.5.0.136/32")
	require.Equal(t, result{}, vif("vif-nat", "offline"))
	r = x.run("network-nat", "start", "dhcp=yes")
	require.Equal(t, 0, r.status)
	require.Contains(t, r.stderr, "dhcp=yes: no DHCP server is set up")
	x.must("network-nat", "stop")
	require.Empty(t, x.nft())
	x.sysctlIs("ipv4/ip_forward", "0")
}

// What fails half way is put back.
func TestRoutedFailure(t *testing.T) {
	t.Parallel()
	x, vif, _ := routedHost(t)
	before := x.dump()
	for _, what := range []string{"set net/ipv4/ip_forward", "masquerade"} {
		r := x.runWith(context.Background(), Env{Before: func(w string) error {
			if strings.HasPrefix(w, what) && !strings.HasSuffix(w, " to 0") {
				return errors.New("injected")
			}
			return nil
		}}, "network-nat", "start")
		require.Equal(t, 1, r.status)
		x.sysctlIs("ipv4/ip_forward", "0")
		require.Empty(t, x.nft())
	}
	x.same(before, "failures")
	left, err := filepath.Glob(filepath.Join(x.prefix, "run/xend/*"))
	require.NoError(t, err)
	require.Empty(t, left)
	for _, c := range []struct{ script, arg, text string }{
		{"vif-nat", "ip=10.0.0.200", "the last number is from 1 to 127"},
		{"vif-route", "netdev=eth9", "there is no device eth9"},
	} {
		r := vif(c.script, "online", c.arg)
		require.Equal(t, 1, r.status)
		require.Contains(t, r.stderr, c.text)
		require.Equal(t, "error", x.stored("hotplug-status"))
	}
	require.Equal(t, result{}, x.run("network-dummy", "start"))
	require.Equal(t, result{1, "", "Unknown command: frob\nValid commands are: start, stop, status\n"}, x.run("network-dummy", "frob"))
}

// The device of an emulated card is named after the interface.
func TestTapWithVifname(t *testing.T) {
	t.Parallel()
	x := newXenHost(t)
	x.IP("link add vif1.0-emu type veth peer name t2")
	delete(x.env, "XENBUS_PATH")
	x.env["type_if"], x.env["INTERFACE"], x.env["vifname"] = "tap", "vif1.0-emu", "web0"
	require.Equal(t, result{}, x.vif("online", "type_if=vif"))
	for range 2 {
		require.Equal(t, result{}, x.vif("add"))
		x.attached("web0-emu", "xenbr0")
	}
	x.attached("web0", "xenbr0")
	require.Equal(t, result{}, x.vif("remove"))
	require.Equal(t, "", x.master("web0-emu"))
}
