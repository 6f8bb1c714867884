package status_test

import (
	"fmt"
	"math"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/html"

	"github.com/xenvnet/xend/dataplane"
	"github.com/xenvnet/xend/xendcompat/events"
	"github.com/xenvnet/xend/xendcompat/httpx"
	"github.com/xenvnet/xend/xendcompat/service"
	"github.com/xenvnet/xend/xendcompat/status"
	"github.com/xenvnet/xend/xendcompat/status/statustest"
)

// pages are all pages of a scene, by their names.
func pages(t *testing.T, scene *statustest.Scene) map[string][]byte {
	t.Helper()
	st := newStatus(t, scene)
	all := map[string][]byte{}
	everybody := st.Handler(status.Everybody(), &old{})
	for name, h := range map[string]httpx.Handler{
		"": everybody, " read-only": st.Handler(open(t, status.Files{ReadOnly: true}), nil),
	} {
		get := func(page, path string) {
			r := h.Handle(t.Context(), browser("GET", path, nil))
			require.Contains(t, []int{200, 404}, r.Status, path)
			all[page+name] = r.Body
		}
		get("front", "/xend/")
		get("found", "/xend/?q="+url.QueryEscape(scene.State.Vnets[0].Bridge))
		get("not found", "/xend/?q=nothing+of+this+name")
		get("no vnet", "/xend/vnet/404")
		get("events", "/xend/events")
		get("events found", "/xend/events?q=vnet")
		get("check", "/xend/check")
		get("no host", "/xend/host/1.2.3.4")
		const some = 3
		for _, v := range scene.All()[:min(some, len(scene.All()))] {
			get("vnet "+v.IDText, "/xend/vnet/"+v.IDText)
			get("vnet searched "+v.IDText, "/xend/vnet/"+v.IDText+"?mac=zz")
		}
		for _, x := range scene.State.Hosts[:min(some, len(scene.State.Hosts))] {
			get("host "+x.Addr.String(), "/xend/host/"+x.Addr.String())
		}
	}
	all["checked"] = everybody.Handle(t.Context(), browser("POST", "/xend/check", url.Values{"seal": {seal(t, all["check"])}})).Body
	login := st.Handler(open(t, status.Files{Token: write(t, "token", token)}), nil)
	all["changing"] = everybody.Handle(t.Context(), browser("POST", "/xend/form", url.Values{
		"seal": {seal(t, all["front"])}, "op": {"show"}, "of": {scene.All()[0].IDText}, "bridge": {"a b"},
	})).Body
	all["login"] = login.Handle(t.Context(), browser("GET", "/login?to=/xend/", nil)).Body
	all["refused"] = login.Handle(t.Context(), browser("POST", "/login", url.Values{"token": {"no"}, "to": {"/xend/"}})).Body
	return all
}

func scenes() map[string]*statustest.Scene {
	return map[string]*statustest.Scene{"well": statustest.Well(), "ill": statustest.Ill(), "large": statustest.Large(205, 300)}
}

func parse(t *testing.T, page []byte) *html.Node {
	t.Helper()
	doc, err := html.Parse(strings.NewReader(string(page)))
	require.NoError(t, err)
	return doc
}

func attr(n *html.Node, name string) string {
	for _, a := range n.Attr {
		if a.Key == name {
			return a.Val
		}
	}
	return ""
}

func words(n *html.Node) string {
	var b strings.Builder
	for d := range n.Descendants() {
		if d.Type == html.TextNode {
			b.WriteString(d.Data + " ")
		}
	}
	return strings.Join(strings.Fields(b.String()), " ")
}

func elements(doc *html.Node, names ...string) []*html.Node {
	var list []*html.Node
	for n := range doc.Descendants() {
		if n.Type == html.ElementNode && slices.Contains(names, n.Data) {
			list = append(list, n)
		}
	}
	return list
}

