package hostnet

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Sysctl reads a setting below /proc/sys in the host's namespace. The path has elements, since a
// device's name may have dots: "net", "ipv6", "conf", "vif1.0", "disable_ipv6".
func (h *Host) Sysctl(path ...string) (string, error) {
	var value []byte
	err := h.Do(func() (err error) {
		value, err = os.ReadFile(sysctl(path))
		return err
	})
	return strings.TrimSpace(string(value)), wrap("read setting", strings.Join(path, "."), err)
}

// SetSysctl writes a setting below /proc/sys in the host's namespace.
func (h *Host) SetSysctl(value string, path ...string) error {
	return wrap("write setting", strings.Join(path, "."), h.Do(func() error {
		return os.WriteFile(sysctl(path), []byte(value), 0) // procfs looks at the thread's namespace
	}))
}

func sysctl(path []string) string { return filepath.Join(append([]string{"/proc/sys"}, path...)...) }

// DisableIPv6 keeps IPv6 off a device: no address, no neighbour discovery, no router solicitation.
// Where /proc/sys can't be written, as in a container, the device at least generates no address.
func (h *Host) DisableIPv6(index int) error {
	l, err := h.LinkByIndex(index)
	if err != nil {
		return err
	}
	err = h.SetSysctl("1", "net", "ipv6", "conf", l.Name, "disable_ipv6")
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		return nil // without the setting the kernel has no IPv6
	}
	if errGen := h.generateNoAddress(index); errGen != nil {
		return errors.Join(err, errGen)
	}
	return nil
}

// generateNoAddress keeps the kernel from making a link-local address when the device comes up.
func (h *Host) generateNoAddress(index int) error {
	spec := nl.NewRtAttr(unix.IFLA_AF_SPEC, nil)
	const none = 1 // IN6_ADDR_GEN_MODE_NONE of linux/if_link.h
	spec.AddRtAttr(unix.AF_INET6, nil).AddRtAttr(unix.IFLA_INET6_ADDR_GEN_MODE, nl.Uint8Attr(none))
	return h.set("set addrgenmode of", index, spec)
}
