// Command book makes one HTML file of the manual: the pages that docs/book.txt lists, and the manual pages. Links between
// pages become links within the file, and pictures are part of it; a link that leads nowhere is an error.
package main

import (
	"bytes"
	"encoding/base64"
	"errors"
	"flag"
	"fmt"
	html_ "html"
	"mime"
	"net/url"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"sort"
	"strings"

	"github.com/yuin/goldmark"
	"github.com/yuin/goldmark/ast"
	"github.com/yuin/goldmark/extension"
	"github.com/yuin/goldmark/parser"
	"github.com/yuin/goldmark/renderer/html"
	"github.com/yuin/goldmark/text"
)

func main() {
	top := flag.String("top", ".", "the project's directory")
	version := flag.String("version", "dev", "the version that the title names")
	flag.Parse()
	b, err := build(*top, *version)
	if err == nil {
		_, err = os.Stdout.Write(b)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "book:", err)
		os.Exit(1)
	}
}

// chapter is a page of the book.
type chapter struct {
	file  string // relative to the top
	id    string
	part  string // that it begins; "" for none
	title string
	body  []byte
	// links are the ids that it points to, with the page that they should be in.
	links []string
}

type book struct {
	top      string
	chapters []*chapter
	byFile   map[string]*chapter
	ids      map[string]bool
}

// build returns the book.
func build(top, version string) ([]byte, error) {
	b := &book{top: top, byFile: map[string]*chapter{}, ids: map[string]bool{}}
	list, err := os.ReadFile(filepath.Join(top, "docs", "book.txt"))
	if err != nil {
		return nil, err
	}
	part := ""
	for line := range strings.Lines(string(list)) {
		line = strings.TrimSpace(line)
		switch {
		case strings.HasPrefix(line, "## "):
			part = line[3:]
		case line != "" && !strings.HasPrefix(line, "#"):
			c := &chapter{file: line, id: slug(strings.TrimSuffix(line, ".md")), part: part}
			b.chapters, b.byFile[line], part = append(b.chapters, c), c, ""
		}
	}
	for _, c := range b.chapters {
		if err := b.render(c); err != nil {
			return nil, fmt.Errorf("%s: %w", c.file, err)
		}
	}
	var dead []error
	for _, c := range b.chapters {
		for _, id := range c.links {
			if !b.ids[id] {
				dead = append(dead, fmt.Errorf("%s: link to #%s, which is not there", c.file, id))
			}
		}
	}
	if err := errors.Join(dead...); err != nil {
		return nil, err
	}
	if err := b.manuals(); err != nil {
		return nil, err
	}
	return b.page(version), nil
}

var notID = regexp.MustCompile(`[^a-z0-9]+`)

func slug(s string) string { return strings.Trim(notID.ReplaceAllString(strings.ToLower(s), "-"), "-") }

// render makes the HTML of a page.
func (b *book) render(c *chapter) error {
	source, err := os.ReadFile(filepath.Join(b.top, c.file))
	if err != nil {
		return err
	}
	md := goldmark.New(
		goldmark.WithExtensions(extension.GFM),
		goldmark.WithParserOptions(parser.WithAutoHeadingID()),
		goldmark.WithRendererOptions(html.WithXHTML(), html.WithUnsafe())) // the pages are the project's own
	doc := md.Parser().Parse(text.NewReader(source))
	b.ids[c.id] = true
	err = ast.Walk(doc, func(n ast.Node, entering bool) (ast.WalkStatus, error) {
		if !entering {
			return ast.WalkContinue, nil
		}
		switch n := n.(type) {
		case *ast.Heading:
			if n.Level == 1 && c.title == "" {
				c.title = string(plain(n, source))
			}
			if id, ok := n.AttributeString("id"); ok {
				full := c.id + "--" + string(id.([]byte))
				b.ids[full] = true
				n.SetAttributeString("id", []byte(full))
			}
			n.Level = min(n.Level+1, 6)
		case *ast.Link:
			to, err := b.target(c, string(n.Destination))
			if err != nil {
				return ast.WalkStop, err
			}
			n.Destination = []byte(to)
		case *ast.Image:
			data, err := b.picture(c, string(n.Destination))
			if err != nil {
				return ast.WalkStop, err
			}
			n.Destination = data
		}
		return ast.WalkContinue, nil
	})
	if err != nil {
		return err
	}
	var out bytes.Buffer
	if err := md.Renderer().Render(&out, source, doc); err != nil {
		return err
	}
	c.body = anchor.ReplaceAllFunc(out.Bytes(), func(m []byte) []byte {
		id := c.id + "--" + string(anchor.FindSubmatch(m)[1])
		b.ids[id] = true
		return []byte(`<a id="` + id + `">`)
	})
	if c.title == "" {
		c.title = c.file
	}
	return nil
}

// anchor is a place that a page names in HTML.
var anchor = regexp.MustCompile(`<a (?:id|name)="([^"]+)">`)

// plain is the text of a node.
func plain(n ast.Node, source []byte) []byte {
	var out []byte
	for child := n.FirstChild(); child != nil; child = child.NextSibling() {
		if t, ok := child.(*ast.Text); ok {
			out = append(out, t.Segment.Value(source)...)
		} else {
			out = append(out, plain(child, source)...)
		}
	}
	return out
}