// TestFront: troubles first, each with its evidence and its cure, and then what an operator wants to know.
func TestFront(t *testing.T) {
	page := string(pages(t, statustest.Ill())["front"])
	last := -1
	for _, text := range []string{
		`<span class="pill bad">broken</span>`,
		"<b>vnet 1a0</b>: down: bridge vnet1a0 is gone</p><p class=\"cure\"><code>vn events -g vnet=1a0</code>",
		"<b>group 224.10.0.1</b>: nothing comes from it",
		"<b>bridge vnet98</b>",
		">Underlay</h2>", "silent, although other hosts are there",
		">Who is there</h2>", "secured", `href="/xend/host/192.0.2.2"`,
		">Vnets</h2>", `<a class="id" href="/xend/vnet/97">97</a>`, "web1</a>, <a", "3 / 6", `aria-label="in `,
		`<span class="pill bad">down</span> <span class="small">bridge vnet1a0 is gone</span>`,
		">Create a vnet</summary>",
		">Other hosts</h2>", `<a class="id" href="/xend/host/192.0.2.3">192.0.2.3</a>`, "configuration",
		">Dropped</h2>", "flapping", dataplane.DropFlapping.Help(),
		">Events</h2>", "a vnet can&#39;t be restored; it will be tried again", "vnet restored", "xend is ready",
	} {
		at := strings.Index(page[last+1:], text)
		require.GreaterOrEqual(t, at, 0, "%q comes where it should\n%s", text, page)
		last += 1 + at
	}
	well := string(pages(t, statustest.Well())["front"])
	require.Contains(t, well, `<span class="pill ok">well</span>`)
	require.NotContains(t, well, `class="trouble`)
}

// TestLarge: a page stays one that can be read, and what is down is on it.
func TestLarge(t *testing.T) {
	scene := statustest.Large(500, 1000)
	scene.State.Vnets[499].Up, scene.State.Vnets[499].Problem = false, "interface vnif2f3 is gone"
	all := pages(t, scene)
	require.Equal(t, 200, strings.Count(string(all["front"]), `<a class="id" href="/xend/vnet/`))
	require.Contains(t, string(all["front"]), "interface vnif2f3 is gone")
	require.Contains(t, string(all["front"]), "300 more are not shown")
	require.Equal(t, 1, strings.Count(string(all["found"]), `<a class="id" href="/xend/vnet/`))
	require.Contains(t, string(all["not found"]), "“nothing of this name”")
}

// TestAccessibility: what a screen reader and a keyboard need.
func TestAccessibility(t *testing.T) {
	for scene, s := range scenes() {
		for name, page := range pages(t, s) {
			where := scene + ", " + name
			doc := parse(t, page)
			require.Equal(t, "en", attr(elements(doc, "html")[0], "lang"), where)
			require.NotEmpty(t, words(elements(doc, "title")[0]), where)
			require.Len(t, elements(doc, "main"), 1, where)
			require.Len(t, elements(doc, "h1"), 1, where)
			level := 1
			for _, h := range elements(doc, "h1", "h2", "h3", "h4") {
				n := int(h.Data[1] - '0')
				require.LessOrEqual(t, n, level+1, "%s: heading %q skips a level", where, words(h))
				require.NotEmpty(t, words(h), where)
				level = n
			}
			ids := map[string]bool{}
			for n := range doc.Descendants() {
				if id := attr(n, "id"); n.Type == html.ElementNode && id != "" {
					require.False(t, ids[id], "%s: two elements are called %s", where, id)
					ids[id] = true
				}
			}
			labels := map[string]bool{}
			for _, l := range elements(doc, "label") {
				require.NotEmpty(t, words(l), where)
				labels[attr(l, "for")] = true
			}
			for n := range doc.Descendants() {
				if n.Type != html.ElementNode {
					continue
				}
				for _, name := range []string{"aria-labelledby", "aria-describedby"} {
					for _, id := range strings.Fields(attr(n, name)) {
						require.True(t, ids[id], "%s: there is no %s", where, id)
					}
				}
				switch n.Data {
				case "input", "select", "textarea":
					wrapped := false
					for p := range n.Ancestors() {
						wrapped = wrapped || p.Data == "label"
					}
					require.True(t, wrapped || attr(n, "type") == "hidden" || labels[attr(n, "id")], "%s: the field %s has no label", where, attr(n, "name"))
				case "button", "a", "summary":
					require.NotEmpty(t, words(n), "%s: %s without words", where, n.Data)
					if href := attr(n, "href"); strings.HasPrefix(href, "#") {
						require.True(t, ids[href[1:]], "%s: %s leads nowhere", where, href)
					}
				case "svg":
					require.Contains(t, []string{"img", "group"}, attr(n, "role"), where)
					require.True(t, attr(n, "aria-label") != "" || attr(n, "aria-labelledby") != "", "%s: a picture without words", where)
				case "th":
					require.Equal(t, "col", attr(n, "scope"), where)
				case "section", "nav":
					require.True(t, attr(n, "aria-label") != "" || attr(n, "aria-labelledby") != "", "%s: %s has no name", where, n.Data)
				case "td": // the name that it has on a phone
					require.True(t, slices.ContainsFunc(n.Attr, func(a html.Attribute) bool { return a.Key == "data-label" }), "%s: %s", where, words(n))
				}
			}
		}
	}
}

