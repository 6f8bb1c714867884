package httpsxp

import (
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/xenvnet/xend/xendcompat/httpx"
)

func TestForm(t *testing.T) {
	for _, tt := range []struct {
		form string
		want params
	}{
		{"", params{}},
		{"&", params{}},
		{"=x", params{}},
		{"op=delete", params{"op": {"delete"}}},
		{"op", params{"op": {""}}},
		{"op=&x=", params{"op": {""}, "x": {""}}},
		{"op=a&op=b&x=1", params{"op": {"a", "b"}, "x": {"1"}}},
		{"a=b=c", params{"a": {"b=c"}}},
		{"config=%28vnet+%28id+97%29%29&op=create", params{"config": {"(vnet (id 97))"}, "op": {"create"}}},
		{"%6fp=%64elete", params{"op": {"delete"}}},
		{"a=100%&b=%zz&c=%4", params{"a": {"100%"}, "b": {"%zz"}, "c": {"%4"}}},
		{"config=(vnet+(id+0:0:0:0:0:0:1:2))&op=create", params{"config": {"(vnet (id 0:0:0:0:0:0:1:2))"}, "op": {"create"}}},
		{"a=x;b=y", params{"a": {"x;b=y"}}},

		// As libvirt up to 0.9.4 sends it, and curl -d.
		{"op=new&config=(vm (name 'x')(memory 64)(uuid 'a-b'))", params{"op": {"new"}, "config": {"(vm (name 'x')(memory 64)(uuid 'a-b'))"}}},
		{"op=new&config=(vm (args 'a;b %41 100% c+d &op=x &y'))&x=1", params{"op": {"new"}, "config": {"(vm (args 'a;b %41 100% c+d &op=x &y'))"}, "x": {"1"}}},
		{`op=new&config=(vm (name 'it\'s )&op=no ('))&x=1`, params{"op": {"new"}, "config": {`(vm (name 'it\'s )&op=no ('))`}, "x": {"1"}}},
		{`config=(vm (name it's) (b "&op=x"))&op=new`, params{"op": {"new"}, "config": {`(vm (name it's) (b "&op=x"))`}}},
		{"op=new&config=(vm (unclosed 'x') &y & z&b=2", params{"op": {"new"}, "config": {"(vm (unclosed 'x') &y & z"}, "b": {"2"}}},
		{"op=save&file=/tmp/a b&c&live=1", params{"op": {"save"}, "file": {"/tmp/a b&c"}, "live": {"1"}}},
		{"op=dump&file=/tmp/\xc3\xa4%20+", params{"op": {"dump"}, "file": {"/tmp/\xc3\xa4%20+"}}},
		{"op=create&config=(vnet\n (id 97)\n)", params{"op": {"create"}, "config": {"(vnet\n (id 97)\n)"}}},
		{" ", params{" ": {""}}},
		{"a b", params{"a b": {""}}},
	} {
		require.Equal(t, tt.want, parseForm(tt.form), "%q", tt.form)
	}
}

// legacy writes parts as the legacy clients do: a file's content is followed directly by the boundary.
func legacy(boundary string, parts ...string) string {
	var b strings.Builder
	for _, p := range parts {
		b.WriteString("--" + boundary + "\r\n" + p)
	}
	return b.String() + "--" + boundary + "--\r\n"
}

const (
	fileHeader = "Content-Disposition: form-data; name=\"config\"; filename=\"a.sxp\"\r\nContent-Type: application/octet-stream\r\n\r\n"
	opPart     = "Content-Disposition: form-data; name=\"op\"\r\n\r\ncreate\r\n"
)

