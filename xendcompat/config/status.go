package config

import (
	"net"
	"net/netip"
	"strconv"
	"strings"

	"github.com/xenvnet/xend/internal/conffile"
)

// status checks the table [status]. What anybody could reach must ask who they are, and not in the clear.
func (v *validator) status(t conffile.Status) {
	s := Status{Listen: t.Listen, ReadOnly: t.ReadOnly}
	for _, f := range []struct {
		key, path string
		to        *string
	}{
		{"token_file", t.TokenFile, &s.TokenFile}, {"tls_cert", t.TLSCert, &s.TLSCert},
		{"tls_key", t.TLSKey, &s.TLSKey}, {"client_ca", t.ClientCA, &s.ClientCA},
	} {
		if f.path != "" {
			*f.to = v.path("[status] "+f.key, f.path)
		}
	}
	v.c.Status = s
	if (s.TLSCert == "") != (s.TLSKey == "") {
		v.failf("[status] tls_cert and tls_key belong together: one of them is missing")
	}
	if s.ClientCA != "" && s.TLSCert == "" {
		v.failf("[status] client_ca: certificates need TLS: set tls_cert and tls_key, too")
	}
	if s.Listen == "" {
		return
	}
	host, port, err := net.SplitHostPort(s.Listen)
	n, portErr := strconv.ParseUint(port, 10, 16)
	if err != nil || portErr != nil || n == 0 || strings.ContainsAny(host, " \t\r\n/") {
		v.failf("[status] listen: %q is not address:port, like \"127.0.0.1:9798\" or \"[::]:9798\"", s.Listen)
		return
	}
	v.c.Status.Address, v.c.Status.Port = host, int(n)
	asks := s.TokenFile != "" || s.ClientCA != ""
	switch {
	case !asks && !loopback(host):
		v.failf("[status] listen: everybody who reaches %s could look: set token_file, or client_ca, or listen on 127.0.0.1", s.Listen)
	case !asks && !s.ReadOnly:
		v.failf("[status] listen: every user of this machine could change vnets: set token_file, or client_ca, or read_only = true")
	case s.TLSCert == "" && !loopback(host):
		v.failf("[status] listen: tokens would pass %s in the clear: set tls_cert and tls_key, or listen on 127.0.0.1", s.Listen)
	}
}

// loopback tells whether only this machine reaches an address.
func loopback(host string) bool {
	if host == conffile.Loopback {
		return true
	}
	a, err := netip.ParseAddr(host)
	return err == nil && a.Unmap().IsLoopback()
}