// hostile is what could break out of anything.
const hostile = `"'><script>alert(1)</script><img src=x onerror=alert(2)>&lt;{{.}}` + "`javascript:alert(3)//"

// TestHostileNames: domains, devices, hosts' words and events are chosen by others.
func TestHostileNames(t *testing.T) {
	s := statustest.Ill()
	for bridge, ports := range s.On {
		for i := range ports {
			ports[i].Domain, ports[i].Device = hostile+strconv.Itoa(i), hostile
		}
		s.On[bridge] = ports
	}
	for i := range s.State.Vnets {
		s.State.Vnets[i].Problem = hostile
	}
	s.State.Underlays[0].Reason, s.State.Underlays[0].Device = hostile, hostile
	s.State.Hosts[0].Sources = []string{hostile}
	s.Sick.Troubles = append(s.Sick.Troubles, service.Trouble{Severity: service.Degraded, Of: hostile, Text: hostile, Cure: hostile})
	s.Log = append(s.Log, events.Event{Level: hostile, Text: hostile, Attrs: []events.Attr{{Key: hostile, Value: hostile}}})
	for i := range s.Picture.Hosts {
		s.Picture.Hosts[i].Name = hostile
		for j := range s.Picture.Hosts[i].Vnets {
			v := &s.Picture.Hosts[i].Vnets[j]
			v.ID, v.Bridge, v.Problem = hostile, hostile, hostile
			for k := range v.Ports {
				v.Ports[k].Domain = hostile
			}
		}
	}
	all := pages(t, s)
	h := newStatus(t, s).Handler(status.Everybody(), nil)
	all["searched"] = h.Handle(t.Context(), browser("GET", "/xend/?q="+url.QueryEscape(hostile), nil)).Body
	all["MACs searched"] = h.Handle(t.Context(), browser("GET", "/xend/vnet/97?mac="+url.QueryEscape(hostile), nil)).Body
	all["no such vnet"] = h.Handle(t.Context(), browser("GET", "/xend/vnet/"+url.PathEscape(hostile), nil)).Body
	form := url.Values{"seal": {seal(t, all["searched"])}, "op": {"show"}}
	for _, f := range []string{"id", "bridge", "vnetif", "security"} {
		form.Set(f, hostile)
	}
	all["form"] = h.Handle(t.Context(), browser("POST", "/xend/form", form)).Body
	form.Set("of", "97")
	all["change"] = h.Handle(t.Context(), browser("POST", "/xend/form", form)).Body
	require.Contains(t, string(all["change"]), "<details open><summary>Change vnet 97")
	l := newStatus(t, s).Handler(open(t, status.Files{Token: write(t, "token", token)}), nil)
	all["login to"] = l.Handle(t.Context(), browser("GET", "/login?to=/"+url.QueryEscape(hostile), nil)).Body
	for name, page := range all {
		require.NotContains(t, string(page), "ZgotmplZ", name)
		doc := parse(t, page)
		for n := range doc.Descendants() {
			if n.Type != html.ElementNode {
				continue
			}
			require.False(t, n.Data == "script" && attr(n, "src") != "/xend/-/page.js" || n.Data == "img", "%s: %s", name, page)
			for _, a := range n.Attr {
				require.False(t, strings.HasPrefix(a.Key, "on") || a.Key == "style", "%s: attribute %s of %s", name, a.Key, n.Data)
				if a.Key == "href" || a.Key == "src" || a.Key == "action" || a.Key == "data-live" {
					require.Regexp(t, `^(#|/($|[^/\\]))`, a.Val, "%s: %s leads elsewhere", name, n.Data)
				}
			}
		}
	}
	require.Contains(t, words(parse(t, all["front"])), strings.Join(strings.Fields(hostile), " "), "what is shown is what it was")
	// And what the script asks for is a text, whatever is in it.
	r := h.Handle(t.Context(), browser("GET", "/xend/form?id="+url.QueryEscape(hostile), nil))
	require.Equal(t, http.StatusOK, r.Status)
	require.Equal(t, httpx.Plain, r.Type)
}

