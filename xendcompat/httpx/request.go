package httpx

import (
	"bufio"
	"bytes"
	"cmp"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httputil"
	"net/textproto"
	"strconv"
	"strings"
	"time"

	"github.com/xenvnet/xend/xendcompat/accept"
)

// Request is a request that was read whole.
type Request struct {
	Method string
	// Target is what stands between method and version in the request line.
	Target string
	// Path holds the elements of the target's path: percent-decoded, without empty ones and ".", with
	// ".." applied.
	Path []string
	// Query is what follows the question mark, as it was sent.
	Query string
	// Host is that of the target if it has one, else of the header; "" if there is none.
	Host   string
	Header http.Header
	Body   []byte
	// Client is who asks.
	Client accept.Client
	// Certificate is the subject of the client's certificate, which was checked, over TLS; "" if there is none.
	Certificate string

	keepAlive bool
}

// read reads the next request. The error is io.EOF if the connection ended before it began.
func (s *Server) read(c *accept.Conn, br *bufio.Reader) (*Request, error) {
	if err := c.SetReadDeadline(time.Now().Add(idleTimeout)); err != nil {
		return nil, io.EOF
	}
	if err := skipBlank(br); err != nil {
		// Whatever happened, nobody has asked for anything.
		return nil, io.EOF
	}
	if err := c.SetReadDeadline(time.Now().Add(requestTimeout)); err != nil {
		return nil, io.EOF
	}
	head, err := readHead(br)
	if err != nil {
		return nil, err
	}
	r, err := parseHead(head)
	if err != nil {
		return nil, err
	}
	r.Client, r.Certificate = c.Client, certificate(c)
	f, err := r.framing()
	if err != nil {
		return nil, err
	}
	if f.length > s.o.MaxBody {
		return nil, tooLarge(f.length, s.o.MaxBody)
	}
	if (f.chunked || f.length > 0) && br.Buffered() == 0 && r.expectsContinue() {
		if !s.write(c, []byte("HTTP/1.1 100 Continue\r\n\r\n")) {
			return nil, io.EOF
		}
	}
	r.Body, err = readBody(br, f, s.o.MaxBody)
	return r, err
}

// certificate returns the subject of the certificate that the client has proved to have.
func certificate(c *accept.Conn) string {
	t, ok := c.Conn.(*tls.Conn)
	if !ok {
		return ""
	}
	chains := t.ConnectionState().VerifiedChains
	if len(chains) == 0 {
		return ""
	}
	return cmp.Or(chains[0][0].Subject.String(), "(no subject)")
}

// skipBlank skips empty lines before a request line (RFC 9112, 2.2): some clients send one after a body.
func skipBlank(br *bufio.Reader) error {
	for range 16 {
		b, err := br.ReadByte()
		if err != nil {
			return err
		}
		if b != '\r' && b != '\n' {
			break
		}
	}
	return br.UnreadByte()
}

// readHead reads up to the empty line that ends the header. Lines may end in LF alone.
func readHead(br *bufio.Reader) ([]byte, error) {
	var head []byte
	for start := 0; ; {
		part, err := br.ReadSlice('\n')
		head = append(head, part...)
		if len(head) > maxHead {
			return nil, bad("the header is larger than %d bytes", maxHead)
		}
		if errors.Is(err, bufio.ErrBufferFull) {
			continue
		}
		if errors.Is(err, io.EOF) {
			return nil, io.ErrUnexpectedEOF
		}
		if err != nil {
			return nil, err
		}
		if line := bytes.TrimRight(head[start:], "\r\n"); len(line) == 0 {
			return head, nil
		}
		start = len(head)
	}
}

// parseHead reads the request line and the header fields.
func parseHead(head []byte) (*Request, error) {
	line, rest, _ := bytes.Cut(head, []byte("\n"))
	method, target, minor, err := parseRequestLine(string(line))
	if err != nil {
		return nil, err
	}
	fields, err := textproto.NewReader(bufio.NewReader(bytes.NewReader(rest))).ReadMIMEHeader()
	if err != nil {
		return nil, bad("the header: %v", err)
	}
	r := &Request{Method: method, Target: target, Header: http.Header(fields)}
	path := target
	if authority, after, ok := absolute(target); ok {
		r.Host, path = authority, after
	} else {
		r.Host = strings.TrimSpace(r.Header.Get("Host"))
	}
	path, r.Query, _ = strings.Cut(path, "?")
	r.Path = splitPath(path)
	// Kept only if the client asks for it, in HTTP/1.1, too: so it has always been with xend.
	r.keepAlive = r.hasToken("Connection", "keep-alive") && !r.hasToken("Connection", "close")
	if minor == 0 && r.Header.Get("Expect") != "" {
		r.Header.Del("Expect") // RFC 9110, 10.1.1: ignored in HTTP/1.0
	}
	return r, nil
}

