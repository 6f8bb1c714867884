package httpsxp

import (
	"bytes"
	"strings"
)

// parseMultipart reads multipart/form-data, from browsers and from clients that write their own idea of
// it: there a file's content is followed directly by "--boundary", so that the boundary stands at the
// end of a line if the file does not end in a newline, and after a bare LF if it does. The order of the
// parts, LF or CRLF, and a preamble or an epilogue don't matter. It never fails: what is no part is
// nothing.
//
// A boundary counts where the header of a part follows. In the middle of a line that header has to be
// Content-Disposition or its like; so a file may hold the boundary, too, as long as it does not hold
// whole parts. The last "--boundary--" ends it all.
func parseMultipart(body []byte, boundary string) params {
	p := params{}
	if boundary == "" {
		boundary = sniffBoundary(body)
	}
	if boundary == "" {
		return p
	}
	mark := []byte("--" + boundary)
	if i := bytes.LastIndex(body, append(bytes.Clone(mark), "--"...)); i >= 0 {
		body = body[:i]
	}
	start := -1 // of the current part: after its boundary's line
	for at := 0; ; {
		i, after := nextBoundary(body, mark, at)
		if start >= 0 {
			end := i
			if end < 0 {
				end = len(body)
			}
			p.addPart(body[start:end])
		}
		if i < 0 {
			return p
		}
		start, at = after, after
	}
}

// nextBoundary finds the next boundary from at on, and where its line ends; -1 if there is none.
func nextBoundary(body, mark []byte, at int) (i, after int) {
	for from := at; ; {
		i = bytes.Index(body[from:], mark)
		if i < 0 {
			return -1, 0
		}
		i += from
		from = i + len(mark)
		rest, ok := bytes.CutPrefix(bytes.TrimLeft(body[from:], " \t\r"), []byte("\n"))
		if !ok {
			continue // the line goes on: no boundary
		}
		lineStart := i == 0 || body[i-1] == '\n'
		if headerFollows(rest, lineStart) {
			return i, len(body) - len(rest)
		}
	}
}

// headerFollows tells whether b begins with the header of a part: with a field, of any name if any is
// set, or, if any is set, with the empty line that ends a header.
func headerFollows(b []byte, any bool) bool {
	if any && (bytes.HasPrefix(b, []byte("\n")) || bytes.HasPrefix(b, []byte("\r\n"))) {
		return true
	}
	const content = "content-"
	if len(b) >= len(content) && strings.EqualFold(string(b[:len(content)]), content) {
		return true
	}
	if !any {
		return false
	}
	for i, c := range b {
		if c == ':' {
			return i > 0
		}
		if c <= ' ' || c >= 0x7f || strings.IndexByte(`()<>@,;\"/[]?={}`, c) >= 0 {
			return false
		}
	}
	return false
}

// addPart reads one part, from its header to the next boundary.
func (p params) addPart(part []byte) {
	var name string
	var named, isFile bool
	for {
		line, rest, ok := bytes.Cut(part, []byte("\n"))
		part = rest
		line = bytes.TrimRight(line, "\r")
		if len(line) == 0 || !ok {
			break
		}
		field, value, _ := strings.Cut(string(line), ":")
		if !strings.EqualFold(strings.TrimSpace(field), "content-disposition") {
			continue
		}
		_, options, _ := strings.Cut(value, ";")
		name, named = headerParam(options, "name"), true
		isFile = hasHeaderParam(options, "filename")
	}
	if !named || name == "" {
		return
	}
	switch {
	case bytes.HasSuffix(part, []byte("\r\n")):
		part = part[:len(part)-2]
	case bytes.HasSuffix(part, []byte("\n")) && !isFile:
		part = part[:len(part)-1]
	}
	p[name] = append(p[name], string(part))
}

// sniffBoundary finds the boundary of a body whose type does not tell it.
func sniffBoundary(body []byte) string {
	line, _, ok := bytes.Cut(body, []byte("\n"))
	b, dashes := bytes.CutPrefix(bytes.TrimRight(line, " \t\r"), []byte("--"))
	if !ok || !dashes {
		return ""
	}
	return string(b)
}

// headerParam returns the value of a parameter such as name="x" in what follows the first semicolon of a
// header field; "" if it is not there.
func headerParam(s, name string) string {
	v, _ := findHeaderParam(s, name)
	return v
}

func hasHeaderParam(s, name string) bool {
	_, ok := findHeaderParam(s, name)
	return ok
}

func findHeaderParam(s, name string) (string, bool) {
	for s != "" {
		s = strings.TrimLeft(s, "; \t")
		i := strings.IndexAny(s, "=;")
		if i < 0 {
			return "", false
		}
		key := strings.TrimSpace(s[:i])
		if s[i] == ';' {
			s = s[i+1:]
			continue
		}
		var value string
		value, s = headerValue(strings.TrimLeft(s[i+1:], " \t"))
		if strings.EqualFold(key, name) {
			return value, true
		}
	}
	return "", false
}

// headerValue reads a value, quoted or not, and returns what follows. A backslash escapes quotation marks
// only, because some browsers put whole Windows paths there.
func headerValue(s string) (value, rest string) {
	if !strings.HasPrefix(s, `"`) {
		value, rest, _ = strings.Cut(s, ";")
		return strings.TrimSpace(value), rest
	}
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		switch {
		case s[i] == '"':
			return b.String(), s[i+1:]
		case s[i] == '\\' && i+1 < len(s) && s[i+1] == '"':
			i++
		}
		b.WriteByte(s[i])
	}
	return b.String(), ""
}
