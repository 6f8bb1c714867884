package status_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/xenvnet/xend/xendcompat/httpx"
	"github.com/xenvnet/xend/xendcompat/status"
	"github.com/xenvnet/xend/xendcompat/status/statustest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var discard = slog.New(slog.DiscardHandler)

const token = "correct-horse-battery-staple"

// write makes a file of a test.
func write(t *testing.T, name, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), name)
	require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
	return file
}

func open(t *testing.T, f status.Files) *status.Access {
	t.Helper()
	a, err := status.OpenAccess(f)
	require.NoError(t, err)
	return a
}

// browser sends what a browser sends.
func browser(method, path string, form url.Values, fields ...string) *httpx.Request {
	path, query, _ := strings.Cut(path, "?")
	r := &httpx.Request{
		Method: method, Target: path, Query: query, Header: http.Header{
			"User-Agent": {"Mozilla/5.0"}, "Accept": {"text/html,application/xhtml+xml,*/*;q=0.8"},
		},
	}
	for e := range strings.SplitSeq(path, "/") {
		if e = httpx.Unescape(e, false); e != "" {
			r.Path = append(r.Path, e)
		}
	}
	if form != nil {
		r.Body = []byte(form.Encode())
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	for i := 0; i+1 < len(fields); i += 2 {
		r.Header.Set(fields[i], fields[i+1])
	}
	return r
}

// header returns a field of a reply.
func header(r *httpx.Reply, name string) string {
	for _, f := range r.Header {
		if strings.EqualFold(f.Name, name) {
			return f.Value
		}
	}
	return ""
}

// old stands for what serves old clients.
type old struct{ asked int }

func (o *old) Handle(context.Context, *httpx.Request) *httpx.Reply {
	o.asked++
	return httpx.OK(httpx.SXP, []byte("(ls  node domain vnet)"))
}

// TestWhoAnswers: pages for people, and for programs what there was before.
func TestWhoAnswers(t *testing.T) {
	next := &old{}
	h := newStatus(t, statustest.Well()).Handler(status.Everybody(), next)
	do := func(r *httpx.Request) *httpx.Reply { return h.Handle(t.Context(), r) }
	for _, path := range []string{"/xend/", "/xend/vnet/97", "/xend/vnet/0000:0000:0000:0000:0000:0000:0000:0097", "/xend/host/192.0.2.2"} {
		r := do(browser("GET", path, nil))
		require.Equal(t, 200, r.Status, path)
		require.Equal(t, "text/html; charset=utf-8", r.Type)
	}
	require.Equal(t, 303, do(browser("GET", "/", nil)).Status)
	require.Equal(t, 404, do(browser("GET", "/xend/vnet/404", nil)).Status)
	require.Equal(t, 404, do(browser("GET", "/xend/host/192.0.2.77", nil)).Status)
	require.Equal(t, 404, do(browser("GET", "/xend/host/nobody", nil)).Status)
	require.Zero(t, next.asked)
	for _, path := range []string{"/xend/vnet/", "/xend/domain/", "/xend/domain/web1", "/xend/node/", "/xend/node/log", "/nothing"} {
		n := next.asked
		do(browser("GET", path, nil))
		require.Equal(t, n+1, next.asked, path)
	}
	// Programs say so by Accept, or say nothing.
	for _, r := range []*httpx.Request{
		browser("GET", "/xend/", nil, "Accept", "application/sxp"),
		{Method: "GET", Path: []string{"xend"}, Header: http.Header{}},
		{Method: "GET", Path: []string{"xend", "vnet", "97"}, Header: http.Header{}},
		browser("POST", "/xend/vnet", url.Values{"op": {"create"}}),
		browser("POST", "/xend/vnet/97", url.Values{"op": {"delete"}}),
		browser("POST", "/xend/vnet/97", url.Values{"op": {"change"}}),
	} {
		n := next.asked
		do(r)
		require.Equal(t, n+1, next.asked, "%s %s", r.Method, r.Path)
	}
	require.Equal(t, 501, do(browser("POST", "/metrics", url.Values{})).Status)
}

// TestHealth: as monitoring and load balancers ask.
func TestHealth(t *testing.T) {
	ask := func(scene *statustest.Scene, path string, a *status.Access) (int, string) {
		h := status.New(scene, status.Options{Log: slog.New(slog.DiscardHandler), Now: scene.Now}).Handler(a, nil)
		r := h.Handle(t.Context(), &httpx.Request{Method: "GET", Path: []string{path}, Header: http.Header{}})
		return r.Status, string(r.Body)
	}
	code, body := ask(statustest.Well(), "healthz", status.Everybody())
	require.Equal(t, 200, code)
	require.Equal(t, "well\n", body)
	code, body = ask(statustest.Well(), "readyz", status.Everybody())
	require.Equal(t, 200, code)
	require.Equal(t, "ready\n", body)

	code, body = ask(statustest.Ill(), "healthz", status.Everybody())
	require.Equal(t, 503, code)
	require.True(t, strings.HasPrefix(body, "broken\nbroken: vnet 1a0: down: bridge vnet1a0 is gone\n  → "), body)
	code, body = ask(statustest.Ill(), "readyz", status.Everybody())
	require.Equal(t, 503, code)
	require.True(t, strings.HasPrefix(body, "not ready: 2 of 3 vnets are up\n"), body)

	cut := statustest.Well()
	cut.State.Underlays[0].Up = false
	_, body = ask(cut, "readyz", status.Everybody())
	require.True(t, strings.HasPrefix(body, "not ready: no underlay is up\n"), body)

	// Whoever has no token learns no more than whether it works.
	a := open(t, status.Files{Token: write(t, "token", token)})
	code, body = ask(statustest.Ill(), "healthz", a)
	require.Equal(t, 503, code)
	require.Equal(t, "broken\n", body)
}

// TestToken: programs send it with each request, people once.
func TestToken(t *testing.T) {
	scene := statustest.Well()
	h := newStatus(t, scene).Handler(open(t, status.Files{Token: write(t, "token", "# of the monitoring\n\n"+token+"\n"), Certificate: "", ReadOnly: false}), &old{})
	do := func(r *httpx.Request) *httpx.Reply { return h.Handle(t.Context(), r) }
	metrics := func(fields ...string) int {
		r := &httpx.Request{Method: "GET", Target: "/metrics", Path: []string{"metrics"}, Header: http.Header{}}
		for i := 0; i+1 < len(fields); i += 2 {
			r.Header.Set(fields[i], fields[i+1])
		}
		return do(r).Status
	}
	require.Equal(t, 401, metrics())
	require.Equal(t, 401, metrics("Authorization", "Bearer "+token+"x"))
	require.Equal(t, 401, metrics("Authorization", "Bearer # of the monitoring"))
	require.Equal(t, 401, metrics("Authorization", "Basic "+token))
	require.Equal(t, 200, metrics("Authorization", "Bearer "+token))
	require.Equal(t, 401, metrics("Cookie", "xend_session=1.2.3"))

	// Everything else asks, too.
	for _, path := range []string{"/xend/node/log", "/xend/domain/", "/xend/form"} {
		require.NotEqual(t, 200, do(browser("GET", path, nil)).Status, path)
		require.Equal(t, 401, do(browser("POST", path, url.Values{"op": {"create"}})).Status, path)
	}
	// A person is sent to the page that asks, and back.
	r := do(browser("GET", "/xend/vnet/97?mac=00", nil))
	require.Equal(t, 303, r.Status)
	to := header(r, "Location")
	require.Equal(t, "/login?to=%2Fxend%2Fvnet%2F97", to)
	require.Contains(t, string(do(browser("GET", to, nil)).Body), `type="password"`)
	r = do(browser("POST", "/login", url.Values{"token": {"wrong"}, "to": {"/xend/vnet/97"}}))
	require.Equal(t, 403, r.Status)
	require.Empty(t, header(r, "Set-Cookie"))
	r = do(browser("POST", "/login", url.Values{"token": {token}, "to": {"/xend/vnet/97"}}))
	require.Equal(t, 303, r.Status)
	require.Equal(t, "/xend/vnet/97", header(r, "Location"))
	set := header(r, "Set-Cookie")
	require.Contains(t, set, "HttpOnly")
	require.Contains(t, set, "SameSite=Strict")
	cookie, _, _ := strings.Cut(set, ";")
	require.Equal(t, 200, do(browser("GET", "/xend/vnet/97", nil, "Cookie", cookie)).Status)
	require.Equal(t, 303, do(browser("GET", "/xend/vnet/97", nil, "Cookie", cookie+"x")).Status)
	// A session ends.
	scene.Pass(13 * time.Hour)
	require.Equal(t, 303, do(browser("GET", "/xend/vnet/97", nil, "Cookie", cookie)).Status)

	for _, evil := range []string{"//evil.example/", "https://evil.example/", "/\\evil.example", "/x\r\nSet-Cookie: a=b", ""} {
		r = do(browser("POST", "/login", url.Values{"token": {token}, "to": {evil}}))
		require.Equal(t, "/xend/", header(r, "Location"), evil)
	}
}

// TestSessionsEndWithTokens: who takes a token away lets nobody in who had it.
func TestSessionsEndWithTokens(t *testing.T) {
	file := write(t, "token", token)
	a := open(t, status.Files{Token: file})
	h := newStatus(t, statustest.Well()).Handler(a, nil)
	r := h.Handle(t.Context(), browser("POST", "/login", url.Values{"token": {token}}))
	cookie, _, _ := strings.Cut(header(r, "Set-Cookie"), ";")
	ask := func() int {
		return h.Handle(t.Context(), browser("GET", "/xend/", nil, "Cookie", cookie)).Status
	}
	require.Equal(t, 200, ask())
	require.NoError(t, os.WriteFile(file, []byte("short"), 0o600))
	require.ErrorContains(t, a.Reload(), "the token has 5 characters, and needs 16 at least")
	require.Equal(t, 200, ask(), "after a mistake all is as it was")
	require.NoError(t, os.WriteFile(file, []byte("another-horse-battery-staple"), 0o600))
	require.NoError(t, a.Reload())
	require.Equal(t, 303, ask())
}

func TestAccessErrors(t *testing.T) {
	public := write(t, "public", token)
	require.NoError(t, os.Chmod(public, 0o644))
	cert, key, _ := certificate(t, "xend.test", nil)
	for want, f := range map[string]status.Files{
		"no such file":     {Token: "/nowhere/token"},
		"chmod 600":        {Token: public},
		"holds no token":   {Token: write(t, "empty", "# nobody\n")},
		"line 2: the":      {Token: write(t, "short", "#\nsecret\n")},
		"without blanks":   {Token: write(t, "blank", "correct horse battery staple")},
		"not a regular":    {Token: t.TempDir()},
		"tls_cert":         {Certificate: write(t, "c", "x"), Key: write(t, "k", "y")},
		"no certificate":   {Certificate: cert, Key: key, ClientCA: write(t, "ca", "nothing")},
		"tls_key: open /n": {Certificate: cert, Key: "/nowhere/key"},
	} {
		_, err := status.OpenAccess(f)
		require.ErrorContains(t, err, want)
		require.ErrorContains(t, err, "[status] ")
	}
}

// seal finds what a page's forms are sealed with.
func seal(t *testing.T, body []byte) string {
	t.Helper()
	m := regexp.MustCompile(`name="seal" value="([^"]+)"`).FindSubmatch(body)
	require.NotNil(t, m)
	return string(m[1])
}

// forms are the configurations of a scene's vnets.
func forms(s *statustest.Scene) (list []string) {
	for _, v := range s.All() {
		list = append(list, v.Form.String())
	}
	return list
}

// TestForms makes a vnet and deletes it, as a browser without JavaScript does.
func TestForms(t *testing.T) {
	scene := statustest.Well()
	h := newStatus(t, scene).Handler(status.Everybody(), nil)
	do := func(r *httpx.Request) *httpx.Reply { return h.Handle(t.Context(), r) }
	page := do(browser("GET", "/xend/", nil))
	s := seal(t, page.Body)

	form := url.Values{"seal": {s}, "id": {"a5"}, "bridge": {""}, "vnetif": {"lan five"}, "security": {"conf"}, "op": {"show"}}
	r := do(browser("POST", "/xend/form", form))
	require.Contains(t, string(r.Body), `(vnet (id a5) (vnetif &#39;lan five&#39;) (security conf))`)
	require.Contains(t, string(r.Body), "invalid vnet config: vnetif")
	require.Len(t, scene.All(), 3, "nothing is made")

	form.Set("op", "create")
	r = do(browser("POST", "/xend/form", form))
	require.Equal(t, 409, r.Status)
	require.Contains(t, string(r.Body), "The vnet was not created: invalid vnet config: vnetif")
	require.Contains(t, string(r.Body), `value="lan five"`, "what was typed is still there")

	form.Set("vnetif", "lan5")
	r = do(browser("POST", "/xend/form", form))
	require.Equal(t, 303, r.Status)
	require.Equal(t, "/xend/vnet/a5", header(r, "Location"))
	c, err := scene.FindDeletable("a5")
	require.NoError(t, err)
	require.Equal(t, "(vnet (id a5) (vnetif lan5) (security conf))", c.Form.String())

	page = do(browser("GET", "/xend/vnet/a5", nil))
	require.Contains(t, string(page.Body), "Delete vnet a5")
	r = do(browser("POST", "/xend/form", url.Values{"seal": {seal(t, page.Body)}, "id": {"a5"}, "op": {"delete"}}))
	require.Equal(t, 303, r.Status)
	require.Len(t, scene.All(), 3)
	r = do(browser("POST", "/xend/form", url.Values{"seal": {s}, "id": {"a5"}, "op": {"delete"}}))
	require.Equal(t, 404, r.Status)

	scene.Refuse = errors.New("the disk is full")
	r = do(browser("POST", "/xend/form", url.Values{"seal": {s}, "id": {"97"}, "op": {"delete"}}))
	require.Equal(t, 409, r.Status)
	require.Contains(t, string(r.Body), "The vnet was not deleted: the disk is full")

	// What the script of the page asks while somebody types.
	r = do(browser("GET", "/xend/form?id=97&bridge=a+b", nil))
	require.Equal(t, 200, r.Status)
	require.True(t, strings.HasPrefix(string(r.Body), "(vnet (id 97) (bridge 'a b'))\ninvalid vnet config: bridge"), string(r.Body))
	require.Equal(t, "(vnet (id 97))", string(do(browser("GET", "/xend/form?id=97", nil)).Body))
}

// TestChangeForm changes a vnet, as a browser without JavaScript does.
func TestChangeForm(t *testing.T) {
	scene := statustest.Well()
	scene.Vnet("(vnet (id a5) (color red) (security none))")
	h := newStatus(t, scene).Handler(status.Everybody(), nil)
	do := func(r *httpx.Request) *httpx.Reply { return h.Handle(t.Context(), r) }
	page := do(browser("GET", "/xend/vnet/98", nil))
	require.Contains(t, string(page.Body), `<details><summary>Change vnet 98</summary>`)
	require.Contains(t, string(page.Body), `name="bridge" value="vnet98"`)
	require.Contains(t, string(page.Body), `name="vnetif" value=""`, "what is left to its default is so in the form")
	require.Contains(t, string(page.Body), `<option value="conf" selected>`)
	require.Contains(t, string(page.Body), `<output class="sxp">(vnet (id 98) (bridge vnet98) (security conf))</output>`)

	form := url.Values{"seal": {seal(t, page.Body)}, "of": {"a5"}, "bridge": {"lan five"}, "vnetif": {""}, "security": {"auth"}, "op": {"show"}}
	r := do(browser("POST", "/xend/form", form))
	require.Equal(t, 200, r.Status)
	require.Contains(t, string(r.Body), `<details open><summary>Change vnet a5</summary>`)
	require.Contains(t, string(r.Body), `(vnet (id a5) (bridge &#39;lan five&#39;) (security auth) (color red))`, "what means nothing is kept")
	require.Contains(t, string(r.Body), "invalid vnet config: bridge")

	form.Set("op", "change")
	r = do(browser("POST", "/xend/form", form))
	require.Equal(t, 409, r.Status)
	require.Contains(t, string(r.Body), "The vnet was not changed: invalid vnet config: bridge")
	require.Contains(t, string(r.Body), `value="lan five"`, "what was typed is still there")
	scene.Refuse = errors.New("the disk is full")
	form.Set("bridge", "lan5")
	r = do(browser("POST", "/xend/form", form))
	require.Equal(t, 409, r.Status)
	require.Contains(t, string(r.Body), "The vnet was not changed: the disk is full")
	require.Contains(t, string(r.Body), `value="lan5"`)
	scene.Refuse = nil
	r = do(browser("POST", "/xend/form", form))
	require.Equal(t, 303, r.Status)
	require.Equal(t, "/xend/vnet/a5", header(r, "Location"))
	c, err := scene.FindDeletable("a5")
	require.NoError(t, err)
	require.Equal(t, "(vnet (id a5) (bridge lan5) (security auth) (color red))", c.Form.String())
	require.Contains(t, string(do(browser("GET", "/xend/vnet/a5", nil)).Body), "Ports of lan5")

	// A vnet that is not there, or none, is not changed; and another id can't be smuggled in.
	for of, want := range map[string]int{"404": 404, "": 400} {
		form.Set("of", of)
		form.Set("id", "97")
		require.Equal(t, want, do(browser("POST", "/xend/form", form)).Status)
	}
	form.Set("of", "0:0:0:0:0:0:0:a5")
	form.Set("bridge", "")
	require.Equal(t, 303, do(browser("POST", "/xend/form", form)).Status)
	c, err = scene.FindDeletable("a5")
	require.NoError(t, err)
	require.Equal(t, "(vnet (id a5) (security auth) (color red))", c.Form.String())

	// What the script of the page asks while somebody types.
	require.Equal(t, "(vnet (id a5) (bridge x) (color red))", string(do(browser("GET", "/xend/form?of=a5&bridge=x", nil)).Body))
	require.Equal(t, "\nNo such vnet 404", string(do(browser("GET", "/xend/form?of=404&bridge=x", nil)).Body))
}

// TestForgery: a page of another site can't change anything in somebody's name.
func TestForgery(t *testing.T) {
	scene := statustest.Well()
	st := newStatus(t, scene)
	a := open(t, status.Files{Token: write(t, "token", token)})
	h := st.Handler(a, nil)
	login := func() string {
		r := h.Handle(t.Context(), browser("POST", "/login", url.Values{"token": {token}}))
		c, _, _ := strings.Cut(header(r, "Set-Cookie"), ";")
		return c
	}
	mine, other := login(), login()
	theirs := seal(t, h.Handle(t.Context(), browser("GET", "/xend/", nil, "Cookie", other)).Body)
	local := seal(t, st.Handler(status.Everybody(), nil).Handle(t.Context(), browser("GET", "/xend/", nil)).Body)
	for _, s := range []string{"", "x", theirs, local} {
		for _, form := range []url.Values{{"op": {"create"}, "id": {"666"}}, {"op": {"delete"}, "id": {"97"}}, {"op": {"change"}, "of": {"97"}, "bridge": {"x"}}} {
			form.Set("seal", s)
			r := h.Handle(t.Context(), browser("POST", "/xend/form", form, "Cookie", mine))
			require.Equal(t, 403, r.Status)
			r = h.Handle(t.Context(), browser("POST", "/xend/form?seal="+s, form, "Cookie", mine))
			require.Equal(t, 403, r.Status)
		}
	}
	// A form of another encoding has no fields at all.
	r := browser("POST", "/xend/form", url.Values{"op": {"delete"}, "id": {"97"}}, "Cookie", mine, "Content-Type", "text/plain")
	require.Equal(t, 403, h.Handle(t.Context(), r).Status)
	require.Equal(t, forms(statustest.Well()), forms(scene))
}

// TestCheck: what vn check finds, for who asks for it by the form, and not by a link.
func TestCheck(t *testing.T) {
	scene := statustest.Ill()
	st := newStatus(t, scene)
	h := st.Handler(status.Everybody(), nil)
	page := h.Handle(t.Context(), browser("GET", "/xend/check", nil))
	require.Equal(t, 200, page.Status)
	require.NotContains(t, string(page.Body), "bridge vnet1a0 is gone</p>")
	require.Equal(t, 403, h.Handle(t.Context(), browser("POST", "/xend/check", url.Values{})).Status)
	form := url.Values{"seal": {seal(t, page.Body)}}
	r := h.Handle(t.Context(), browser("POST", "/xend/check", form))
	require.Equal(t, 200, r.Status)
	for _, text := range []string{
		`<span class="word">fail</span> <b>vnet 1a0</b>: down: bridge vnet1a0 is gone`, `<span class="word">warn</span> <b>group 224.10.0.1</b>`,
		"not asked: it speaks only EtherIP", "0.31 ms", "1600 / 1600", "12 checks",
	} {
		require.Contains(t, string(r.Body), text)
	}
	scene.Pass(time.Minute)
	scene.Refuse = errors.New("the data plane does not run")
	r = h.Handle(t.Context(), browser("POST", "/xend/check", form))
	require.Contains(t, string(r.Body), "The check could not be made: the data plane does not run")
	// Where nothing may be changed, nobody is asked either.
	quiet := st.Handler(open(t, status.Files{ReadOnly: true}), nil)
	require.Equal(t, 404, quiet.Handle(t.Context(), browser("GET", "/xend/check", nil)).Status)
	require.NotContains(t, string(quiet.Handle(t.Context(), browser("GET", "/xend/", nil)).Body), "/xend/check")
}

// TestEvents: all that are kept, and those that somebody looks for.
func TestEvents(t *testing.T) {
	h := newStatus(t, statustest.Ill()).Handler(status.Everybody(), nil)
	all := string(h.Handle(t.Context(), browser("GET", "/xend/events", nil)).Body)
	require.Equal(t, 6, strings.Count(all, "<li><time"))
	require.Less(t, strings.Index(all, "tried again"), strings.Index(all, "xend is ready"))
	some := string(h.Handle(t.Context(), browser("GET", "/xend/events?q=MAC%20moves", nil)).Body)
	require.Equal(t, 1, strings.Count(some, "<li><time"))
	require.Contains(t, string(h.Handle(t.Context(), browser("GET", "/xend/events?q=nothing", nil)).Body), "There is none.")
}

// TestReadOnly: nothing is changed by whatever way, and no form pretends that it could be.
func TestReadOnly(t *testing.T) {
	scene, next := statustest.Well(), &old{}
	h := newStatus(t, scene).Handler(open(t, status.Files{ReadOnly: true}), next)
	page := h.Handle(t.Context(), browser("GET", "/xend/", nil))
	require.NotContains(t, string(page.Body), `method="post"`)
	require.NotContains(t, string(h.Handle(t.Context(), browser("GET", "/xend/vnet/97", nil)).Body), `method="post"`)
	for _, r := range []*httpx.Request{
		browser("POST", "/xend/form", url.Values{"op": {"create"}, "id": {"9"}}),
		browser("POST", "/xend/form", url.Values{"op": {"change"}, "of": {"97"}, "bridge": {"x"}}),
		browser("POST", "/xend/vnet", url.Values{"op": {"create"}, "config": {"(vnet (id 9))"}}),
		browser("POST", "/xend/vnet/97", url.Values{"op": {"change"}, "config": {"(vnet (id 97) (bridge x))"}}),
		browser("POST", "/xend/node/dmesg", url.Values{"op": {"clear"}}),
		{Method: "POST", Path: []string{"xend", "vnet", "97"}, Header: http.Header{}, Body: []byte("op=delete")},
		{Method: "PUT", Path: []string{"xend"}, Header: http.Header{}},
	} {
		reply := h.Handle(t.Context(), r)
		require.Equal(t, 403, reply.Status, "%s %s", r.Method, r.Path)
		require.Contains(t, string(reply.Body), "xm on the host itself changes things")
	}
	require.Zero(t, next.asked)
	require.Equal(t, forms(statustest.Well()), forms(scene))
}

// TestHeaders: what keeps a browser from running, fetching or showing what is not the page's.
func TestHeaders(t *testing.T) {
	h := newStatus(t, statustest.Well()).Handler(open(t, status.Files{Token: write(t, "t", token)}), nil)
	for _, r := range []*httpx.Request{
		browser("GET", "/login", nil), browser("GET", "/xend/vnet/404", nil, "Authorization", "Bearer "+token),
		browser("GET", "/xend/", nil, "Authorization", "Bearer "+token),
	} {
		reply := h.Handle(t.Context(), r)
		csp := header(reply, "Content-Security-Policy")
		require.Contains(t, csp, "default-src 'none'")
		require.Contains(t, csp, "frame-ancestors 'none'")
		require.NotContains(t, csp, "unsafe")
		require.Equal(t, "nosniff", header(reply, "X-Content-Type-Options"))
		require.Equal(t, "DENY", header(reply, "X-Frame-Options"))
		require.NotContains(t, string(reply.Body), "style=")
		require.NotContains(t, string(reply.Body), "<style")
	}
	for name, media := range map[string]string{"page.css": "text/css", "page.js": "text/javascript", "icon.svg": "image/svg+xml"} {
		reply := h.Handle(t.Context(), browser("GET", "/xend/-/"+name, nil))
		require.Equal(t, 200, reply.Status, "browsers fetch it before anybody has signed in")
		require.Equal(t, media, reply.Type)
	}
	require.Equal(t, 303, h.Handle(t.Context(), browser("GET", "/xend/-/page.tmpl", nil)).Status)
}

// certificate makes a certificate, signed by parent or itself, in files.
func certificate(t *testing.T, name string, parent *tls.Certificate) (cert, key string, pair tls.Certificate) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: parent == nil, BasicConstraintsValid: true,
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	signer, by := any(k), template
	if parent != nil {
		signer = parent.PrivateKey
		by, err = x509.ParseCertificate(parent.Certificate[0])
		require.NoError(t, err)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, by, &k.PublicKey, signer)
	require.NoError(t, err)
	pkcs8, err := x509.MarshalPKCS8PrivateKey(k)
	require.NoError(t, err)
	c := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	p := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})
	pair, err = tls.X509KeyPair(c, p)
	require.NoError(t, err)
	return write(t, "cert.pem", string(c)), write(t, "key.pem", string(p)), pair
}

