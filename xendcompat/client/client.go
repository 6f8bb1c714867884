// Package client is how xm and vn speak with the daemon: [HTTP] over the SXP/HTTP socket, [XMLRPC]
// over the XML-RPC one, and [Control] over the low-level control socket.
//
// A call ends in one of three ways: with a result, with an [Error], which is why the daemon
// refused, or with a [ConnectError] or another error if there was no answer. The texts of all are
// meant for the user as they are.
package client

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/xenvnet/xend/internal/conffile"
	"github.com/xenvnet/xend/internal/paths"
	"github.com/xenvnet/xend/sxp"
)

// Timeouts of a call.
const (
	// DialTimeout bounds the connecting.
	DialTimeout = 10 * time.Second
	// AnswerTimeout bounds a call whose context has no deadline of its own. A daemon that makes
	// devices on a busy machine is slow; one that hangs is worse.
	AnswerTimeout = 2 * time.Minute
)

// maxReply is the size in bytes of the largest reply that is read: a log, or the forms of some
// 100,000 vnets.
const maxReply = 64 << 20

// Xend is what the daemon can be asked, whichever protocol carries it.
type Xend interface {
	// Vnets returns the ids of the vnets, as their owners wrote them, in the daemon's order.
	Vnets(ctx context.Context) ([]string, error)
	// Vnet returns the (vnet …) form of one.
	Vnet(ctx context.Context, id string) (sxp.Value, error)
	// CreateVnet makes the vnet that config describes; name is the file that config was read from.
	CreateVnet(ctx context.Context, name string, config []byte) error
	// DeleteVnet removes one.
	DeleteVnet(ctx context.Context, id string) error

	// Domains returns a (domain …) form for each running domain.
	Domains(ctx context.Context) ([]sxp.Value, error)
	// Domain returns the (domain …) form of one, by name or id.
	Domain(ctx context.Context, name string) (sxp.Value, error)

	// DomainsIn is Domains for a state: "running", "halted" or "all".
	DomainsIn(ctx context.Context, state string) ([]sxp.Value, error)
	// MakeDomain does one of the operations that make a domain, create, new, restore, and returns its form.
	MakeDomain(ctx context.Context, op string, params ...Param) (sxp.Value, error)
	// DomainOp does an operation on a domain, by name or id, and returns its result, which is mostly the empty atom.
	DomainOp(ctx context.Context, name, op string, params ...Param) (sxp.Value, error)

	// Node returns the (node (key value)…) form.
	Node(ctx context.Context) (sxp.Value, error)
	// Log returns the daemon's log.
	Log(ctx context.Context) (string, error)
	// Dmesg returns the hypervisor's messages.
	Dmesg(ctx context.Context) (string, error)
	// ClearDmesg empties them.
	ClearDmesg(ctx context.Context) error
}

// Error is an answer that says no.
type Error struct {
	// Text is what the daemon said: the reason phrase of a status, the text of a (xend.err …) form
	// or of a fault.
	Text string
	// NotFound tells that what the call named does not exist: the reason phrase was exactly
	// "Not found", or the fault that of an unknown domain.
	NotFound bool
}

func (e *Error) Error() string { return e.Text }

// ConnectError says that there is no daemon to talk to.
type ConnectError struct {
	Network string // "unix" or "tcp"
	Address string // path of the socket, or host:port
	Err     error
}

func (e *ConnectError) Error() string {
	return fmt.Sprintf("Error connecting to xend: %s.  Is xend running?", Reason(e.Err))
}

func (e *ConnectError) Unwrap() error { return e.Err }

// Reason is the innermost cause of a network error as C programs word it: "No such file or directory".
func Reason(err error) string {
	var errno syscall.Errno
	var dns *net.DNSError
	var text string
	switch {
	case errors.As(err, &errno):
		text = errno.Error()
	case errors.As(err, &dns):
		text = dns.Error()
	case isTimeout(err):
		text = syscall.ETIMEDOUT.Error()
	default:
		text = err.Error()
	}
	if text == "" {
		text = "unknown error"
	}
	return strings.ToUpper(text[:1]) + text[1:]
}

func isTimeout(err error) bool {
	var t net.Error
	return errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded) || errors.As(err, &t) && t.Timeout()
}

