package daemon

import (
	"context"
	"fmt"
	"net"

	"github.com/xenvnet/xend/xendcompat/control"
	"github.com/xenvnet/xend/xendcompat/httpsxp"
	"github.com/xenvnet/xend/xendcompat/httpx"
	"github.com/xenvnet/xend/xendcompat/xmlrpc"
)

// server is a front end.
type server interface {
	Serve(ctx context.Context, ln net.Listener) error
	String() string
}

// front is the task of a front end on one of its listeners.
type front struct {
	server   server
	listener net.Listener
}

func (f front) Run(ctx context.Context) error { return f.server.Serve(ctx, f.listener) }

// Ready tells that the socket accepts, which it does from the beginning.
func (f front) Ready() <-chan struct{} { return closed }

func (f front) String() string { return fmt.Sprintf("%s on %s", f.server, f.listener.Addr()) }

// closed is a channel that is closed.
var closed = func() chan struct{} { c := make(chan struct{}); close(c); return c }()

// frontEnds opens all sockets. What can't be listened on is found here, before the network is touched;
// clients that connect wait until the vnets are up.
func (d *Daemon) frontEnds() (tasks []task, err error) {
	cfg := d.cfg
	o := httpx.Options{
		Log:      d.log,
		Hosts:    append([]string{cfg.HTTPAddress, cfg.XMLRPCAddress}, cfg.AllowedHosts...),
		MaxBody:  int64(cfg.Limits.BodyBytes),
		MaxConns: cfg.Limits.Connections,
	}
	http, rpc := httpsxp.New(d.svc, o), xmlrpc.New(d.svc, o)
	ctl := control.New(d.svc, control.Options{Log: d.log})
	unix := func(path string) func() (net.Listener, error) {
		return func() (net.Listener, error) { return listenUnix(path, d.log) }
	}
	tcp := func(address string, port int) func() (net.Listener, error) {
		return func() (net.Listener, error) { return listenTCP(address, port) }
	}
	for _, f := range []struct {
		on     bool
		server server
		listen func() (net.Listener, error)
	}{
		{cfg.UnixServer, http, unix(cfg.UnixPath)},
		{cfg.HTTPServer, http, tcp(cfg.HTTPAddress, cfg.HTTPPort)},
		{cfg.XMLRPCUnixServer, rpc, unix(cfg.XMLRPCPath)},
		{cfg.XMLRPCServer, rpc, tcp(cfg.XMLRPCAddress, cfg.XMLRPCPort)},
		{true, ctl, unix(cfg.ControlSocket)},
		{cfg.LegacyControlSocket != "", ctl, unix(cfg.LegacyControlSocket)},
	} {
		if !f.on {
			continue
		}
		ln, err := f.listen()
		if err != nil {
			return nil, err
		}
		d.onClose(func() { ln.Close() }) //nolint:errcheck // closed by its server, if that ran
		tasks = append(tasks, front{f.server, ln})
	}
	return tasks, nil
}
