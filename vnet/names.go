package vnet

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
)

// Lengths of a device name, in bytes.
const (
	// maxName is the kernel's limit: IFNAMSIZ without the final zero.
	maxName = 15
	// maxDefault is how long the names are at most that nobody chose: one less, as
	// it was documented once for all.
	maxDefault = 14
)

// AliasPrefix begins the interface alias of everything that is made for a vnet; the full id follows.
const AliasPrefix = "xend vnet "

// DefaultBridge returns the name of the bridge of a vnet whose configuration
// names none: vnet and the id as written in text, or a short form of it where
// that is no device name.
func DefaultBridge(id ID, text string) string { return defaultName("vnet", id, text) }

// DefaultVnetif returns the name of the interface of a vnet whose configuration
// names none: vnif and the id as DefaultBridge writes it.
func DefaultVnetif(id ID, text string) string { return defaultName("vnif", id, text) }

func defaultName(prefix string, id ID, text string) string {
	if name := prefix + text; len(name) <= maxDefault && !strings.Contains(name, ":") {
		return name
	}
	room := maxDefault - len(prefix)
	digits := strings.TrimLeft(hex.EncodeToString(id[:]), "0")
	if len(digits) > room {
		sum := sha256.Sum256([]byte(id.String()))
		digits = hex.EncodeToString(sum[:])[:room]
	}
	return prefix + digits
}

// CheckDeviceName tells why a name can't be that of a network device.
func CheckDeviceName(name string) error {
	switch {
	case name == "":
		return errors.New("the name is empty")
	case len(name) > maxName:
		return fmt.Errorf("the name %q is longer than %d characters", shorten(name), maxName)
	// devinet_sysctl_register refuses all and default, which are directories of
	// its own in /proc/sys/net/ipv4/conf.
	case name == "." || name == ".." || name == "all" || name == "default":
		return fmt.Errorf("a device cannot be named %q", name)
	}
	for i := range len(name) {
		switch c := name[i]; {
		case c == ' ' || c >= '\t' && c <= '\r' || c == 0xa0: // the kernel's isspace
			return fmt.Errorf("the name %q contains whitespace", name)
		case c == '/' || c == ':': // dev_valid_name
			return fmt.Errorf("the name %q contains %q, which no device name may", name, string(c))
		case c == '%': // dev_alloc_name makes a number of %d
			return fmt.Errorf("the name %q contains %q, which the kernel would replace", name, string(c))
		case c < 0x20 || c == 0x7f:
			return fmt.Errorf("the name %q contains a control character", name)
		}
	}
	return nil
}
