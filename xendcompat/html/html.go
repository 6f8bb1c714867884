// Package html draws the pages that people see who open xend's URLs in a browser. They need no scripts,
// and everything from outside is escaped.
package html

import (
	"bytes"
	_ "embed"
	"html/template"
	"net/url"

	"github.com/xenvnet/xend/sxp"
)

// Policy is the Content-Security-Policy of all pages: no scripts, nothing from elsewhere, forms only to
// where they come from, and no other page may frame them.
const Policy = "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"

// width is that of pretty-printed S-expressions, in characters.
const width = 80

//go:embed pages.tmpl
var source string

var pages = template.Must(template.New("pages").Funcs(template.FuncMap{
	"escape": url.PathEscape,
	"pretty": func(v sxp.Value) string { return string(sxp.AppendPretty(nil, v, width)) },
}).Parse(source))

// page is what all pages have.
type page struct {
	// Path leads to the page: "xend", "vnet", "97".
	Path []string
	// Error is what went wrong with what the user wanted; "" if nothing did.
	Error string
	Data  any
}

// Crumb is a step of the path, with its address.
type Crumb struct{ Name, URL string }

// Title is the last element of the path.
func (p page) Title() string {
	if len(p.Path) == 0 {
		return "xend"
	}
	return p.Path[len(p.Path)-1]
}

// Crumbs are the links above the page.
func (p page) Crumbs() []Crumb {
	at := "/"
	var crumbs []Crumb
	for _, e := range p.Path {
		at += url.PathEscape(e) + "/"
		crumbs = append(crumbs, Crumb{e, at})
	}
	return crumbs
}

// draw executes a template. Its data are plain values, so that it can't fail; the tests draw them all.
func draw(name string, p page) []byte {
	var b bytes.Buffer
	if err := pages.ExecuteTemplate(&b, name, p); err != nil {
		panic(err)
	}
	return b.Bytes()
}

// Entry is a link of a directory and what it leads to.
type Entry struct{ Name, About string }

// Directory draws the page of a path that leads to others.
func Directory(path []string, entries []Entry) []byte {
	return draw("directory", page{Path: path, Data: entries})
}

// VnetsPage is the list of vnets, with the forms that make another.
type VnetsPage struct {
	Vnets []VnetRow
	// Config is what the text field holds: what was sent and refused.
	Config string
	// Error is why.
	Error string
}

// VnetRow is a vnet in the list.
type VnetRow struct{ ID, Bridge, Vnetif, Security string }

// Vnets draws the list of vnets.
func Vnets(p VnetsPage) []byte {
	return draw("vnets", page{Path: []string{"xend", "vnet"}, Error: p.Error, Data: p})
}

// VnetPage is one vnet.
type VnetPage struct {
	VnetRow
	FullID string
	// Form is the configuration as it was given.
	Form sxp.Value
	// Error is why it was not deleted.
	Error string
}

// Vnet draws the page of one vnet.
func Vnet(p VnetPage) []byte {
	return draw("vnet", page{Path: []string{"xend", "vnet", p.ID}, Error: p.Error, Data: p})
}

// Node draws what the (node (key value)…) form says.
func Node(node sxp.Value) []byte {
	return draw("node", page{Path: []string{"xend", "node"}, Data: node})
}

// DomainsPage is the list of domains, with the form that makes another.
type DomainsPage struct {
	// Domains are (domain …) forms.
	Domains []sxp.Value
	// Config is what the text field holds: what was sent and refused.
	Config string
	// Error is why.
	Error string
}

// Domains draws the list of domains.
func Domains(p DomainsPage) []byte {
	return draw("domains", page{Path: []string{"xend", "domain"}, Error: p.Error, Data: p})
}

// DomainPage is one domain.
type DomainPage struct {
	Name string
	// Form is its (domain …) form.
	Form sxp.Value
	// Ops are the operations without parameters that make sense now.
	Ops []string
	// Error is why one was not done.
	Error string
}

// Domain draws the page of one domain.
func Domain(p DomainPage) []byte {
	return draw("domain", page{Path: []string{"xend", "domain", p.Name}, Error: p.Error, Data: p})
}

// Failure draws an error on a page that has nothing else.
func Failure(path []string, text string) []byte {
	return draw("failure", page{Path: path, Error: text})
}