// parseRequestLine splits METHOD TARGET HTTP/1.N. The target may hold blanks, which a careless client
// did not encode.
func parseRequestLine(line string) (method, target string, minor int, err error) {
	line = strings.TrimRight(line, "\r\n \t")
	method, rest, ok := strings.Cut(line, " ")
	i := strings.LastIndexByte(rest, ' ')
	if !ok || i < 0 || method == "" {
		return "", "", 0, bad("request line %q", cut(line))
	}
	target, version := strings.Trim(rest[:i], " "), rest[i+1:]
	digits, ok := strings.CutPrefix(version, "HTTP/1.")
	minor, numErr := strconv.Atoi(digits)
	if !ok || numErr != nil || minor < 0 || target == "" {
		return "", "", 0, bad("request line %q", cut(line))
	}
	return method, target, minor, nil
}

// absolute splits a target that is a whole URL, as clients send it to proxies.
func absolute(target string) (authority, path string, ok bool) {
	for _, scheme := range []string{"http://", "https://"} {
		if len(target) < len(scheme) || !strings.EqualFold(target[:len(scheme)], scheme) {
			continue
		}
		rest := target[len(scheme):]
		if i := strings.IndexAny(rest, "/?"); i >= 0 {
			return rest[:i], rest[i:], true
		}
		return rest, "/", true
	}
	return "", target, false
}

// splitPath returns the elements of a path.
func splitPath(path string) []string {
	elements := []string{}
	for e := range strings.SplitSeq(path, "/") {
		switch e = Unescape(e, false); e {
		case "", ".":
		case "..":
			elements = elements[:max(0, len(elements)-1)]
		default:
			elements = append(elements, e)
		}
	}
	return elements
}

// Unescape undoes percent-encoding, and with plus also that of a blank as "+". What is no escape stands
// for itself.
func Unescape(s string, plus bool) string {
	if !strings.ContainsAny(s, "%+") {
		return s
	}
	b := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '+' && plus:
			b = append(b, ' ')
		case c == '%' && i+2 < len(s) && isHex(s[i+1]) && isHex(s[i+2]):
			n, _ := strconv.ParseUint(s[i+1:i+3], 16, 8) // two hex digits are a byte
			b = append(b, byte(n))
			i += 2
		default:
			b = append(b, c)
		}
	}
	return string(b)
}

func isHex(c byte) bool {
	return c >= '0' && c <= '9' || c|0x20 >= 'a' && c|0x20 <= 'f'
}

// hasToken tells whether a header field, a list, has an element.
func (r *Request) hasToken(field, token string) bool {
	for _, v := range r.Header.Values(field) {
		for t := range strings.SplitSeq(v, ",") {
			if strings.EqualFold(strings.TrimSpace(t), token) {
				return true
			}
		}
	}
	return false
}

func (r *Request) expectsContinue() bool { return r.hasToken("Expect", "100-continue") }

// framing says how a body is delimited.
type framing struct {
	chunked bool
	length  int64 // if not chunked
}

// framing reads Transfer-Encoding and Content-Length.
func (r *Request) framing() (framing, error) {
	if te := r.Header.Values("Transfer-Encoding"); len(te) > 0 {
		if len(te) > 1 || !strings.EqualFold(strings.TrimSpace(te[0]), "chunked") {
			return framing{}, &badRequest{Text(http.StatusNotImplemented, "Not implemented", "Transfer encoding not supported"),
				fmt.Sprintf("transfer encoding %q", te)}
		}
		// RFC 9112, 6.3: Content-Length does not count, and the connection is not to be trusted further.
		if len(r.Header.Values("Content-Length")) > 0 {
			r.keepAlive = false
		}
		return framing{chunked: true}, nil
	}
	var length int64
	for i, v := range r.Header.Values("Content-Length") {
		v = strings.TrimSpace(v)
		n, err := strconv.ParseUint(v, 10, 63)
		if errors.Is(err, strconv.ErrRange) {
			n, err = 1<<63-1, nil
		}
		if err != nil || i > 0 && int64(n) != length {
			return framing{}, bad("Content-Length %q", r.Header.Values("Content-Length"))
		}
		length = int64(n)
	}
	return framing{length: length}, nil
}

func tooLarge(n, limit int64) error {
	return &badRequest{Text(http.StatusRequestEntityTooLarge, "Request entity too large", "Request entity too large"),
		fmt.Sprintf("the body has %d bytes, at most %d are accepted", n, limit)}
}

// readBody reads a body of at most limit bytes.
func readBody(br *bufio.Reader, f framing, limit int64) ([]byte, error) {
	if !f.chunked {
		// Grows as it comes: a promise costs the client nothing.
		var body bytes.Buffer
		_, err := io.CopyN(&body, br, f.length)
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return body.Bytes(), err
	}
	body, err := io.ReadAll(io.LimitReader(httputil.NewChunkedReader(br), limit+1))
	if err != nil {
		if errors.Is(err, io.ErrUnexpectedEOF) || isTimeout(err) {
			return nil, err
		}
		return nil, bad("the chunked body: %v", err)
	}
	if int64(len(body)) > limit {
		return nil, tooLarge(int64(len(body)), limit)
	}
	// What follows the last chunk: trailer fields that nobody asked for, and an empty line.
	if _, err := readHead(br); err != nil {
		return nil, err
	}
	return body, nil
}

func isTimeout(err error) bool {
	var t interface{ Timeout() bool }
	return errors.As(err, &t) && t.Timeout()
}
