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
	setting := []string{"net", "ipv6", "conf", l.Name, "disable_ipv6"}
	if now, errRead := h.Sysctl(setting...); errRead == nil && now == "1" {
		return nil // writing waits for whoever changes devices, and does so in a loop (restart_syscall)
	}
	err = h.SetSysctl("1", setting...)
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

// RefuseRouters keeps a device from accepting router advertisements, should IPv6 be switched on there. Where
// /proc/sys can't be written the setting stays.
func (h *Host) RefuseRouters(index int) error {
	l, err := h.LinkByIndex(index)
	if err != nil {
		return err
	}
	err = h.SetSysctl("0", "net", "ipv6", "conf", l.Name, "accept_ra")
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.EROFS) || errors.Is(err, fs.ErrPermission) {
		return nil
	}
	return err
}

// IPv4Setting is a setting of IPv4 for one device, below /proc/sys/net/ipv4/conf; its number is that of
// linux/ip.h.
type IPv4Setting uint16

// Settings of IPv4.
const (
	// ARPIgnore, at 1, answers ARP for addresses of the very device only.
	ARPIgnore IPv4Setting = 19
	// DropUnicastInMulticast, at 1, drops packets to one host that come in a frame to many.
	DropUnicastInMulticast IPv4Setting = 30
)

// SetIPv4 changes a setting of IPv4 for a device, where /proc/sys can't be written, too.
func (h *Host) SetIPv4(index int, s IPv4Setting, value uint32) error {
	spec := nl.NewRtAttr(unix.IFLA_AF_SPEC, nil)
	const conf = 1 // IFLA_INET_CONF of linux/if_link.h
	spec.AddRtAttr(unix.AF_INET, nil).AddRtAttr(conf, nil).AddRtAttr(int(s), nl.Uint32Attr(value))
	return h.set("set IPv4 of", index, spec)
}
