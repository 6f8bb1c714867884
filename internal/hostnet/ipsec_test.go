package hostnet

import (
	"net"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
)

// TestProtected: which IPsec policies are for what is sent to a port.
func TestProtected(t *testing.T) {
	_, ours, err := net.ParseCIDR("192.0.2.0/24")
	require.NoError(t, err)
	_, others, err := net.ParseCIDR("198.51.100.0/24")
	require.NoError(t, err)
	from := netip.MustParseAddr("192.0.2.1")
	tmpl := []netlink.XfrmPolicyTmpl{{}}
	for name, c := range map[string]struct {
		p    netlink.XfrmPolicy
		want bool
	}{
		"all that is sent": {netlink.XfrmPolicy{Dir: netlink.XFRM_DIR_OUT, Tmpls: tmpl}, true},
		"what arrives":     {netlink.XfrmPolicy{Dir: netlink.XFRM_DIR_IN, Tmpls: tmpl}, false},
		"an exception":     {netlink.XfrmPolicy{Dir: netlink.XFRM_DIR_OUT}, false},
		"blocked":          {netlink.XfrmPolicy{Dir: netlink.XFRM_DIR_OUT, Action: netlink.XFRM_POLICY_BLOCK}, true},
		"from here":        {netlink.XfrmPolicy{Dir: netlink.XFRM_DIR_OUT, Tmpls: tmpl, Src: ours}, true},
		"from elsewhere":   {netlink.XfrmPolicy{Dir: netlink.XFRM_DIR_OUT, Tmpls: tmpl, Src: others}, false},
		"TCP":              {netlink.XfrmPolicy{Dir: netlink.XFRM_DIR_OUT, Tmpls: tmpl, Proto: 6}, false},
		"the port":         {netlink.XfrmPolicy{Dir: netlink.XFRM_DIR_OUT, Tmpls: tmpl, Proto: 17, DstPort: 1798}, true},
		"another port":     {netlink.XfrmPolicy{Dir: netlink.XFRM_DIR_OUT, Tmpls: tmpl, Proto: 17, DstPort: 53}, false},
	} {
		require.Equal(t, c.want, concerns(&c.p, from, 1798), name)
	}
}
