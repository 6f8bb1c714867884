package httpsxp

import (
	"bufio"
	"bytes"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/xenvnet/xend/sxp"
	"github.com/xenvnet/xend/xendcompat/domain/domaintest"
	"github.com/xenvnet/xend/xendcompat/fronttest"
	"github.com/xenvnet/xend/xendcompat/httpx"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// start runs a server on a unix socket.
func start(t testing.TB) (*fronttest.Daemon, string) {
	t.Helper()
	return serve(t, fronttest.New(t, false))
}

// startDomains is start with a toolstack that runs domains.
func startDomains(t testing.TB) (*domaintest.Toolstack, *fronttest.Daemon, string) {
	t.Helper()
	tool := &domaintest.Toolstack{}
	d, address := serve(t, fronttest.NewWith(t, false, tool))
	return tool, d, address
}

func serve(t testing.TB, d *fronttest.Daemon) (*fronttest.Daemon, string) {
	t.Helper()
	return d, d.Unix(t, New(d.Service, httpx.Options{Log: d.Log}))
}

// reply is a reply as it was on the wire.
type reply struct {
	line   string // the status line
	header http.Header
	body   string
}

func parseReply(t testing.TB, method string, b []byte) reply {
	t.Helper()
	head, _, ok := bytes.Cut(b, []byte("\r\n\r\n"))
	require.True(t, ok, "no header in %q", b)
	line, _, _ := strings.Cut(string(head), "\r\n")
	resp, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(b)), &http.Request{Method: method})
	require.NoError(t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return reply{line, resp.Header, string(body)}
}

// A deviation is a reply that is ours on purpose.
type deviation struct {
	why string
	// body is what is expected instead of the recorded body; "*" means anything.
	body string
	// line is what is expected instead of the recorded status line, if anything else.
	line string
	// noType is set where the original labels what is no S-expression as one.
	noType bool
}

const (
	position = "the text goes on with line and column"
	machine  = "facts of the machine"
	noSXP    = "no SXP type on an empty or plain-text body"
	leftOut  = "the recording lists ids of requests that are left out, in no order"
	order    = "ids are listed in the order of their creation"
	sentence = "the text says what is wrong"
	runtime  = "uuids, MACs and times are the domain's own"
)

var deviations = map[string]deviation{
	"prog/27_post_create_noid": {why: "an id is needed; the original created a vnet None", body: "(xend.err 'invalid vnet config: id: it is missing')"},
	"prog/29_post_create_badsxp_close": {why: position,
		body: "(xend.err 'Coercion to sxpr failed: syntax error: ) (line 1, column 1)')"},
	"prog/31_post_create_badsxp_string": {why: position,
		body: "(xend.err 'Coercion to sxpr failed: unexpected EOF (line 1, column 9): the string that begins at line 1, column 7 is not closed')"},
	"prog/32_post_create_emptyconfig": {why: sentence, body: "(xend.err 'invalid vnet config: it is empty, a (vnet ...) form is expected')"},
	"prog/38_post_noop":               {why: noSXP, noType: true},
	"prog/44_post_noop_97":            {why: noSXP, noType: true},
	"prog/41_post_unknown_op":         {why: noSXP, noType: true, body: "Operation not implemented: frobnicate"},
	"prog/54_get_op_query":            {why: leftOut, body: "(99 9a 9c 0:0:0:0:0:0:1:2)"},
	"prog/63_http10":                  {why: leftOut, body: "(99 9a 9c 0:0:0:0:0:0:1:2)"},
	"prog/71_keepalive":               {why: leftOut, body: "(99 9a 9c 0:0:0:0:0:0:1:2)"},
	"prog/74_conn_close":              {why: leftOut, body: "(99 9a 9c 0:0:0:0:0:0:1:2)"},
	"prog/58_get_node":                {why: machine, body: "*"},
	"prog/60_get_domain_detail":       {why: machine, body: "*"},
	"xm/006": {why: position,
		body: "(xend.err 'Coercion to sxpr failed: unexpected EOF (line 2, column 1): the list that begins at line 1, column 1 is not closed')"},
	"xm/007": {why: order, body: "(97 98)"},
	"xm/008": {why: order, body: "(97 98)"},
	"xm/011": {why: order, body: "(97 98)"},
	"xm/002": {why: "a file without a newline at its end can be uploaded", line: "HTTP/1.1 200 OK", noType: true},
	"xm/018": {why: machine, body: "*"},
	"xm/021": {why: machine, body: "*"},
	"xm/022": {why: runtime, body: "*"},
	"xm/030": {why: runtime, body: "*"},
}

// recordings returns the steps of a folder in their order.
func recordings(t *testing.T, dir string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("testdata", dir, "*.req"))
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for i := range files {
		files[i] = strings.TrimSuffix(files[i], ".req")
	}
	return files
}

func read(t *testing.T, file string) []byte {
	t.Helper()
	b, err := os.ReadFile(file)
	require.NoError(t, err)
	return b
}

// replay sends a recorded request, byte for byte.
func replay(t *testing.T, address, file string) (got, want reply) {
	t.Helper()
	c := fronttest.Dial(t, address)
	request := read(t, file+".req")
	_, err := c.Write(request)
	require.NoError(t, err)
	if bytes.Contains(request, []byte("keep-alive")) {
		// The server waits for another one.
		require.NoError(t, c.(interface{ CloseWrite() error }).CloseWrite())
	}
	method, _, _ := strings.Cut(string(request), " ")
	return parseReply(t, method, fronttest.ReadAll(t, c)), parseReply(t, method, read(t, file+".resp"))
}

