package daemon

import (
	"context"
	"crypto/tls"
	"net"
	"slices"

	"github.com/xenvnet/xend/xendcompat/httpx"
)

// statusServer is the server of the status page's own listener, over TLS if it has a certificate. rest answers what is not
// the page's: for those only who have shown who they are.
func (d *Daemon) statusServer(rest httpx.Handler, o httpx.Options) server {
	if d.access == nil {
		return nil
	}
	if d.access.Open() {
		rest = nil
	}
	o.Hosts = slices.Concat([]string{d.cfg.Status.Address}, d.access.Names(), o.Hosts)
	s := httpx.NewServer("status", d.status.Handler(d.access, rest), o)
	if c := d.access.TLS(); c != nil {
		return tlsServer{s, c}
	}
	return s
}

// tlsServer serves over TLS.
type tlsServer struct {
	server
	config *tls.Config
}

// Serve answers what comes over ln until ctx ends, and closes ln.
func (s tlsServer) Serve(ctx context.Context, ln net.Listener) error {
	return s.server.Serve(ctx, tls.NewListener(ln, s.config))
}
