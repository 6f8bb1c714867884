package dataplane

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"
)

// What cannot work is refused.
func TestValidate(t *testing.T) {
	for name, change := range map[string]func(c *Config){
		"replicate fe80::1%eth0 is not the address of a host":       func(c *Config) { c.IPv6 = true; c.Replicate = []NamedHost{{Addr: "fe80::1%eth0"}} },
		"replicate fe80::1 is not the address of a host":            func(c *Config) { c.IPv6 = true; c.Replicate = []NamedHost{{Addr: "fe80::1"}} },
		"replicate 2001:db8::7 is an IPv6 address, and ipv6 is off": func(c *Config) { c.Replicate = []NamedHost{{Addr: "2001:db8::7"}} },
		"replicate 192.0.2.1: port 1799 is not the port 1798":       func(c *Config) { c.Replicate = []NamedHost{{Addr: "192.0.2.1", Port: 1799}} },
		"peer 2001:db8::7: VFWD carries IPv4 only":                  func(c *Config) { c.Peers = []NamedHost{{Addr: "2001:db8::7"}} },
		"peer 224.10.0.1 is not the address of a host":              func(c *Config) { c.Peers = []NamedHost{{Addr: "224.10.0.1"}} },
		"group 192.0.2.1 is not an IPv4 multicast address":          func(c *Config) { c.Group = netip.MustParseAddr("192.0.2.1") },
		"bum_rate -1 is negative":                                   func(c *Config) { c.BUMRate = -1 },
	} {
		c := testConfig()
		change(&c)
		require.ErrorContains(t, c.Validate(), name)
	}
	c := testConfig()
	c.IPv6 = true
	c.Replicate = []NamedHost{{Addr: "2001:db8::7"}, {Addr: "192.0.2.1", Port: c.Port}, {Addr: "b.example"}}
	c.Peers = []NamedHost{{Addr: "192.0.2.2", Port: 1799}}
	require.NoError(t, c.Validate())
}