// TestNothingFromElsewhere: pages, styles and scripts name no other server.
func TestNothingFromElsewhere(t *testing.T) {
	for _, name := range []string{"page.css", "page.js", "page.tmpl"} {
		b, err := os.ReadFile("assets/" + name)
		require.NoError(t, err)
		require.NotRegexp(t, `(https?:)?//[a-z]|@import|url\(`, string(b), name)
	}
}

// TestContrast: texts can be read on what is behind them, in the light and in the dark (WCAG 2, 1.4.3: 4.5 to 1).
func TestContrast(t *testing.T) {
	b, err := os.ReadFile("assets/page.css")
	require.NoError(t, err)
	blocks := regexp.MustCompile(`(?s):root \{(.*?)\}`).FindAllStringSubmatch(string(b), 2)
	require.Len(t, blocks, 2)
	for i, block := range blocks {
		colour := map[string][3]float64{}
		for _, m := range regexp.MustCompile(`--([a-z-]+): #([0-9a-f]{6})`).FindAllStringSubmatch(block[1], -1) {
			n, err := strconv.ParseUint(m[2], 16, 32)
			require.NoError(t, err)
			colour[m[1]] = [3]float64{float64(n >> 16), float64(n >> 8 & 255), float64(n & 255)}
		}
		for _, pair := range [][2]string{
			{"text", "page"}, {"text", "card"}, {"text", "hover"}, {"soft", "page"}, {"soft", "card"}, {"soft", "hover"}, {"link", "page"}, {"link", "card"},
			{"card", "link"}, {"ok", "ok-soft"}, {"warn", "warn-soft"}, {"bad", "bad-soft"}, {"text", "warn-soft"}, {"text", "bad-soft"}, {"bad", "card"}, {"soft", "bad-soft"}, {"soft", "warn-soft"},
		} {
			a, okA := colour[pair[0]]
			b, okB := colour[pair[1]]
			require.True(t, okA && okB, "%v", pair)
			require.GreaterOrEqual(t, contrast(a, b), 4.5, "%s on %s, %s", pair[0], pair[1], []string{"light", "dark"}[i])
		}
	}
}