func TestMultipart(t *testing.T) {
	const boundary = "0123456789abcdef"
	want := func(config string) params { return params{"op": {"create"}, "config": {config}} }
	const form = "(vnet (id 97))"
	for _, tt := range []struct {
		name, body string
		want       params
	}{
		{"nothing", "", params{}},
		{"no boundary", "hello", params{}},
		{"only the end", "--" + boundary + "--\r\n", params{}},
		{"legacy, file first, newline", legacy(boundary, fileHeader+form+"\n", opPart), want(form + "\n")},
		{"legacy, file first, none", legacy(boundary, fileHeader+form, opPart), want(form)},
		{"legacy, file last, newline", legacy(boundary, opPart, fileHeader+form+"\n"), want(form + "\n")},
		{"legacy, file last, none", legacy(boundary, opPart, fileHeader+form), want(form)},
		{"legacy, empty file", legacy(boundary, fileHeader, opPart), want("")},
		{"browser", legacy(boundary, fileHeader+form+"\r\n", opPart), want(form)},
		{"browser, file ends in newlines", legacy(boundary, fileHeader+form+"\r\n\r\n", opPart), want(form + "\r\n")},
		{"preamble and epilogue", "This is\r\na preamble\r\n" + legacy(boundary, fileHeader+form+"\r\n", opPart) + "\r\nand an epilogue", want(form)},
		{"LF only", "--" + boundary + "\nContent-Disposition: form-data; name=\"op\"\n\ncreate\n--" + boundary + "\n" +
			strings.ReplaceAll(fileHeader, "\r", "") + form + "\n--" + boundary + "--\n", want(form + "\n")},
		{"blanks after the boundary", strings.ReplaceAll(legacy(boundary, fileHeader+form+"\r\n", opPart), boundary+"\r\n", boundary+" \t\r\n"), want(form)},
		{"no end", strings.TrimSuffix(legacy(boundary, fileHeader+form, opPart), "\r\n--"+boundary+"--\r\n"), want(form)},
		{"end without newline", strings.TrimSuffix(legacy(boundary, fileHeader+form, opPart), "\r\n"), want(form)},
		{"other headers", legacy(boundary, "X-Other: 1\r\n"+fileHeader+form, opPart), want(form)},
		{"no name", legacy(boundary, "Content-Disposition: form-data\r\n\r\nx\r\n", opPart), params{"op": {"create"}}},
		{"no header", legacy(boundary, "\r\nx\r\n", opPart), params{"op": {"create"}}},
		{"lower case, no quotes", legacy(boundary, "content-disposition: form-data; name=op\r\n\r\ncreate\r\n"), params{"op": {"create"}}},
		{"a Windows path", legacy(boundary, strings.Replace(fileHeader, "a.sxp", `C:\x\a "b".sxp`, 1)+form, opPart), want(form)},
		{"twice", legacy(boundary, opPart, opPart), params{"op": {"create", "create"}}},

		{"the boundary in a line", legacy(boundary, fileHeader+"# --"+boundary+" x\n"+form, opPart), want("# --" + boundary + " x\n" + form)},
		{"the boundary ends a line", legacy(boundary, fileHeader+"# --"+boundary+"\n"+form, opPart), want("# --" + boundary + "\n" + form)},
		{"the boundary is a line", legacy(boundary, fileHeader+"#\n--"+boundary+"\n"+form, opPart), want("#\n--" + boundary + "\n" + form)},
		{"a longer boundary", legacy(boundary, fileHeader+"#\r\n--"+boundary+"0\r\nContent-Disposition: form-data; name=\"op\"\r\n\r\nx\r\n", opPart),
			want("#\r\n--" + boundary + "0\r\nContent-Disposition: form-data; name=\"op\"\r\n\r\nx")},
		{"the end in a line", legacy(boundary, fileHeader+"# --"+boundary+"-- x\n"+form, opPart), want("# --" + boundary + "-- x\n" + form)},
		{"half a boundary before it", legacy(boundary, fileHeader+form+"--"+boundary[:8], opPart), want(form + "--" + boundary[:8])},
		{"dashes before it", legacy(boundary, fileHeader+form+"--", opPart), want(form + "--")},
		{"binary", legacy(boundary, fileHeader+"\x00\xff\r\x01", opPart), want("\x00\xff\r\x01")},
	} {
		t.Run(tt.name, func(t *testing.T) {
			require.Equal(t, tt.want, parseMultipart([]byte(tt.body), boundary))
			if strings.HasPrefix(tt.body, "--"+boundary+"\r\n") {
				require.Equal(t, tt.want, parseMultipart([]byte(tt.body), ""), "the boundary is found")
			}
		})
	}
}

