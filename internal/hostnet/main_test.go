package hostnet

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os/exec"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// newHost returns the host of a network namespace of the test's own.
func newHost(t *testing.T) *Host {
	t.Helper()
	h, err := Unshare()
	if errors.Is(err, fs.ErrPermission) {
		t.Skip("needs the privilege to make network namespaces")
	}
	require.NoError(t, err)
	t.Cleanup(h.Close)
	return h
}

func link(t *testing.T, h *Host, name string) Link {
	t.Helper()
	l, err := h.LinkByName(name)
	require.NoError(t, err)
	return l
}

// hostPair makes two hosts with a veth pair between them, whose ends a and b are up and have 10.9.0.1 and 10.9.0.2.
func hostPair(t *testing.T) (h, far *Host, a, b Link) {
	t.Helper()
	h, far = newHost(t), newHost(t)
	_, err := h.EnsureVeth(Veth{Name: "a", Partner: "b", PartnerHost: far})
	require.NoError(t, err)
	a, b = link(t, h, "a"), link(t, far, "b")
	require.NoError(t, h.SetUp(a.Index))
	require.NoError(t, far.SetUp(b.Index))
	require.NoError(t, h.EnsureAddress(Address{Index: a.Index, Prefix: netip.MustParsePrefix("10.9.0.1/24")}))
	require.NoError(t, far.EnsureAddress(Address{Index: b.Index, Prefix: netip.MustParsePrefix("10.9.0.2/24")}))
	return h, far, a, b
}

// pair makes a veth pair a–b, both up.
func pair(t *testing.T, h *Host, a, b string) (Link, Link) {
	t.Helper()
	created, err := h.EnsureVeth(Veth{Name: a, Partner: b})
	require.NoError(t, err)
	require.True(t, created)
	require.NoError(t, h.SetUp(link(t, h, a).Index))
	require.NoError(t, h.SetUp(link(t, h, b).Index))
	return link(t, h, a), link(t, h, b)
}

func run(name string, args ...string) error {
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w", out, err)
	}
	return nil
}