// Open returns the way to the daemon that the environment asks for: $XM_SERVER names an XML-RPC
// server (httpu:///path or http://host:port), $XEND an SXP/HTTP server (host:port); without them
// it is what this machine's configuration says. It does not connect yet.
func Open(p paths.Paths) (Xend, error) {
	if server := os.Getenv("XM_SERVER"); server != "" {
		network, address, path, err := parseServer(server, p)
		if err != nil {
			return nil, fmt.Errorf("XM_SERVER: %w", err)
		}
		return NewXMLRPC(network, address, path), nil
	}
	if server := os.Getenv("XEND"); server != "" {
		address, err := parseHostPort(server, "8000")
		if err != nil {
			return nil, fmt.Errorf("XEND: %w", err)
		}
		return NewHTTP("tcp", address), nil
	}
	return local(configuration(p)), nil
}

// configuration is that of this machine. A file that is not valid did not start the daemon, and what
// another one said is not known any more: the defaults are the best guess.
func configuration(p paths.Paths) conffile.Servers {
	s, err := conffile.LoadServers(p)
	if err != nil {
		return conffile.DefaultServers(p)
	}
	return s
}

// local returns the way to the daemon of this machine: the first of its servers, SXP/HTTP before XML-RPC,
// unix sockets before TCP. Without any an error names the first.
func local(c conffile.Servers) Xend {
	switch {
	case c.UnixServer:
	case c.HTTPServer:
		return NewHTTP("tcp", net.JoinHostPort(c.HTTPAddress, strconv.Itoa(c.HTTPPort)))
	case c.XMLRPCUnixServer:
		return NewXMLRPC("unix", c.XMLRPCPath, "/RPC2")
	case c.XMLRPCServer:
		return NewXMLRPC("tcp", net.JoinHostPort(c.XMLRPCAddress, strconv.Itoa(c.XMLRPCPort)), "/RPC2")
	}
	return NewHTTP("unix", c.UnixPath)
}

// OpenControl returns the way to the control socket of this machine's daemon.
func OpenControl(p paths.Paths) *Control { return NewControl(configuration(p).ControlSocket) }

// parseServer reads $XM_SERVER and returns network, address and the path to post to.
func parseServer(server string, p paths.Paths) (network, address, path string, err error) {
	u, err := url.Parse(server)
	if err != nil {
		return "", "", "", err
	}
	switch u.Scheme {
	case "httpu":
		if u.Host != "" {
			return "", "", "", fmt.Errorf("%q: a socket is written with three slashes: httpu:///path", server)
		}
		if u.Path == "" || u.Path == "/" {
			return "unix", configuration(p).XMLRPCPath, "/RPC2", nil
		}
		return "unix", u.Path, "/RPC2", nil
	case "http":
		address, err := parseHostPort(u.Host, "8006")
		if err != nil {
			return "", "", "", err
		}
		if u.Path == "" {
			return "tcp", address, "/RPC2", nil
		}
		return "tcp", address, u.EscapedPath(), nil
	}
	return "", "", "", fmt.Errorf("%q is neither httpu:///path nor http://host:port", server)
}

// parseHostPort reads host, host:port, :port and [address]:port.
func parseHostPort(s, port string) (string, error) {
	if s == "" || strings.Contains(s, "/") {
		return "", fmt.Errorf("%q is not host:port", s)
	}
	host := s
	if h, p, err := net.SplitHostPort(s); err == nil {
		host, port = h, p
	} else if strings.Count(s, ":") == 1 {
		return "", fmt.Errorf("%q is not host:port", s)
	}
	host = strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	if host == "" {
		host = "localhost"
	}
	return net.JoinHostPort(host, port), nil
}

// bounded gives a call its deadline.
func bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, AnswerTimeout)
}

// dial connects, and says so where it can't.
func dial(ctx context.Context, network, address string) (net.Conn, error) {
	if network == "unix" {
		if err := conffile.CheckSocketPath(address); err != nil {
			return nil, &ConnectError{Network: network, Address: address, Err: err}
		}
	}
	d := net.Dialer{Timeout: DialTimeout}
	conn, err := d.DialContext(ctx, network, address)
	if err != nil {
		return nil, &ConnectError{Network: network, Address: address, Err: err}
	}
	return conn, nil
}
