package finding

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// Trouble first; what is well is a line; hostile texts obey nobody.
func TestText(t *testing.T) {
	r := Report{Name: "host1\x1b[2J", Version: "xend 1", Summary: "eth0", Hosts: []Host{
		{Address: "192.0.2.2", Version: "xend 1", Unicast: true, RTT: 0.314, MTUTo: 1500, MTUFrom: 1400, Vnets: []string{"97", "98"}},
		{Address: "192.0.2.3", NotAsked: "it sleeps"},
	}}
	r.Add(Finding{Name: "gro-off", Level: OK, Of: "eth0", Text: "fine", Detail: true})
	r.Add(Finding{Name: "dead-group", Level: OK, Of: "hosts", Text: "1 of 1 answered"})
	r.Add(Finding{Name: "path-mtu", Level: Warn, Of: "192.0.2.2", Text: "path MTU 1400", Cure: "raise it"})
	r.Add(Finding{Name: "vnet-down", Level: Skip, Of: "x", Text: "not asked", Detail: true})
	require.Equal(t, 1, r.ExitStatus())
	r.Add(Finding{Name: "blocked-unicast", Level: Fail, Of: "192.0.2.9", Text: "no"})
	r.Sort()
	require.Equal(t, 2, r.ExitStatus())
	require.True(t, r.Has("path-mtu"))
	require.False(t, r.Has("gro-off"))
	var b bytes.Buffer
	r.WriteText(&b, false)
	require.Equal(t, `host1[2J  xend 1  eth0

FAIL  192.0.2.9          no
      troubleshooting: blocked-unicast
WARN  192.0.2.2          path MTU 1400
      → raise it
      troubleshooting: path-mtu
ok    hosts              1 of 1 answered
ok                       2 more checks found nothing, or could not be made; -v lists them

1 failure, 1 warning
`, b.String())
	b.Reset()
	r.WriteText(&b, true)
	require.Contains(t, b.String(), "192.0.2.2                xend 1              yes       no       no    0.31 ms    1500    1400  97 98\n")
	require.Contains(t, b.String(), "192.0.2.3                not asked: it sleeps\n")
	require.Contains(t, b.String(), "skip  x                  not asked\n")
	b.Reset()
	require.NoError(t, r.WriteJSON(&b))
	var again Report
	require.NoError(t, json.Unmarshal(b.Bytes(), &again))
	require.Equal(t, r, again)
	well := Report{}
	require.Zero(t, well.ExitStatus())
	b.Reset()
	well.WriteText(&b, false)
	require.Contains(t, b.String(), "All is well.")
}

// What is wrong with many things at once is one line, and of what is wrong with each in another way some are told.
func TestTextIsBounded(t *testing.T) {
	r := Report{Name: "host1"}
	for i := range 1000 {
		r.Add(Finding{Name: "one-sided", Level: Warn, Of: fmt.Sprint("vnet ", i), Text: "is nowhere", Cure: "there"})
		if i < minTogether {
			r.Add(Finding{Name: "mtu", Level: Warn, Of: fmt.Sprint("10.9.0.", i), Host: fmt.Sprint("host", i), Text: "is narrow"})
		}
		r.Add(Finding{Name: "vnet-down", Level: Fail, Of: fmt.Sprint("vnet ", i), Text: fmt.Sprint("problem ", i)})
	}
	r.Add(Finding{Name: "wrong-id", Level: Warn, Of: "vnet 7", Text: "twice"})
	r.Add(Finding{Name: "wrong-id", Level: Warn, Of: "vnet 8", Text: "twice"})
	r.Sort()
	var b bytes.Buffer
	r.WriteText(&b, false)
	text := b.String()
	require.Equal(t, 10, strings.Count(text, "FAIL  vnet "), text)
	require.Contains(t, text, "      troubleshooting: vnet-down\nFAIL                     990 more of vnet-down; -v lists them\n")
	require.Contains(t, text, `WARN  1000 times         is nowhere
      of vnet 0, vnet 1, vnet 2, vnet 3, vnet 4, vnet 5, vnet 6, vnet 7 and 992 more; -v lists them
      → there
      troubleshooting: one-sided
`)
	require.Contains(t, text, "3 times            is narrow\n      of 10.9.0.0 (host0), 10.9.0.1 (host1), 10.9.0.2 (host2)\n")
	require.Equal(t, 2, strings.Count(text, "  twice\n"))
	require.Contains(t, text, "\n1000 failures, 1005 warnings\n")
	b.Reset()
	r.WriteText(&b, true)
	require.Equal(t, 1000, strings.Count(b.String(), "  is nowhere\n"))
	require.Equal(t, 1000, strings.Count(b.String(), "  problem "))
}

func TestCatalogue(t *testing.T) {
	seen := map[string]bool{}
	for _, k := range Catalogue {
		require.False(t, seen[k.Name], k.Name)
		seen[k.Name] = true
		require.NotEmpty(t, k.What)
		require.NotEmpty(t, k.Cure)
	}
	_, ok := Of("nothing")
	require.False(t, ok)
}
