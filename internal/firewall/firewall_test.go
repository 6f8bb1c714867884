package firewall

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestAccepts(t *testing.T) {
	for line, want := range map[string]bool{
		"-A FORWARD -i vnet97 -o vnet97 -m comment --comment xend:vnet97 -j ACCEPT": true,
		`-A FORWARD -i vnet97 -m comment --comment "let it be, for ever" -j ACCEPT`: true,
		"-A DOCKER-USER -j ACCEPT":                                                            true,
		"-A FORWARD -m physdev --physdev-is-bridged -j ACCEPT":                                true,
		"-A FORWARD -i vnet+ -o vnet+ -j ACCEPT":                                              true,
		"-A FORWARD -i vnet97 -o vnet97 -j DROP":                                              false,
		"-A FORWARD -i vnet9 -o vnet9 -j ACCEPT":                                              false,
		"-A FORWARD -i vnet97 -o docker0 -j ACCEPT":                                           false,
		"-A FORWARD -s 10.0.0.5/32 -i vnet97 -o vnet97 -j ACCEPT":                             false,
		"-A FORWARD -i vnet97 -o vnet97 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT": false,
		"-A FORWARD -m physdev --physdev-in vif1.0 --physdev-is-bridged -j ACCEPT":            false,
		"-A FORWARD ! -i vnet97 -j ACCEPT":                                                    false,
		"-P FORWARD ACCEPT":                                                                   false,
		`-A FORWARD -m comment --comment "unfinished`:                                         false,
		"-A FORWARD -i":             false,
		"-A FORWARD -j DOCKER-USER": false,
		"-A FORWARD -i vnet97 -o vnet97 -j ACCEPT --something": false,
		"": false,
	} {
		require.Equal(t, want, accepts(line, "vnet97"), line)
	}
}

func TestDrops(t *testing.T) {
	for line, want := range map[string]string{
		"-P FORWARD DROP":   "policy DROP",
		"-P FORWARD ACCEPT": "",
		"-A FORWARD -j REJECT --reject-with icmp-host-prohibited": "a rule that says REJECT to everything",
		"-A FORWARD -j DROP":         "a rule that says DROP to everything",
		"-A FORWARD -i eth0 -j DROP": "",
		"-A DOCKER-USER -j DROP":     "",
	} {
		require.Equal(t, want, drops([]string{"-A FORWARD -i x -j ACCEPT", line}), line)
	}
}