// compare compares a reply with the recorded one, or with what is ours instead.
func compare(t *testing.T, name string, got, want reply, head bool) {
	t.Helper()
	dev := deviations[name]
	if dev.line == "" {
		dev.line = want.line
	}
	require.Equal(t, dev.line, got.line)
	switch dev.body {
	case "*":
		values, err := sxp.Parse([]byte(got.body), sxp.Xend)
		require.NoError(t, err)
		recorded, err := sxp.Parse([]byte(want.body), sxp.Xend)
		require.NoError(t, err)
		require.Len(t, values, len(recorded))
		require.Equal(t, recorded[0].Name(), values[0].Name())
		require.Less(t, len(got.body), 4000, "libvirt reads no more")
		require.NotContains(t, got.body, `"`, "libvirt knows single quotes only")
	case "":
		require.Equal(t, want.body, got.body)
	default:
		require.Equal(t, dev.body, got.body)
	}
	mediaType := want.header.Get("Content-Type")
	switch {
	case got.body == "" && !head:
		mediaType = ""
	case dev.noType, strings.HasPrefix(dev.body, "No such"):
		mediaType = "text/plain"
	case dev.body != "":
		mediaType = "application/sxp"
	}
	require.Equal(t, mediaType, got.header.Get("Content-Type"))
	require.Equal(t, "no-cache", got.header.Get("Pragma"))
	require.Equal(t, "no-cache", got.header.Get("Cache-Control"))
	require.Equal(t, "-1", got.header.Get("Expires"))
	if accept := want.header.Get("Accept"); accept != "" {
		require.Equal(t, accept, got.header.Get("Accept"))
	}
	if want.header.Get("Connection") != "" {
		require.Equal(t, want.header.Get("Connection"), got.header.Get("Connection"))
	}
}

func TestProgramVectors(t *testing.T) {
	_, address := start(t)
	for _, file := range recordings(t, "xend-3.0.1/prog") {
		name := "prog/" + filepath.Base(file)
		t.Run(name, func(t *testing.T) {
			got, want := replay(t, address, file)
			compare(t, name, got, want, strings.HasSuffix(name, "head_vnet"))
		})
	}
}

func TestXMVectors(t *testing.T) {
	tool, _, address := startDomains(t)
	for _, file := range recordings(t, "xm-3.0.1") {
		name := "xm/" + filepath.Base(file)
		t.Run(name, func(t *testing.T) {
			got, want := replay(t, address, file)
			compare(t, name, got, want, false)
		})
		if name == "xm/002" {
			// What failed there worked here, and the next step does it again.
			fronttest.Exchange(t, address, []byte("POST /xend/vnet/97?op=delete HTTP/1.0\r\n\r\n"))
		}
	}
	calls := tool.Calls()
	require.Contains(t, calls, "create vm1")
	require.Contains(t, calls, "unpause 1")
	require.Contains(t, calls, "detach 1 vif 1 force=false")
	require.Contains(t, calls, "destroy 1")
}

// TestAcceptVectors replays what a program and a browser sent while there was no vnet (up to 08) and one.
func TestAcceptVectors(t *testing.T) {
	_, address := start(t)
	for _, file := range recordings(t, "xend-3.0.1/progsxp") {
		prepare(t, address, file)
		name := "progsxp/" + filepath.Base(file)
		t.Run(name, func(t *testing.T) {
			got, want := replay(t, address, file)
			compare(t, name, got, want, false)
		})
	}
}

func TestBrowserVectors(t *testing.T) {
	_, address := start(t)
	contains := map[string][]string{
		"02_get_xend":       {`href="/xend/node/"`, `href="/xend/domain/"`, `href="/xend/vnet/"`},
		"04_get_vnet_empty": {`action="/xend/vnet"`, `type="file" name="config"`, `name="op" value="create"`},
		"11_get_vnet_one":   {`href="/xend/vnet/97"`, `action="/xend/vnet"`},
		"13_get_vnet_97":    {"(vnet (id 97) (bridge vnet97) (vnetif vnif97) (security none))\n</pre>", `action="/xend/vnet/97"`, `name="op" value="delete"`},
	}
	for _, file := range recordings(t, "xend-3.0.1/browser") {
		prepare(t, address, file)
		name := filepath.Base(file)
		t.Run(name, func(t *testing.T) {
			got, want := replay(t, address, file)
			require.Equal(t, want.line, got.line)
			if name == "08_get_vnet_404" {
				require.Equal(t, want.body, got.body)
				require.Equal(t, "text/plain", got.header.Get("Content-Type"))
				return
			}
			require.Equal(t, "text/html", got.header.Get("Content-Type"))
			require.NotEmpty(t, contains[name])
			for _, s := range contains[name] {
				require.Contains(t, got.body, s)
			}
		})
	}
}

// prepare brings about what steps that are left out did.
func prepare(t *testing.T, address, file string) {
	t.Helper()
	if strings.HasPrefix(filepath.Base(file), "11_") {
		fronttest.Exchange(t, address, read(t, "testdata/xend-3.0.1/prog/10_post_create_urlencoded.req"))
	}
}
