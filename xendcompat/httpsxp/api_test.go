package httpsxp

import (
	"fmt"
	"io"
	"net/url"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/xenvnet/xend/sxp"
	"github.com/xenvnet/xend/xendcompat/fronttest"
	"github.com/xenvnet/xend/xendcompat/httpx"
)

// client sends requests of its own.
type client struct {
	t       *testing.T
	address string
	// headers go with each request, such as those of a browser.
	headers string
}

func (c client) send(method, target, contentType, body string) reply {
	c.t.Helper()
	request := fmt.Sprintf("%s %s HTTP/1.1\r\nHost: localhost\r\n%s", method, target, c.headers)
	if contentType != "" {
		request += fmt.Sprintf("Content-Type: %s\r\nContent-Length: %d\r\n", contentType, len(body))
	}
	return parseReply(c.t, method, fronttest.Exchange(c.t, c.address, []byte(request+"\r\n"+body)))
}

func (c client) get(target string) reply { return c.send("GET", target, "", "") }

func (c client) post(target, form string) reply {
	return c.send("POST", target, "application/x-www-form-urlencoded", form)
}

func (c client) create(config string) reply {
	return c.post("/xend/vnet", url.Values{"op": {"create"}, "config": {config}}.Encode())
}

func newClient(t *testing.T) client {
	_, address := start(t)
	return client{t: t, address: address}
}

const (
	ok          = "HTTP/1.1 200 OK"
	notFound404 = "HTTP/1.1 404 Not found"
	browser     = "User-Agent: Mozilla/5.0 (X11)\r\nAccept: text/html,*/*;q=0.8\r\nOrigin: http://localhost\r\n"
)

func TestPaths(t *testing.T) {
	c := newClient(t)
	require.Equal(t, ok, c.create("(vnet (id 97) (odd field))").line)
	const config = "(vnet (id 97) (odd field))"
	for _, tt := range []struct{ target, line, body string }{
		{"/", ok, "(ls )"},
		{"//", ok, "(ls )"},
		{"/xend", ok, "(ls  node domain vnet)"},
		{"/xend/", ok, "(ls  node domain vnet)"},
		{"/xend/vnet", ok, "(97)"},
		{"//xend//vnet//", ok, "(97)"},
		{"/xend/%76net", ok, "(97)"},
		{"/xend/domain/x/../../vnet", ok, "(97)"},
		{"/xend/vnet?op=create&x=y", ok, "(97)"},
		{"/xend/vnet/97", ok, config},
		{"/xend/vnet/0097/", ok, config},
		{"/xend/vnet/0:0:0:0:0:0:0:97", ok, config},
		{"/xend/vnet/0000%3a0000:0000:0000:0000:0000:0000:0097", ok, config},
		{"/xend/vnet/97?op=delete", ok, config},
		{"/xend/vnet/97/foo", notFound404, "Not found: foo"},
		{"/xend/vnet/97/foo/bar", notFound404, "Not found: foo"},
		{"/xend/vnet/404", notFound404, "No such vnet 404"},
		{"/xend/vnet/404/x", notFound404, "No such vnet 404"},
		{"/xend/vnet/0000:97", notFound404, "No such vnet 0000:97"},
		{"/xend/vnet/a%20b", notFound404, "No such vnet a b"},
		{"/xend/vnet/2", notFound404, "No such vnet 2"},
		{"/nosuch", notFound404, "Not found: nosuch"},
		{"/nosuch/x", notFound404, "Not found: nosuch"},
		{"/xend/nosuch/x", notFound404, "Not found: nosuch"},
		{"/xend/node/nosuch", notFound404, "Not found: nosuch"},
		{"/xend/node/log/nosuch", notFound404, "Not found: nosuch"},
		{"/xend/domain", ok, "(Domain-0)"},
		{"/xend/domain/", ok, "(Domain-0)"},
		{"/xend/domain?state=halted", ok, "()"},
		{"/xend/domain?state=x", ok, "(xend.err 'unknown state: x')"},
		{"/xend/node/dmesg", ok, `(xend.err 'xend does not manage domains: operation dmesg is not supported; use dmesg')`},
		{"/xend/domain?detail=0", ok, "(Domain-0)"},
		{"/xend/domain/nosuch", notFound404, "No such domain nosuch"},
		{"/xend/domain/nosuch/x", notFound404, "No such domain nosuch"},
		{"/xend/domain/nosuch?detail=1", notFound404, "No such domain nosuch"},
		{"/xend/domain/nosuch?op=vcpuinfo", notFound404, "No such domain nosuch"},
		{"/xend/domain/0/x", notFound404, "Not found: x"},
		{"/xend/node/log", ok, ""},
	} {
		got := c.get(tt.target)
		require.Equal(t, tt.line, got.line, tt.target)
		require.Equal(t, tt.body, got.body, tt.target)
		switch {
		case tt.body == "":
			require.Empty(t, got.header.Get("Content-Type"))
		case tt.line == ok:
			require.Equal(t, "application/sxp", got.header.Get("Content-Type"), tt.target)
		default:
			require.Equal(t, "text/plain", got.header.Get("Content-Type"), tt.target)
		}
		// The same without a body, and of the same length.
		head := c.send("HEAD", tt.target, "", "")
		require.Equal(t, got.line, head.line)
		require.Equal(t, fmt.Sprint(len(tt.body)), head.header.Get("Content-Length"))
		require.Empty(t, head.body)
	}
}