// TestTLS: over TLS, with a client's certificate, with a token, with neither, and with another authority's.
func TestTLS(t *testing.T) {
	cert, key, server := certificate(t, "xend.test", nil)
	ca, _, authority := certificate(t, "people", nil)
	_, _, person := certificate(t, "alice", &authority)
	_, _, stranger := certificate(t, "mallory", nil)
	a := open(t, status.Files{Token: write(t, "token", token), Certificate: cert, Key: key, ClientCA: ca})
	require.Equal(t, []string{"xend.test"}, a.Names())
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan error, 1)
	srv := httpx.NewServer("status", newStatus(t, statustest.Well()).Handler(a, nil), httpx.Options{Log: slog.New(slog.DiscardHandler)})
	go func() { done <- srv.Serve(ctx, tls.NewListener(ln, a.TLS())) }()
	defer func() {
		cancel()
		require.NoError(t, <-done)
	}()
	roots := x509.NewCertPool()
	leaf, err := x509.ParseCertificate(server.Certificate[0])
	require.NoError(t, err)
	roots.AddCert(leaf)
	ask := func(field string, certs ...tls.Certificate) (int, error) {
		c, err := tls.Dial("tcp", ln.Addr().String(), &tls.Config{RootCAs: roots, ServerName: "xend.test", Certificates: certs})
		if err != nil {
			return 0, err
		}
		defer c.Close()
		if _, err := c.Write([]byte("GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\n" + field + "\r\n")); err != nil {
			return 0, err
		}
		r, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			return 0, err
		}
		defer r.Body.Close()
		var b bytes.Buffer
		_, err = b.ReadFrom(r.Body)
		return r.StatusCode, err
	}
	code, err := ask("")
	require.NoError(t, err)
	require.Equal(t, 401, code)
	code, err = ask("Authorization: Bearer " + token + "\r\n")
	require.NoError(t, err)
	require.Equal(t, 200, code)
	code, err = ask("", person)
	require.NoError(t, err)
	require.Equal(t, 200, code)
	code, err = ask("", stranger)
	require.True(t, err != nil || code == 401, "%d, %v", code, err)
	// In the clear there is no answer.
	c, err := net.Dial("tcp", ln.Addr().String())
	require.NoError(t, err)
	defer c.Close()
	_, err = c.Write([]byte("GET /metrics HTTP/1.1\r\n\r\n"))
	require.NoError(t, err)
	var b bytes.Buffer
	_, _ = b.ReadFrom(c)
	require.NotContains(t, b.String(), "xend_")
}
