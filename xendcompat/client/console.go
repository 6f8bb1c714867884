package client

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
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

// RemoteConsoleError says that the environment names a daemon by TCP, whose consoles are not reached: who reaches the API there
// has proved nothing, and a console is a root shell.
type RemoteConsoleError struct{ Variable, Host, Domain string }

func (e *RemoteConsoleError) Error() string {
	return fmt.Sprintf("the console of %s is reached on its own host only, not by $%s; 'ssh -t %s xm console %s' shows it", e.Domain, e.Variable, e.Host, e.Domain)
}

// CheckConsole tells whether OpenConsole can reach a domain's console, as far as that is known without asking the daemon: a
// RemoteConsoleError if not.
func CheckConsole(p paths.Paths, domain string) error {
	variable, address := "XEND", os.Getenv("XEND")
	if server := os.Getenv("XM_SERVER"); server != "" {
		variable = "XM_SERVER"
		network, a, _, err := parseServer(server, p)
		switch {
		case err != nil:
			return fmt.Errorf("XM_SERVER: %w", err)
		case network == "unix" && filepath.Clean(a) == filepath.Clean(configuration(p).XMLRPCPath):
			return nil // this machine's daemon, by its other socket
		case network == "unix":
			a = "HOST" // a socket can lead anywhere
		}
		address = a
	}
	if address == "" {
		return nil
	}
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		host = address
	}
	return &RemoteConsoleError{variable, host, domain}
}

// OpenConsole connects with the console of a domain of this machine's daemon.
func OpenConsole(ctx context.Context, p paths.Paths, domain string) (*Console, error) {
	if err := CheckConsole(p, domain); err != nil {
		return nil, err
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
