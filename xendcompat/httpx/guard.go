package httpx

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
)

// guard refuses what a web page makes a browser on this machine send. The programs that speak this
// API send no Origin.
func (s *Server) guard(r *Request) error {
	// DNS rebinding: a page from evil.example whose name then points here may read and send
	// everything, but the browser still says to which name it thinks to speak. Browsers reach a unix
	// socket, too, through a tunnel that somebody opened; what else comes there is root. On TCP, a program is
	// what does not look in the least like a browser, such as the old clients: those use any name of this host.
	if fromBrowser(r) || !r.Client.Unix && maybeBrowser(r) {
		for _, host := range append(slices.Clone(r.Header.Values("Host")), r.Host) {
			if !s.knows(host) {
				return fmt.Errorf("host name %s is not one of this server's", printable(cut(host)))
			}
		}
	}
	if r.Method == http.MethodGet || r.Method == http.MethodHead {
		return nil
	}
	return crossSite(r)
}

// fromBrowser tells whether a browser sent the request, on behalf of whatever page.
func fromBrowser(r *Request) bool {
	agent := r.Header.Get("User-Agent")
	return strings.HasPrefix(agent, "Mozilla/") || strings.HasPrefix(agent, "Opera/") ||
		r.Header.Get("Origin") != "" || r.Header.Get("Sec-Fetch-Site") != ""
}

// maybeBrowser tells whether a request has a field that browsers of all times send and pages can't suppress:
// Accept, or Origin where a page opens a web socket.
func maybeBrowser(r *Request) bool {
	return slices.ContainsFunc([]string{"Accept", "Origin", "Referer"}, func(name string) bool {
		return len(r.Header.Values(name)) > 0
	})
}

var errCrossSite = errors.New("refused: the request comes from a page of another site")

// crossSite tells whether a web page of another site sent a request that may change something.
func crossSite(r *Request) error {
	// Fetch Metadata: what browsers of today say, and no page can. They send Origin: null with it where
	// a page asked for privacy.
	if site := r.Header.Get("Sec-Fetch-Site"); site != "" {
		if site != "same-origin" && site != "none" {
			return errCrossSite
		}
		return nil
	}
	if origins := r.Header.Values("Origin"); len(origins) > 0 {
		for _, o := range origins {
			if !sameHost(o, r.Host) {
				return errCrossSite
			}
		}
		return nil
	}
	// Browsers of the time before.
	if referer := r.Header.Get("Referer"); referer != "" {
		if !sameHost(referer, r.Host) {
			return errCrossSite
		}
		return nil
	}
	// On a unix socket it is root's own program under a browser's name, or a tunnel's end: browsers that keep
	// both from the end of a tunnel are too old, and too rare, to keep such programs out.
	if fromBrowser(r) && !r.Client.Unix {
		return errors.New("refused: the browser does not say which page the request comes from")
	}
	return nil
}

// sameHost tells whether a URL is of this very host and port.
func sameHost(u, host string) bool {
	parsed, err := url.Parse(u)
	if err != nil || parsed.Scheme != "http" && parsed.Scheme != "https" || parsed.Host == "" {
		return false
	}
	return host != "" && strings.EqualFold(withPort(parsed.Host, parsed.Scheme), withPort(host, parsed.Scheme))
}

// withPort adds the port that an authority leaves out.
func withPort(authority, scheme string) string {
	if _, _, err := net.SplitHostPort(authority); err == nil {
		return authority
	}
	port := "80"
	if scheme == "https" {
		port = "443"
	}
	return net.JoinHostPort(strings.Trim(authority, "[]"), port)
}

// localNames mean this machine for every resolver that follows RFC 6761.
var localNames = []string{"localhost", "localhost.localdomain", "localhost6", "ip6-localhost", "ip6-loopback"}

// knows tells whether a Host header can be meant for this server: it is missing, an address (which
// nobody can make point elsewhere), a name of this machine, or no name that a browser could send at all.
func (s *Server) knows(host string) bool {
	host = strings.TrimSpace(host)
	if host == "" || strings.Contains(host, "/") {
		return true
	}
	name := host
	if h, _, err := net.SplitHostPort(host); err == nil {
		name = h
	}
	name = strings.ToLower(strings.TrimSuffix(strings.Trim(name, "[]"), "."))
	if _, err := netip.ParseAddr(name); err == nil {
		return true
	}
	if slices.Contains(localNames, name) || strings.HasSuffix(name, ".localhost") {
		return true
	}
	return slices.ContainsFunc(s.o.Hosts, func(h string) bool {
		return h != "" && strings.EqualFold(strings.TrimSuffix(h, "."), name)
	})
}