func TestBodyTypes(t *testing.T) {
	get := func(contentType, query, body string) params {
		r := &httpx.Request{Query: query, Body: []byte(body), Header: http.Header{}}
		if contentType != "" {
			r.Header.Set("Content-Type", contentType)
		}
		return requestParams(r)
	}
	require.Equal(t, params{"op": {"a"}}, get("application/x-www-form-urlencoded", "", "op=a"))
	require.Equal(t, params{"op": {"a"}}, get("Application/X-WWW-Form-URLEncoded; charset=UTF-8", "", "op=a\r\n"))
	require.Equal(t, params{"op": {"a"}}, get("", "", "op=a"))
	require.Equal(t, params{}, get("text/plain", "", "op=a"), "a body of another type has no parameters")
	require.Equal(t, params{"op": {"q"}}, get("text/plain", "op=q", "op=a"))
	require.Equal(t, params{"op": {"a", "b"}, "x": {"1"}}, get("application/x-www-form-urlencoded", "op=q&x=1", "op=a&op=b"), "the body overrides")
	require.Equal(t, params{"op": {"create"}}, get(`multipart/form-data; charset=utf-8; Boundary="a b"`, "op=q", legacy("a b", opPart)))
	require.Equal(t, params{"op": {"create"}}, get(`multipart/form-data`, "", legacy("x", opPart)))
}

func FuzzForm(f *testing.F) {
	f.Add("op=new&config=(vm (name 'x'))&a=%41", "name", "value")
	f.Fuzz(func(t *testing.T, s, name, value string) {
		parseForm(s)
		// What is encoded comes back.
		if name == "" {
			return
		}
		require.Equal(t, params{name: {value}, "op": {"x"}}.without(name), parseForm(url.Values{name: {value}, "op": {"x"}}.Encode()).without(name))
	})
}

// without makes maps comparable where a fuzzer chose the name "op".
func (p params) without(name string) params {
	if name == "op" {
		return nil
	}
	return p
}

func FuzzMultipart(f *testing.F) {
	f.Add([]byte(legacy("x", fileHeader+"(vnet (id 97))", opPart)), "x")
	f.Add([]byte(legacy("x", opPart, fileHeader+"(vnet (id 97))\n")), "y")
	f.Fuzz(func(t *testing.T, b []byte, boundary string) {
		parseMultipart(b, boundary)
		// Whatever a file holds, it comes back, unless it holds the boundary.
		const mark = "b0b1b2b3b4b5b6b7"
		if strings.Contains(string(b), mark[:2]) {
			return
		}
		for _, end := range []string{"", "\r\n"} {
			got := parseMultipart([]byte(legacy(mark, opPart, fileHeader+string(b)+end, opPart)), mark)
			want := string(b)
			if end == "" {
				// The original's way leaves open whose a last CRLF is.
				want = strings.TrimSuffix(want, "\r\n")
			}
			require.Equal(t, []string{want}, got["config"])
			require.Equal(t, []string{"create", "create"}, got["op"])
		}
	})
}

// TestHostileBodies checks that reading takes linear time: these took hours otherwise.
func TestHostileBodies(t *testing.T) {
	const size = 1 << 20
	for _, s := range map[string]string{
		"marks in one line":   strings.Repeat("--a", size/3),
		"marks and blanks":    strings.Repeat("--a ", size/4),
		"marks in lines":      strings.Repeat("--a\n", size/4),
		"marks and headers":   strings.Repeat("--a\nx", size/5),
		"marks and ends":      strings.Repeat("--a--\n", size/6),
		"open expressions":    "x= " + strings.Repeat("&a=(", size/4),
		"ampersands":          " " + strings.Repeat("&", size),
		"names":               " " + strings.Repeat("&a", size/2),
		"one long name":       " &" + strings.Repeat("a", size),
		"quotes":              " &a=(" + strings.Repeat(" '", size/2),
		"parts":               strings.Repeat("--a\r\n"+opPart, size/60),
		"header without name": "--a\r\n" + strings.Repeat("a", size),
	} {
		parseForm(s)
		parseMultipart([]byte(s), "a")
	}
}
