package conffile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/xenvnet/xend/internal/paths"
)

// Loopback is what an address means that the file leaves empty: the API knows no passwords.
const Loopback = "localhost"

// Servers are where the daemon listens, and its clients look for it.
type Servers struct {
	// UnixServer is the SXP/HTTP server on the socket UnixPath.
	UnixServer bool
	UnixPath   string
	// HTTPServer is the SXP/HTTP server on TCP. HTTPAddress is a name or an IP address, never empty.
	HTTPServer  bool
	HTTPAddress string
	HTTPPort    int
	// XMLRPCUnixServer is the XML-RPC server on the socket XMLRPCPath.
	XMLRPCUnixServer bool
	XMLRPCPath       string
	// XMLRPCServer is the XML-RPC server on TCP.
	XMLRPCServer  bool
	XMLRPCAddress string
	XMLRPCPort    int
	// ControlSocket is the low-level control socket's path.
	ControlSocket string
}

// DefaultServers are those without any file.
func DefaultServers(p paths.Paths) Servers {
	return Servers{
		UnixServer:       true,
		UnixPath:         p.Socket(),
		HTTPAddress:      Loopback,
		HTTPPort:         8000,
		XMLRPCUnixServer: true,
		XMLRPCPath:       p.XMLRPCSocket(),
		XMLRPCAddress:    Loopback,
		XMLRPCPort:       8006,
		ControlSocket:    p.ControlSocket(),
	}
}

// Options are the options of xend-config.sxp that say where servers are, by their names.
func (s *Servers) Options() map[string]Setter {
	return map[string]Setter{
		"xend-unix-server":               Bool(&s.UnixServer),
		"xend-unix-path":                 Text(&s.UnixPath),
		"xend-http-server":               Bool(&s.HTTPServer),
		"xend-port":                      Port(&s.HTTPPort),
		"xend-address":                   Address(&s.HTTPAddress),
		"xend-unix-xmlrpc-server":        Bool(&s.XMLRPCUnixServer),
		"xend-tcp-xmlrpc-server":         Bool(&s.XMLRPCServer),
		"xend-tcp-xmlrpc-server-address": Address(&s.XMLRPCAddress),
		"xend-tcp-xmlrpc-server-port":    Port(&s.XMLRPCPort),
	}
}

// LoadServers reads from both files where the servers are. Other mistakes in them are none of its business. A
// file that does not exist says nothing.
func LoadServers(p paths.Paths) (Servers, error) {
	s := DefaultServers(p)
	b, err := read(p.XendConfig())
	if err != nil {
		return s, err
	}
	options, err := Options(b)
	if err != nil {
		return s, fmt.Errorf("%s: %w", p.XendConfig(), err)
	}
	setters := s.Options()
	for _, form := range options {
		if set, ok := setters[form.Name()]; ok {
			if err := set.Take(form); err != nil {
				return s, fmt.Errorf("%s: %w", p.XendConfig(), err)
			}
		}
	}
	v := Vnet{Paths: Paths{ControlSocket: s.ControlSocket, XMLRPCSocket: s.XMLRPCPath}}
	if err := readVnet(p, &v); err != nil {
		return s, err
	}
	s.ControlSocket, s.XMLRPCPath = v.Paths.ControlSocket, v.Paths.XMLRPCSocket
	return s, nil
}

// KeyDir reads from vnet.toml where the keys of vnets with security are.
func KeyDir(p paths.Paths) (string, error) {
	s, err := securityOf(p)
	return s.KeyDir, err
}

// SecurityPort reads from vnet.toml the UDP port of vnets with security.
func SecurityPort(p paths.Paths) (uint16, error) {
	s, err := securityOf(p)
	if err == nil && (s.Port < 1 || s.Port > 65535) {
		err = fmt.Errorf("%s: [security] port: %d is no port", p.VnetConfig(), s.Port)
	}
	return uint16(s.Port), err
}

// DataplanePort reads from vnet.toml the UDP port of vnets without security.
func DataplanePort(p paths.Paths) (uint16, error) {
	v := Vnet{Dataplane: Dataplane{Port: 1798}}
	if err := readVnet(p, &v); err != nil {
		return 0, err
	}
	if v.Dataplane.Port < 1 || v.Dataplane.Port > 65535 {
		return 0, fmt.Errorf("%s: [dataplane] port: %d is no port", p.VnetConfig(), v.Dataplane.Port)
	}
	return uint16(v.Dataplane.Port), nil
}

// securityOf reads the table [security] of vnet.toml.
func securityOf(p paths.Paths) (Security, error) {
	const port = 4500
	v := Vnet{Security: Security{KeyDir: p.VnetKeys(), Port: port}}
	if err := readVnet(p, &v); err != nil {
		return v.Security, err
	}
	if !filepath.IsAbs(v.Security.KeyDir) {
		return v.Security, fmt.Errorf("%s: [security] key_dir: %q is not an absolute path", p.VnetConfig(), v.Security.KeyDir)
	}
	return v.Security, nil
}

// readVnet reads vnet.toml over what v holds.
func readVnet(p paths.Paths, v *Vnet) error {
	b, err := read(p.VnetConfig())
	if err != nil {
		return err
	}
	if _, err := DecodeVnet(b, v); err != nil {
		return fmt.Errorf("%s: %w", p.VnetConfig(), err)
	}
	return nil
}

func read(file string) ([]byte, error) {
	b, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return b, err
}

// maxSocketPath is what fits into sockaddr_un with its terminating zero; unix(7).
const maxSocketPath = 107

// CheckSocketPath tells why a unix socket can't have that path.
func CheckSocketPath(path string) error {
	if !filepath.IsAbs(path) {
		return fmt.Errorf("socket path %q is not absolute", path)
	}
	if n := len(path); n > maxSocketPath {
		return fmt.Errorf("socket path %s is too long: %d bytes, and the kernel takes %d", path, n, maxSocketPath)
	}
	return nil
}