func TestOperations(t *testing.T) {
	c := newClient(t)
	require.Empty(t, c.create("(vnet (id 97))").body)
	const (
		invalid = "HTTP/1.1 406 Invalid request"
		unknown = "HTTP/1.1 501 Operation not implemented: "
		noVnet  = "No such vnet 98"
	)
	for _, tt := range []struct{ target, form, line, body string }{
		{"/xend/vnet", "", invalid, ""},
		{"/xend/vnet", "op=", invalid, ""},
		{"/xend/vnet", "op=create&op=create", invalid, ""},
		{"/xend/vnet?op=create&op=create", "", invalid, ""},
		{"/xend/vnet", "op=delete", unknown + "delete", "Operation not implemented: delete"},
		{"/xend/vnet", "op=a%0d%0aX:%20b", unknown + "a  X: b", "Operation not implemented: a\r\nX: b"},
		{"/xend/vnet", "op=create", ok, "(xend.err 'Missing parameter: config')"},
		{"/xend/vnet?op=create", "", ok, "(xend.err 'Missing parameter: config')"},
		{"/xend/vnet", "op=create&config=a&config=b", ok, "(xend.err 'Too many values for config')"},
		{"/xend/vnet?config=a", "op=create&config=(vnet (id 97)(bridge b))", ok, "(xend.err 'invalid vnet config: id: vnet 97 exists already, with bridge vnet97 instead of b')"},
		{"/xend/vnet", "op=create&config=(a)(b)", ok, "(xend.err 'Too many sxprs')"},
		{"/xend/vnet", "op=create&config=(vnet (id 98)(bridge vnet97))", ok, "(xend.err 'invalid vnet config: bridge: vnet97 belongs to vnet 97')"},
		{"/xend/vnet", "op=create&config=(vnet (id 98)(security auth))", ok, "(xend.err 'invalid vnet config: security: auth needs a key, and none is configured on this host')"},
		{"/xend/vnet", "op=create&config=(vnet (id \"a'b\"))", ok, `(xend.err 'invalid vnet id')`},
		{"/xend/vnet/98", "op=delete", notFound404, noVnet},
		{"/xend/vnet/98", "", notFound404, noVnet},
		{"/xend/vnet/97", "", invalid, ""},
		{"/xend/vnet/97", "op=create", unknown + "create", "Operation not implemented: create"},
		{"/xend/vnet/97/x", "op=delete", notFound404, "Not found: x"},
		{"/xend/vnet/98", "op=change&config=(vnet (id 98))", notFound404, noVnet},
		{"/xend/vnet/97", "op=change", ok, "(xend.err 'Missing parameter: config')"},
		{"/xend/vnet/97", "op=change&config=(vnet (id 98))", ok, "(xend.err 'invalid vnet config: id: it is that of vnet 98, and vnet 97 is to be changed')"},
		{"/xend/vnet/97", "op=change&config=(vnet (id 97)(security auth))", ok, "(xend.err 'invalid vnet config: security: auth needs a key, and none is configured on this host')"},
		{"/xend/vnet/97?op=delete", "op=nothing", unknown + "nothing", "Operation not implemented: nothing"},
		{"/", "op=x", unknown + "x", "Operation not implemented: x"},
		{"/", "", invalid, ""},
		{"/xend", "op=x", unknown + "x", "Operation not implemented: x"},
		{"/xend/node", "op=shutdown", unknown + "shutdown", "Operation not implemented: shutdown"},
		{"/xend/node/log", "op=clear", unknown + "clear", "Operation not implemented: clear"},
		{"/xend/domain", "", invalid, ""},
		{"/xend/domain", "op=x", unknown + "x", "Operation not implemented: x"},
		{"/xend/domain", "op=create", ok, "(xend.err 'Missing parameter: config')"},
		{"/xend/domain", "op=create&config=(a)(b)", ok, "(xend.err 'Too many sxprs')"},
		{"/xend/domain", "op=restore", ok, "(xend.err 'Missing parameter: file')"},
		{"/xend/domain/x", "op=destroy", notFound404, "No such domain x"},
		{"/xend/domain/0", "", invalid, ""},
		{"/xend/domain/0", "op=x", unknown + "x", "Operation not implemented: x"},
		{"/xend/domain/0", "op=devices", ok, "(xend.err 'Missing parameter: type')"},
		{"/xend/domain/0", "op=devices&type=vbd", ok, "()"},
		{"/xend/domain/Domain-0", "op=devices&type=vif", ok, "()"},
		{"/xend/domain/0", "op=pause", ok, `(xend.err 'xend does not manage domains: operation pause is not supported; use xl pause')`},
	} {
		got := c.post(tt.target, tt.form)
		require.Equal(t, tt.line, got.line, "%s %s", tt.target, tt.form)
		if strings.Contains(tt.form, `a'b`) {
			require.Regexp(t, `^\(xend\.err '.*a\\'b.*'\)$`, got.body)
			continue
		}
		require.Equal(t, tt.body, got.body, "%s %s", tt.target, tt.form)
	}
	require.Equal(t, "(97)", c.get("/xend/vnet").body, "nothing has changed")

	// The query counts for POST, too, whatever type the body has.
	got := c.send("POST", "/xend/vnet/97?op=delete", "text/plain", "op=nothing")
	require.Equal(t, ok, got.line)
	require.Empty(t, got.body)
	require.Equal(t, "()", c.get("/xend/vnet").body)

	got = c.send("DELETE", "/xend/vnet/97", "", "")
	require.Equal(t, "HTTP/1.1 501 Not implemented", got.line)
	require.Equal(t, "GET,HEAD,POST", got.header.Get("Accept"))
	require.Equal(t, "Request method not supported (DELETE)", got.body)
}