// contrast is the ratio of two colours' relative luminances, as WCAG 2 has it.
func contrast(a, b [3]float64) float64 {
	luminance := func(c [3]float64) float64 {
		sum := 0.0
		for i, weight := range []float64{.2126, .7152, .0722} {
			v := c[i] / 255
			if v <= .03928 {
				v /= 12.92
			} else {
				v = math.Pow((v+.055)/1.055, 2.4)
			}
			sum += weight * v
		}
		return sum
	}
	x, y := luminance(a)+.05, luminance(b)+.05
	return max(x, y) / min(x, y)
}

// FuzzForm: whatever is sent to the forms, the answer is a page, and nothing is made without the seal.
func FuzzForm(f *testing.F) {
	f.Add([]byte("op=create&id=97&seal=x"), "application/x-www-form-urlencoded")
	f.Add([]byte("op=show&security=conf&id=%00&bridge=%22"), "application/x-www-form-urlencoded; charset=utf-8")
	f.Add([]byte("op=change&of=97&bridge=%22x&seal=x"), "application/x-www-form-urlencoded")
	f.Add([]byte("op=change&of=9"), "application/x-www-form-urlencoded")
	f.Add([]byte("token=x&to=//evil"), "")
	scene := statustest.Well()
	st := status.New(scene, status.Options{Log: discard, Now: scene.Now})
	h := st.Handler(status.Everybody(), nil)
	good := ""
	if m := regexp.MustCompile(`name="seal" value="([^"]+)"`).FindSubmatch(h.Handle(f.Context(), browser("GET", "/xend/", nil)).Body); m != nil {
		good = string(m[1])
	}
	f.Fuzz(func(t *testing.T, body []byte, media string) {
		for _, path := range []string{"/xend/form", "/login"} {
			r := browser("POST", path, url.Values{}, "Content-Type", media)
			r.Body = body
			require.NotContains(t, []int{0, 500}, h.Handle(t.Context(), r).Status)
		}
		require.Len(t, scene.All(), 3)
		r := browser("POST", "/xend/form", url.Values{})
		r.Body = append([]byte("op=show&seal="+good+"&"), body...)
		reply := h.Handle(t.Context(), r)
		if reply.Status != http.StatusOK { // body may name a vnet to change that is not there
			require.Equal(t, http.StatusNotFound, reply.Status)
			require.Contains(t, string(reply.Body), "No such vnet")
		}
		for _, n := range elements(parse(t, reply.Body), "script") {
			require.Equal(t, "/xend/-/page.js", attr(n, "src"))
		}
		r = browser("GET", "/xend/form?"+string(body), nil)
		require.Equal(t, http.StatusOK, h.Handle(t.Context(), r).Status)
	})
}

// FuzzTokens: a file of tokens lets in those that it has, and nobody else.
func FuzzTokens(f *testing.F) {
	f.Add([]byte("# x\ncorrect-horse-battery-staple\n"), "correct-horse-battery-staple")
	f.Add([]byte("\xff\r\n"), "")
	f.Fuzz(func(t *testing.T, file []byte, token string) {
		ok, err := status.TokensKnow(file, token)
		if err != nil {
			return
		}
		has := false
		for line := range strings.Lines(string(file)) {
			line = strings.TrimSpace(line)
			has = has || line == token && len(line) >= 16 && !strings.HasPrefix(line, "#")
		}
		require.Equal(t, has, ok, fmt.Sprintf("%q", file))
	})
}

// TestDrops: what was dropped of a vnet, and of what came from a host, is on their pages and in the vnets' table.
func TestDrops(t *testing.T) {
	all := pages(t, statustest.Ill())
	for page, want := range map[string]string{"vnet 97": "Dropped flapping 4 410 , duplicate 8", "host 192.0.2.2": "came from it flapping 4 400", "vnet 98": "Dropped nothing"} {
		require.Contains(t, words(parse(t, all[page])), want, page)
	}
	require.Contains(t, string(all["front"]), `data-label="Dropped" title="flapping 4410, duplicate 8">4`+"\u202f"+`418</td>`)
}
