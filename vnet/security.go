package vnet

import "fmt"

// Security is the protection of a vnet's traffic between hosts.
type Security uint8

// The levels of protection.
const (
	None Security = iota // cleartext
	Auth                 // authenticated
	Conf                 // authenticated and encrypted
)

var levels = [...]string{None: "none", Auth: "auth", Conf: "conf"}

// ParseSecurity reads none, auth or conf.
func ParseSecurity(s string) (Security, error) {
	for level, name := range levels {
		if s == name {
			return Security(level), nil
		}
	}
	return None, fmt.Errorf("unknown security level %q: it must be none, auth or conf", shorten(s))
}

// String returns the level's name in configurations.
func (s Security) String() string {
	if int(s) < len(levels) {
		return levels[s]
	}
	return fmt.Sprintf("security(%d)", uint8(s))
}