// TestLibvirt talks as libvirt up to 0.9.4 did: raw bodies, many small segments.
// TestChange: the same vnet with another configuration, for programs and for browsers.
func TestChange(t *testing.T) {
	c := newClient(t)
	require.Empty(t, c.create("(vnet (id 97))").body)
	got := c.post("/xend/vnet/0097", url.Values{"op": {"change"}, "config": {"(vnet (id 97) (bridge br1))"}}.Encode())
	require.Equal(t, ok, got.line)
	require.Empty(t, got.body)
	require.Equal(t, "(vnet (id 97) (bridge br1))", c.get("/xend/vnet/97").body)
	c.headers = browser
	got = c.post("/xend/vnet/97", url.Values{"op": {"change"}, "config": {"(vnet (id 97) (bridge lo))"}}.Encode())
	require.Equal(t, "HTTP/1.1 303 See other", got.line)
	require.Equal(t, "/xend/vnet/97", got.header.Get("Location"))
	got = c.post("/xend/vnet/97", url.Values{"op": {"change"}, "config": {"(vnet (id 97) (bridge 'a b'))"}}.Encode())
	require.Contains(t, got.body, "invalid vnet config: bridge: the name &#34;a b&#34; contains whitespace")
}

func TestLibvirt(t *testing.T) {
	c := newClient(t)
	send := func(request string) reply {
		conn := fronttest.Dial(t, c.address)
		for len(request) > 0 {
			n := min(7, len(request))
			_, err := io.WriteString(conn, request[:n])
			require.NoError(t, err)
			request = request[n:]
		}
		return parseReply(t, "", fronttest.ReadAll(t, conn))
	}
	// A probe.
	fronttest.Dial(t, c.address).Close()

	node := send("GET /xend/node/ HTTP/1.1\r\nHost: localhost:8000\r\nContent-Type: application/x-www-form-urlencoded\r\n\r\n")
	require.Equal(t, ok, node.line)
	v, err := sxp.Parse([]byte(node.body), sxp.Xend)
	require.NoError(t, err)
	require.Equal(t, "node", v[0].Name())

	const config = `(vm (name 'a;b%41+c')(memory 64)(image (linux (args 'x & y=z "q" \'r\''))))`
	post := func(path, body string) reply {
		return send(fmt.Sprintf("POST %s HTTP/1.1\r\nHost: localhost:8000\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: %d\r\n\r\n%s", path, len(body), body))
	}
	defined := post("/xend/domain/", "op=new&config="+config)
	require.Equal(t, ok, defined.line)
	require.Equal(t, `(xend.err 'xend does not manage domains: operation new is not supported; use xl create')`, defined.body)
	require.Equal(t, "HTTP/1.1 404 Not found", post("/xend/domain/nosuch", "op=start").line)
	require.Equal(t, ok, post("/xend/vnet", "op=create&config=(vnet (id 97)(about 'a;b%41+c & x=y'))").line)
	require.Equal(t, "(vnet (id 97) (about 'a;b%41+c & x=y'))", c.get("/xend/vnet/97").body)

	domain := send("GET /xend/domain/Domain-0?detail=1 HTTP/1.1\r\nHost: localhost:8000\r\n\r\n")
	v, err = sxp.Parse([]byte(domain.body), sxp.Xend)
	require.NoError(t, err)
	require.Equal(t, "Domain-0", v[0].ChildValue("name", ""))
	require.Equal(t, "0", v[0].ChildValue("domid", ""))
	vcpus := send("GET /xend/domain/Domain-0?op=vcpuinfo HTTP/1.1\r\nHost: localhost:8000\r\n\r\n")
	v, err = sxp.Parse([]byte(vcpus.body), sxp.Xend)
	require.NoError(t, err)
	require.Equal(t, "domain", v[0].Name())
}

