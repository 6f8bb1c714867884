package httpx

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
)

// Media types of replies. They carry no charset: clients compare them.
const (
	SXP   = "application/sxp"
	Plain = "text/plain"
	HTML  = "text/html"
	XML   = "text/xml"
)

// Reply is a reply with its whole body.
type Reply struct {
	Status int
	// Reason is the reason phrase; legacy clients show it to their users. "" means "OK" for 200.
	Reason string
	// Type is the media type of the body. An empty body carries none, whatever stands here: a client
	// that is told that nothing is an S-expression crashes.
	Type string
	Body []byte
	// Header are further fields.
	Header []Field
}

// Field is a header field.
type Field struct{ Name, Value string }

// OK returns a success with a body, which may be empty.
func OK(mediaType string, body []byte) *Reply {
	return &Reply{Status: http.StatusOK, Reason: "OK", Type: mediaType, Body: body}
}

// Text returns a reply with a plain text.
func Text(status int, reason, body string) *Reply {
	return &Reply{Status: status, Reason: reason, Type: Plain, Body: []byte(body)}
}

// NotFound returns a 404 with the reason phrase that clients compare with.
func NotFound(body string) *Reply { return Text(http.StatusNotFound, "Not found", body) }

// NotImplemented is the reply to a method that is none of those given, as in "GET,HEAD,POST".
func NotImplemented(r *Request, methods string) *Reply {
	reply := Text(http.StatusNotImplemented, "Not implemented", "Request method not supported ("+printable(r.Method)+")")
	reply.Header = []Field{{"Accept", methods}}
	return reply
}

// SetHeader adds a header field and returns r.
func (r *Reply) SetHeader(name, value string) *Reply {
	r.Header = append(r.Header, Field{name, value})
	return r
}

// encode writes the reply as it goes over the wire. Very old clients want HTTP/1.1 and exactly one
// blank after "Content-Length:".
func (r *Reply) encode(method string, keepAlive bool) []byte {
	reason := r.Reason
	if reason == "" {
		reason = http.StatusText(r.Status)
	}
	b := make([]byte, 0, 512+len(r.Body))
	b = fmt.Appendf(b, "HTTP/1.1 %d %s\r\n", r.Status, printable(reason))
	field := func(name, value string) {
		b = append(append(append(append(b, name...), ": "...), printable(value)...), "\r\n"...)
	}
	field("Content-Length", strconv.Itoa(len(r.Body)))
	field("Expires", "-1")
	if len(r.Body) > 0 && r.Type != "" {
		field("Content-Type", r.Type)
		if r.Type == Plain || r.Type == HTML {
			// A text may hold what a client sent, and old browsers take it for a page.
			field("X-Content-Type-Options", "nosniff")
		}
	}
	field("Pragma", "no-cache")
	field("Cache-control", "no-cache")
	for _, f := range r.Header {
		field(f.Name, f.Value)
	}
	if keepAlive {
		field("Connection", "keep-alive")
	} else {
		field("Connection", "close")
	}
	b = append(b, "\r\n"...)
	if method != http.MethodHead {
		b = append(b, r.Body...)
	}
	return b
}

// printable makes a text fit for one line of a header: texts that a client chose are echoed in reason
// phrases.
func printable(s string) string {
	const limit = 1000
	s = strings.Map(func(c rune) rune {
		switch {
		case c == '\t' || c == '\n' || c == '\r':
			return ' '
		case c < 0x20 || c > 0x7e:
			return '?'
		}
		return c
	}, s)
	if len(s) > limit {
		s = s[:limit-3] + "..."
	}
	return s
}