// target is where a link leads in the book.
func (b *book) target(c *chapter, to string) (string, error) {
	u, err := url.Parse(to)
	if err != nil {
		return "", err
	}
	if u.Scheme != "" || u.Host != "" {
		return to, nil
	}
	page := c
	if u.Path != "" {
		file := path.Join(path.Dir(c.file), u.Path)
		if page = b.byFile[file]; page == nil {
			if info, err := os.Stat(filepath.Join(b.top, file)); err != nil {
				return "", fmt.Errorf("link to %s, which is not there", to)
			} else if info.IsDir() || !strings.HasSuffix(file, ".md") || !strings.HasPrefix(file, "docs/") {
				return file, nil // of the source
			}
			return "", fmt.Errorf("link to %s, which is not in docs/book.txt", to)
		}
	}
	id := page.id
	if u.Fragment != "" {
		id += "--" + u.Fragment
	}
	c.links = append(c.links, id)
	return "#" + id, nil
}

// picture is a picture as a URL that holds it.
func (b *book) picture(c *chapter, file string) ([]byte, error) {
	if strings.Contains(file, "://") {
		return nil, fmt.Errorf("picture %s is elsewhere", file)
	}
	data, err := os.ReadFile(filepath.Join(b.top, path.Dir(c.file), file))
	if err != nil {
		return nil, err
	}
	kind := mime.TypeByExtension(path.Ext(file))
	return []byte("data:" + kind + ";base64," + base64.StdEncoding.EncodeToString(data)), nil
}

// manuals appends the manual pages, as mandoc(1) draws them.
func (b *book) manuals() error {
	files, err := filepath.Glob(filepath.Join(b.top, "man", "*.[1-9]"))
	if err != nil {
		return err
	}
	sort.Strings(files)
	part := "Manual pages"
	for _, file := range files {
		out, err := exec.Command("mandoc", "-T", "html", "-O", "fragment", file).Output()
		if err != nil {
			return fmt.Errorf("mandoc %s: %w", file, err)
		}
		name := filepath.Base(file)
		ext := filepath.Ext(name)
		c := &chapter{file: file, id: "man-" + slug(name), part: part, title: strings.TrimSuffix(name, ext) + "(" + ext[1:] + ")"}
		// Its ids are unique within a page only.
		out = regexp.MustCompile(`(id="|href="#)`).ReplaceAll(out, []byte("${1}"+c.id+"--"))
		c.body = append(fmt.Appendf(nil, "<h2>%s</h2>\n", escape(c.title)), out...)
		b.chapters, part = append(b.chapters, c), ""
	}
	return nil
}

func escape(s string) string { return html_.EscapeString(s) }

// page puts all together.
func (b *book) page(version string) []byte {
	var out bytes.Buffer
	fmt.Fprintf(&out, "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n"+
		"<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n<title>xend %[1]s</title>\n<style>%[2]s</style>\n"+
		"</head>\n<body>\n<nav>\n<h1>xend %[1]s</h1>\n", escape(version), style)
	open := false
	for _, c := range b.chapters {
		if c.part != "" {
			if open {
				out.WriteString("</ol>\n")
			}
			fmt.Fprintf(&out, "<h2>%s</h2>\n<ol>\n", escape(c.part))
			open = true
		}
		fmt.Fprintf(&out, "<li><a href=\"#%s\">%s</a></li>\n", c.id, escape(c.title))
	}
	out.WriteString("</ol>\n</nav>\n<main>\n")
	for _, c := range b.chapters {
		fmt.Fprintf(&out, "<section id=\"%s\">\n%s</section>\n", c.id, c.body)
	}
	out.WriteString("</main>\n</body>\n</html>\n")
	return out.Bytes()
}

// style is for screens of any width, light and dark, and for paper.
const style = `
:root { color-scheme: light dark; --line: #8884; }
body { font: 16px/1.5 system-ui, sans-serif; margin: 0; display: grid; grid-template-columns: 18rem minmax(0, 1fr); }
nav { position: sticky; top: 0; height: 100vh; overflow: auto; padding: 1rem; border-right: 1px solid var(--line); box-sizing: border-box; font-size: .9em; }
nav h1 { font-size: 1.2em; } nav h2 { font-size: 1em; margin: 1em 0 .2em; } nav ol { list-style: none; margin: 0; padding: 0; }
main { padding: 1rem 2rem; max-width: 60rem; }
section { border-bottom: 1px solid var(--line); padding-bottom: 2rem; margin-bottom: 2rem; }
pre { overflow: auto; padding: .7em; border: 1px solid var(--line); border-radius: 4px; line-height: 1.3; }
code, pre { font-family: ui-monospace, monospace; font-size: .92em; }
table { border-collapse: collapse; display: block; overflow: auto; } td, th { border: 1px solid var(--line); padding: .2em .5em; vertical-align: top; text-align: left; }
img { max-width: 100%; }
@media (max-width: 60rem) { body { display: block; } nav { position: static; height: auto; border: 0; } main { padding: 1rem; } }
@media print { nav { display: none; } body { display: block; } section { break-before: page; } }
`