func TestWhoWantsHTML(t *testing.T) {
	_, address := start(t)
	for headers, want := range map[string]string{
		"":                                     "application/sxp",
		"Accept: text/html\r\n":                "application/sxp",
		"User-Agent: Mozilla/5.0\r\n":          "application/sxp",
		"User-Agent:\r\nAccept: text/html\r\n": "application/sxp",
		"User-Agent: x\r\nAccept: text/html, application/sxp\r\n":                    "application/sxp",
		"User-Agent: x\r\nAccept: text/html\r\nAccept: Application/SXP;q=0.1\r\n":    "application/sxp",
		"User-Agent: curl/8.0\r\nAccept: */*\r\n":                                    "text/html",
		"User-Agent: Mozilla/5.0\r\nAccept: text/html,application/xhtml+xml,*/*\r\n": "text/html",
	} {
		got := client{t: t, address: address, headers: headers}.get("/xend/vnet")
		require.Equal(t, want, got.header.Get("Content-Type"), "%q", headers)
	}
}

// TestBrowser goes through the pages as a person does.
func TestBrowser(t *testing.T) {
	c := newClient(t)
	c.headers = browser
	upload := func(config string) reply {
		const boundary = "----WebKitFormBoundary0123456789abcdef"
		body := legacy(boundary, fileHeader+config+"\r\n", opPart)
		return c.send("POST", "/xend/vnet", "multipart/form-data; boundary="+boundary, body)
	}
	require.Contains(t, c.get("/xend/vnet/").body, "no vnets yet")

	got := upload("(vnet (id 97) (note \"<b>&\"))\n")
	require.Equal(t, "HTTP/1.1 303 See other", got.line)
	require.Equal(t, "/xend/vnet/", got.header.Get("Location"))
	require.Contains(t, c.get("/xend/vnet/").body, `<a href="/xend/vnet/97">97</a>`)

	page := c.get("/xend/vnet/97")
	require.Contains(t, page.body, "&lt;b&gt;&amp;")
	require.NotContains(t, page.body, "<b>")
	require.Contains(t, page.header.Get("Content-Security-Policy"), "default-src 'none'")
	require.Equal(t, "DENY", page.header.Get("X-Frame-Options"))

	got = upload("(vnet (id 97) (x <script>))")
	require.Equal(t, ok, got.line)
	require.Contains(t, got.body, `role="alert">invalid vnet config: id: vnet 97 exists already, with (note &#39;&lt;b&gt;&amp;&#39;) more, (x &#39;&lt;script&#39; &#39;&gt;&#39;) less<`)
	require.Contains(t, got.body, "(vnet (id 97) (x &lt;script&gt;))</textarea>", "what was typed is not lost")
	require.NotContains(t, got.body, "<script>")

	require.Equal(t, "text/plain", c.get("/xend/vnet/404").header.Get("Content-Type"))
	require.Contains(t, c.get("/xend/node/").body, "<table>")
	require.Contains(t, c.get("/xend/domain/").body, `<a href="/xend/domain/Domain-0">`)
	require.Contains(t, c.get("/xend/domain/Domain-0").body, "<pre>")
	require.Contains(t, c.get("/").body, `href="/xend/"`)

	evil := c
	evil.headers = strings.Replace(browser, "http://localhost", "http://evil.example", 1)
	require.Equal(t, "HTTP/1.1 403 refused: the request comes from a page of another site", evil.post("/xend/vnet/97", "op=delete").line)
	require.Equal(t, ok, c.get("/xend/vnet/97").line)

	got = c.post("/xend/vnet/97", "op=delete")
	require.Equal(t, "HTTP/1.1 303 See other", got.line)
	require.Contains(t, c.get("/xend/vnet/").body, "no vnets yet")
}

