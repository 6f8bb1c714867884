package html

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/html"

	"github.com/xenvnet/xend/sxp"
)

// hostile is what could break out of anything.
const hostile = `"><script>alert('1')</script>&amp;</pre></textarea>`

// all draws every page with s wherever a text from outside goes.
func all(s string) map[string][]byte {
	form := sxp.List(sxp.Atom("x"), sxp.Pair("name", s), sxp.Pair(s, s), sxp.List(sxp.Atom("k"), sxp.List(sxp.Atom(s))))
	row := VnetRow{s, s, s, s}
	return map[string][]byte{
		"root":      Directory(nil, []Entry{{s, s}}),
		"directory": Directory([]string{"xend", s}, []Entry{{s, s}}),
		"empty":     Vnets(VnetsPage{}),
		"vnets":     Vnets(VnetsPage{Vnets: []VnetRow{row, row}, Config: s, Error: s}),
		"vnet":      Vnet(VnetPage{VnetRow: row, FullID: s, Form: form, Error: s}),
		"node":      Node(form),
		"domains":   Domains(DomainsPage{Domains: []sxp.Value{form}, Config: s, Error: s}),
		"domain":    Domain(DomainPage{Name: s, Form: form, Ops: []string{s}, Error: s}),
		"failure":   Failure([]string{s}, s),
	}
}

func TestEscaping(t *testing.T) {
	for name, page := range all(hostile) {
		doc, err := html.Parse(strings.NewReader(string(page)))
		require.NoError(t, err, name)
		for n := range doc.Descendants() {
			if n.Type == html.ElementNode {
				require.NotEqual(t, "script", n.Data, "%s: %s", name, page)
			}
			for _, a := range n.Attr {
				require.False(t, strings.HasPrefix(a.Key, "on"), "%s: attribute %s", name, a.Key)
				if a.Key == "href" || a.Key == "action" {
					require.True(t, strings.HasPrefix(a.Val, "/") && !strings.HasPrefix(a.Val, "//"), "%s: link to %s", name, a.Val)
				}
			}
		}
	}
}

// TestTextSurvives checks that what a page shows is what it was given, a leading newline of the text field
// included.
func TestTextSurvives(t *testing.T) {
	find := func(page []byte, element string) string {
		doc, err := html.Parse(strings.NewReader(string(page)))
		require.NoError(t, err)
		for n := range doc.Descendants() {
			if n.Type == html.ElementNode && n.Data == element {
				return n.FirstChild.Data
			}
		}
		require.Fail(t, "no "+element, "%s", page)
		return ""
	}
	require.Equal(t, "\n(vnet)", find(Vnets(VnetsPage{Config: "\n(vnet)"}), "textarea"))
	require.Equal(t, "(vnet (id 97))\n", find(Vnet(VnetPage{VnetRow: VnetRow{ID: "97"}, Form: sxp.List(sxp.Atom("vnet"), sxp.Pair("id", "97"))}), "pre"))
}
