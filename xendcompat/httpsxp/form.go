package httpsxp

import (
	"bytes"
	"iter"
	"strings"

	"github.com/xenvnet/xend/xendcompat/httpx"
)

// params are the parameters of a request: the values of each name, in their order.
type params map[string][]string

// get returns the first value of a parameter, or "".
func (p params) get(name string) string {
	if v := p[name]; len(v) > 0 {
		return v[0]
	}
	return ""
}

// first returns the first value of each parameter.
func (p params) first() map[string]string {
	first := make(map[string]string, len(p))
	for name := range p {
		first[name] = p.get(name)
	}
	return first
}

// requestParams returns the parameters of a request: those of the query, overridden by those of the body.
// A body of a type that holds no parameters has none.
func requestParams(r *httpx.Request) params {
	p := parseForm(r.Query)
	if len(r.Body) == 0 {
		return p
	}
	media, options, _ := strings.Cut(r.Header.Get("Content-Type"), ";")
	var body params
	switch strings.ToLower(strings.TrimSpace(media)) {
	case "multipart/form-data":
		body = parseMultipart(r.Body, headerParam(options, "boundary"))
	case "application/x-www-form-urlencoded", "":
		// Some programs end the body as if it were a line.
		body = parseForm(string(bytes.TrimRight(r.Body, "\r\n")))
	}
	for name, values := range body {
		p[name] = values
	}
	return p
}

// parseForm reads application/x-www-form-urlencoded, and what libvirt up to 0.9.4 sent under that name:
// the values as they are, with blanks, quotes, ";" and "%". That is recognised by bytes that no
// encoder lets through, and read without undoing any escape. It never fails.
func parseForm(s string) params {
	p := params{}
	if isRaw(s) {
		for name, value := range rawFields(s) {
			p.add(name, value)
		}
		return p
	}
	for field := range strings.SplitSeq(s, "&") {
		name, value, _ := strings.Cut(field, "=")
		p.add(httpx.Unescape(name, true), httpx.Unescape(value, true))
	}
	return p
}

// add adds a value, unless it has no name.
func (p params) add(name, value string) {
	if name != "" {
		p[name] = append(p[name], value)
	}
}

// isRaw tells whether a form was not encoded: there is a blank, a control character, a quotation mark or
// another byte that both the URL standard's and Python's encoder replace, and so do all before them.
func isRaw(s string) bool {
	for i := range len(s) {
		switch c := s[i]; c {
		case '"', '<', '>', '\\', '^', '`', '{', '|', '}':
			return true
		default:
			if c <= ' ' || c >= 0x7f {
				return true
			}
		}
	}
	return false
}

// rawFields cuts a form that was not encoded into names and values. An "&" separates them only outside of
// an S-expression, and only if a name and "=" follow.
func rawFields(s string) iter.Seq2[string, string] {
	return func(yield func(name, value string) bool) {
		closed := true // the last expression was; looking for the end of each would take too long
		for s != "" {
			from := fieldName(s)
			if closed && from > 0 && strings.HasPrefix(s[from:], "(") {
				n := expression(s[from:])
				closed = n > 0
				from += n
			}
			end := from
			for end < len(s) && (s[end] != '&' || fieldName(s[end+1:]) == 0) {
				end++
			}
			name, value, _ := strings.Cut(s[:end], "=")
			if !yield(name, value) {
				return
			}
			s = s[min(end+1, len(s)):]
		}
	}
}

// fieldName returns the length of the name and "=" with which s begins, or 0.
func fieldName(s string) int {
	for i := range len(s) {
		switch c := s[i]; {
		case c == '=' && i > 0:
			return i + 1
		case c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_' || c == '-' || c == '.':
		default:
			return 0
		}
	}
	return 0
}

// expression returns the length of the list with which s begins, or 0 if it is not closed.
func expression(s string) int {
	depth := 0
	var quote byte // the open quotation mark
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case quote != 0 && c == '\\':
			i++
		case quote != 0 && c == quote:
			quote = 0
		case quote != 0:
		// A quotation mark within an atom is an ordinary character.
		case (c == '\'' || c == '"') && strings.IndexByte(" \t\r\n()", s[i-1]) >= 0:
			quote = c
		case c == '(':
			depth++
		case c == ')':
			if depth--; depth == 0 {
				return i + 1
			}
		}
	}
	return 0
}
