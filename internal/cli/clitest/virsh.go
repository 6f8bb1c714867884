package clitest

import (
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/xenvnet/xend/internal/paths"
)

// virsh is the command "virsh get PATH" and "virsh post PATH NAME=VALUE…" of scripts: it sends what libvirt's xend driver
// sent, and reads replies as that did. $VIRSH is raw, as versions up to 0.9.4 wrote the values of forms, or encoded, as later
// ones. It prints the status line and the body, and fails where libvirt saw an error.
func virsh(ts *testscript.TestScript, neg bool, args []string) {
	form := ts.Getenv("VIRSH")
	if form != "raw" && form != "encoded" || len(args) < 2 || args[0] == "get" && len(args) != 2 || args[0] != "get" && args[0] != "post" {
		ts.Fatalf("usage: env VIRSH=raw|encoded; virsh get PATH; virsh post PATH NAME=VALUE...")
	}
	var body strings.Builder
	for i, arg := range args[2:] {
		name, value, _ := strings.Cut(arg, "=")
		if i > 0 {
			body.WriteByte('&')
		}
		body.WriteString(encode(form, name) + "=" + encode(form, value))
	}
	request := args[1] + " HTTP/1.1\r\nHost: localhost:8000\r\nContent-Type: application/x-www-form-urlencoded\r\n"
	if args[0] == "get" {
		request = "GET " + request + "\r\n"
	} else {
		request = "POST " + request + fmt.Sprintf("Content-Length: %d\r\n\r\n", body.Len()) + body.String()
	}
	line, text := exchange(ts, request)
	fmt.Fprintf(ts.Stdout(), "%s\n%s\n", line, text)
	status, _, _ := strings.Cut(strings.TrimPrefix(line, "HTTP/1.1 "), " ")
	failed := status != "200" && (args[0] == "get" || status != "201" && status != "202") || strings.Contains(text, "xend.err") ||
		status == "202" && strings.Contains(text, "failed")
	if failed != neg {
		ts.Fatalf("virsh: %s: %s", line, text)
	}
}

// encode writes a part of a form.
func encode(form, s string) string {
	if form == "raw" {
		return s
	}
	var b strings.Builder
	for i := range len(s) {
		if c := s[i]; c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "%%%02x", c)
		}
	}
	return b.String()
}

// exchange sends a request in many small segments on a connection of its own, and returns the status line and the body of a reply
// that libvirt can read: of a known length, not chunked, short enough for early versions, and in single quotes.
func exchange(ts *testscript.TestScript, request string) (line, body string) {
	conn, err := net.DialTimeout("unix", filepath.Join(ts.Getenv(paths.PrefixEnv), "var/lib/xend/xend-socket"), time.Minute)
	ts.Check(err)
	defer conn.Close()
	ts.Check(conn.SetDeadline(time.Now().Add(time.Minute)))
	const segment = 11
	for len(request) > 0 {
		n, err := io.WriteString(conn, request[:min(segment, len(request))])
		ts.Check(err)
		request = request[n:]
	}
	reply, err := io.ReadAll(conn)
	ts.Check(err)
	head, body, _ := strings.Cut(string(reply), "\r\n\r\n")
	line, head, _ = strings.Cut(head, "\r\n")
	length := -1
	for field := range strings.SplitSeq(head, "\r\n") {
		if value, ok := strings.CutPrefix(field, "Content-Length: "); ok {
			length, err = strconv.Atoi(value)
			ts.Check(err)
		}
	}
	const most = 4000
	switch {
	case !strings.HasPrefix(line, "HTTP/1.1 "), length != len(body), strings.Contains(head, "Transfer-Encoding"):
		ts.Fatalf("libvirt can't read this reply: %q", reply)
	case len(body) > most:
		ts.Fatalf("early versions of libvirt read no more than %d bytes: %q", most, body)
	case strings.Contains(body, `"`):
		ts.Fatalf("libvirt knows single quotes only: %q", body)
	}
	return line, body
}