// TestParallel has many clients create, read and delete at the same time.
func TestParallel(t *testing.T) {
	d := fronttest.New(t, false)
	s := New(d.Service, httpx.Options{Log: d.Log})
	addresses := []string{d.Unix(t, s), d.TCP(t, s)}
	var all sync.WaitGroup
	for i := range 200 {
		all.Go(func() {
			c := client{t: t, address: addresses[i%2]}
			if i >= 20 {
				require.Equal(t, ok, c.get("/xend/vnet").line)
				return
			}
			id := fmt.Sprintf("1%03x", i/2)
			// Two want the same.
			require.Empty(t, c.create("(vnet (id "+id+"))").body)
			require.Equal(t, "(vnet (id "+id+"))", c.get("/xend/vnet/"+id).body)
		})
	}
	all.Wait()
	v, err := sxp.Parse([]byte(client{t: t, address: addresses[0]}.get("/xend/vnet").body), sxp.Xend)
	require.NoError(t, err)
	require.Equal(t, 10, v[0].Len())
}

func TestUploadOfAMebibyte(t *testing.T) {
	c := newClient(t)
	config := "(vnet (id 97)) # " + strings.Repeat("x", 1<<20-600)
	got := c.send("POST", "/xend/vnet", "multipart/form-data; boundary=b", legacy("b", fileHeader+config, opPart))
	require.Equal(t, ok, got.line)
	require.Empty(t, got.body)
	got = c.send("POST", "/xend/vnet", "multipart/form-data; boundary=b", legacy("b", fileHeader+config+strings.Repeat("x", 600), opPart))
	require.Equal(t, "HTTP/1.1 413 Request entity too large", got.line)
}

// FuzzRouter asks a whole server for any path with any parameters.
func FuzzRouter(f *testing.F) {
	for _, s := range []string{"/", "/xend/vnet/97", "/xend/node/dmesg", "/xend/domain/0?op=vcpuinfo", "/xend/domain?state=x"} {
		f.Add("GET", s, "", false)
		f.Add("POST", s, "op=delete&config=(vnet (id 97))", true)
		f.Add("POST", s, "op=change&config=(vnet (id 97))", true)
	}
	d := fronttest.New(f, false)
	s := New(d.Service, httpx.Options{Log: d.Log})
	f.Fuzz(func(t *testing.T, method, target, form string, html bool) {
		if method == "POST" && strings.Contains(form, "create") {
			return // devices are made elsewhere
		}
		path, query, _ := strings.Cut(target, "?")
		r := &httpx.Request{Method: method, Target: target, Query: query, Header: map[string][]string{}, Body: []byte(form)}
		for e := range strings.SplitSeq(path, "/") {
			if e = httpx.Unescape(e, false); e != "" {
				r.Path = append(r.Path, e)
			}
		}
		if html {
			r.Header.Set("User-Agent", "x")
			r.Header.Set("Accept", "*/*")
		}
		reply := s.Handle(t.Context(), r)
		require.NotNil(t, reply)
		require.NotZero(t, reply.Status)
		if reply.Type == httpx.SXP && len(reply.Body) > 0 {
			_, err := sxp.Parse(reply.Body, sxp.Xend)
			require.NoError(t, err, "%q", reply.Body)
		}
	})
}
