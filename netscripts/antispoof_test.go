package netscripts

import (
	"context"
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/xenvnet/xend/netscripts/internal/nstest"
)

// Domains on a bridge made with antispoof=yes reach the network with their own addresses only.
func TestAntispoof(t *testing.T) {
	t.Parallel()
	x := newXenHost(t)
	x.IP("link del xenbr0")
	before := x.dump()
	r := x.run("network-bridge", "start", "antispoof=yes")
	require.Equal(t, 0, r.status, r.stderr)
	x.IP("link add vif2.0 type veth peer name dom2")
	require.Equal(t, 0, x.vif("online", "ip=192.0.2.11").status)
	x.attached("vif1.0", "eth0")

	dom := newDomain(t, x.host, "dom1", "192.0.2.11/24", "192.0.2.12/24")
	ping := func(from string) error {
		_, err := dom.Output(exec.Command("ping", "-c", "1", "-W", "1", "-I", from, "192.0.2.254"))
		return err
	}
	dom.ping("192.0.2.254", "-I", "192.0.2.11")
	require.Error(t, ping("192.0.2.12"), "not its address")

	// A port that vif-bridge did not attach.
	x.IP("link set vif2.0 master eth0\nlink set vif2.0 up")
	dom2 := newDomain(t, x.host, "dom2", "192.0.2.13/24")
	_, err := dom2.Output(exec.Command("ping", "-c", "1", "-W", "1", "192.0.2.254"))
	require.Error(t, err)

	// Once more start leaves it so.
	require.Equal(t, 0, x.run("network-bridge", "start", "antispoof=yes").status)
	dom.ping("192.0.2.254", "-I", "192.0.2.11")
	require.Error(t, ping("192.0.2.12"))

	// A firewall that flushed everything: start brings the rule back and cuts nobody off.
	flush, err := x.Output(exec.Command("nft", "flush", "ruleset"))
	require.NoError(t, err, flush)
	r = x.run("network-bridge", "start", "antispoof=yes")
	require.Equal(t, 0, r.status)
	require.Contains(t, r.stderr, "vif1.0, vif2.0 on eth0 may use any address until attached again")
	dom.ping("192.0.2.254", "-I", "192.0.2.12")
	require.Equal(t, 0, x.vif("online", "ip=192.0.2.11").status)
	require.Error(t, ping("192.0.2.12"))

	require.Equal(t, 0, x.vif("offline").status)
	x.IP("link del vif1.0\nlink del vif2.0")
	require.Equal(t, 0, x.run("network-bridge", "stop").status)
	require.Empty(t, x.nft())
	x.IP("link add vif1.0 type veth peer name dom1")
	// The pair is another one; the rest is as before.
	x.eventually(func() bool { return comparable(before) == comparable(x.dump()) })
}

// comparable leaves out what has to do with the pair vif1.0–dom1.
func comparable(dump string) string {
	var b strings.Builder
	for line := range strings.Lines(dump) {
		if !strings.Contains(line, "vif1.0") && !strings.Contains(line, "dom1") {
			b.WriteString(line)
		}
	}
	return b.String()
}

// newDomain moves a device into a namespace of its own and gives it addresses.
func newDomain(t testing.TB, h *host, dev string, addresses ...string) *host {
	d := &host{Host: nstest.New(t), t: t}
	require.NoError(t, h.Do(func() error { return moveTo(h.Host, dev, d.Host) }))
	d.IP("link set " + dev + " up")
	for _, a := range addresses {
		d.IP("addr add " + a + " dev " + dev)
	}
	return d
}

// A bridge that is guarded is released by a stop that fails half way only until it is put back.
func TestAntispoofComesBack(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	require.Equal(t, 0, h.run("network-bridge", "start", "antispoof=yes").status)
	rules := h.nft()
	require.Contains(t, rules, "peth0")
	r := h.runWith(context.Background(), Env{Before: func(what string) error {
		if strings.HasPrefix(what, "delete xendtmp") {
			return context.DeadlineExceeded
		}
		return nil
	}}, "network-bridge", "stop")
	require.Equal(t, 1, r.status)
	require.Equal(t, rules, h.nft())
}
