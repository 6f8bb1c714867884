package client

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"

	"github.com/xenvnet/xend/internal/paths"
	"github.com/xenvnet/xend/xendcompat/console"
)

// Console is a connection with the console of a domain.
type Console struct {
	net.Conn
	r *bufio.Reader
}

// Read reads what the domain writes.
func (c *Console) Read(b []byte) (int, error) { return c.r.Read(b) }

// CloseWrite tells that nothing more is typed.
func (c *Console) CloseWrite() error {
	if u, ok := c.Conn.(*net.UnixConn); ok {
		return u.CloseWrite()
	}
	return nil
}

// OpenConsole connects with the console of a domain of this machine's daemon.
func OpenConsole(ctx context.Context, p paths.Paths, domain string) (*Console, error) {
	if os.Getenv("XM_SERVER") != "" || os.Getenv("XEND") != "" {
		return nil, errors.New("a console is reached on the domain's own host only")
	}
	conn, err := dial(ctx, "unix", p.ConsoleSocket())
	if err != nil {
		return nil, err
	}
	c := &Console{conn, bufio.NewReader(conn)}
	if _, err = fmt.Fprintln(conn, strings.ReplaceAll(domain, "\n", " ")); err == nil {
		var line string
		if line, err = c.r.ReadString('\n'); err == nil {
			if err = consoleAnswer(strings.TrimSuffix(line, "\n")); err == nil {
				return c, nil
			}
		} else if errors.Is(err, io.EOF) {
			err = errors.New("xend closed the connection before its answer was complete")
		}
	}
	conn.Close()
	return nil, err
}

// consoleAnswer reads the line that the daemon answers with.
func consoleAnswer(line string) error {
	if line == console.OK {
		return nil
	}
	if text, ok := strings.CutPrefix(line, console.Missing); ok {
		return &Error{Text: text, NotFound: true}
	}
	return &Error{Text: strings.TrimPrefix(line, console.Failed)}
}
