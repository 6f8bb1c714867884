package l3

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// settingDirs hold a device's own settings, a file each, below /proc/sys/net: ip-sysctl of the
// kernel's documentation.
var settingDirs = [...]string{"ipv6/conf", "ipv4/conf", "ipv4/neigh", "ipv6/neigh"}

const procSysNet = "/proc/sys/net"

// Settings that are not copied as files: the first is set by netlink, which does not make an
// address at once as the file does, the others are the state of a routing daemon's socket.
var uncopied = []string{"ipv6/conf/addr_gen_mode", "ipv6/conf/mc_forwarding", "ipv4/conf/mc_forwarding"}

// suspended are the settings by which the kernel makes addresses and routes on its own at any moment: temporary
// addresses beside those that are added to a device, and what router advertisements say. See Suspend.
var suspended = []string{"ipv6/conf/use_tempaddr", "ipv6/conf/accept_ra"}

// Settings are a device's settings of layer 3: relative file name, for example
// "ipv4/conf/rp_filter", to content.
type Settings map[string]string

// ReadSettings reads the settings of a device. Those that cannot be read are left out.
func ReadSettings(device string) (Settings, error) {
	s := Settings{}
	for _, dir := range settingDirs {
		path := filepath.Join(procSysNet, dir, device)
		files, err := os.ReadDir(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue // the family is switched off, or the MTU too small for it
		}
		if err != nil {
			return nil, fmt.Errorf("read the settings of %s: %w", device, err)
		}
		for _, f := range files {
			key := dir + "/" + f.Name()
			if slices.Contains(uncopied, key) {
				continue
			}
			// An unset stable_secret is EIO.
			if b, err := os.ReadFile(filepath.Join(path, f.Name())); err == nil {
				s[key] = strings.TrimSpace(string(b))
			}
		}
	}
	return s, nil
}

// Apply gives a device those settings in which it differs, but for those by which the kernel makes addresses on its
// own, which are switched off until Resume. It goes on after an error and returns all.
func (s Settings) Apply(device string) error {
	have, err := ReadSettings(device)
	if err != nil {
		return err
	}
	var errs []error
	for _, key := range slices.Sorted(maps.Keys(s)) {
		if old, ok := have[key]; ok && old != s[key] && !slices.Contains(suspended, key) {
			errs = append(errs, writeSetting(device, key, s[key]))
		}
	}
	Suspend(device)
	return errors.Join(errs...)
}

// Suspend keeps the kernel, as far as that is possible, from making addresses and routes on its own for a device
// whose state is about to be restored: what comes in between would be in the wrong order, or be removed again, and
// each address with the flag mngtmpaddr that is added would bring a temporary one along.
func Suspend(device string) {
	for _, key := range suspended {
		b, err := os.ReadFile(settingPath(device, key))
		if v := strings.TrimSpace(string(b)); err == nil && v != "0" && v != "-1" {
			_ = writeSetting(device, key, "0")
		}
	}
}

// Suspended is the part of the settings that Resume needs.
func (s Settings) Suspended() Settings {
	part := Settings{}
	for _, key := range suspended {
		if v, ok := s[key]; ok {
			part[key] = v
		}
	}
	return part
}

// Resume takes Suspend back.
func (s Settings) Resume(device string) error {
	var errs []error
	for _, key := range suspended {
		want, ok := s[key]
		if !ok {
			continue
		}
		have, err := os.ReadFile(settingPath(device, key))
		if errors.Is(err, fs.ErrNotExist) || strings.TrimSpace(string(have)) == want {
			continue
		}
		errs = append(errs, writeSetting(device, key, want))
	}
	return errors.Join(errs...)
}

func settingPath(device, key string) string {
	dir, name := filepath.Split(key)
	return filepath.Join(procSysNet, dir, device, name)
}

func writeSetting(device, key, value string) error {
	// Without O_CREATE and O_TRUNC: sysctl files know neither.
	f, err := os.OpenFile(settingPath(device, key), os.O_WRONLY, 0)
	if err == nil {
		_, err = f.WriteString(value)
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		return fmt.Errorf("set net/%s of %s to %s: %w", key, device, value, err)
	}
	return nil
}

// GenMode says how a device makes its own IPv6 addresses: IN6_ADDR_GEN_MODE_* of linux/if_link.h.
type GenMode uint8

const (
	// GenNone makes a device take no IPv6 address by itself.
	GenNone GenMode = 1
	// GenAbsent is the mode of a device without IPv6.
	GenAbsent GenMode = 255
)

// Layout and attributes of link messages: linux/if_link.h.
const (
	linkHead         = 16
	linkFlags        = 8
	inet6AddrGenMode = 8 // IFLA_INET6_ADDR_GEN_MODE
)

func linkMessage(index int) message {
	head := make([]byte, linkHead)
	binary.NativeEndian.PutUint32(head[4:], uint32(index))
	return message{head: head}
}

// link reads a link message.
func (c *Conn) link(index int) (message, error) {
	b, err := c.host.GetRaw(unix.RTM_GETLINK, linkMessage(index).bytes())
	if err != nil {
		return message{}, err
	}
	return parse(b, linkHead)
}

// Operational tells whether a device sends: it is up, has carrier, and its queues are set up, which
// happens in the background after the carrier came.
func (c *Conn) Operational(index int) (bool, error) {
	m, err := c.link(index)
	if err != nil {
		return false, fmt.Errorf("read the state of device %d: %w", index, err)
	}
	return binary.NativeEndian.Uint32(m.head[linkFlags:])&unix.IFF_RUNNING != 0, nil
}

// GenMode reads a device's mode.
func (c *Conn) GenMode(index int) (GenMode, error) {
	mode, err := c.genMode(index)
	if err != nil {
		return 0, fmt.Errorf("read how device %d makes its IPv6 addresses: %w", index, err)
	}
	return mode, nil
}

func (c *Conn) genMode(index int) (GenMode, error) {
	m, err := c.link(index)
	if err != nil {
		return 0, err
	}
	spec, _ := m.get(unix.IFLA_AF_SPEC)
	byFamily, err := parseAttributes(spec)
	if err != nil {
		return 0, err
	}
	six, _ := message{attrs: byFamily}.get(unix.AF_INET6)
	attrs, err := parseAttributes(six)
	if err != nil {
		return 0, err
	}
	if v, ok := (message{attrs: attrs}).get(inet6AddrGenMode); ok && len(v) == 1 {
		return GenMode(v[0]), nil
	}
	return GenAbsent, nil
}

// SetGenMode sets a device's mode. It makes and removes no address.
func (c *Conn) SetGenMode(index int, mode GenMode) error {
	have, err := c.GenMode(index)
	if err != nil || have == mode || have == GenAbsent || mode == GenAbsent {
		return err
	}
	inner := appendAttributes(nil, []attribute{{inet6AddrGenMode, []byte{byte(mode)}}})
	family := appendAttributes(nil, []attribute{{unix.AF_INET6 | unix.NLA_F_NESTED, inner}})
	m := linkMessage(index)
	m.attrs = []attribute{{unix.IFLA_AF_SPEC | unix.NLA_F_NESTED, family}}
	return c.change(fmt.Sprintf("set how device %d makes its IPv6 addresses", index), unix.RTM_SETLINK, 0, m.bytes())
}
