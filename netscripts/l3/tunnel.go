package l3

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// Tunnel is a device whose packets go out of another one, bound to that by its index.
type Tunnel struct {
	Index int    `json:"index"`
	Name  string `json:"name"`
	Kind  string `json:"kind"` // "vxlan", "gre", …
	// Data are the attributes that make it go out of another device, without that device: IFLA_INFO_DATA. nil:
	// the kernel does not let it be moved.
	Data []byte `json:"data,omitempty"`
}

// linkAttribute is the number of the attribute with the lower device, for the kinds that have one: IFLA_VXLAN_LINK,
// IFLA_GRE_LINK, IFLA_IPTUN_LINK, IFLA_VTI_LINK of linux/if_link.h and linux/if_tunnel.h.
var linkAttribute = map[string]uint16{
	"vxlan": 3, "gre": 1, "gretap": 1, "erspan": 1, "ip6gre": 1, "ip6gretap": 1, "ip6erspan": 1,
	"ipip": 1, "sit": 1, "ip6tnl": 1, "vti": 1, "vti6": 1,
}

// IsTunnel tells the kinds of devices that Tunnels finds.
func IsTunnel(kind string) bool { return linkAttribute[kind] != 0 }

// Tunnels lists the tunnels that go out of a device.
func (c *Conn) Tunnels(index int) ([]Tunnel, error) {
	raw, err := c.dump(unix.RTM_GETLINK, linkMessage(0).bytes(), func([]byte) bool { return true })
	if err != nil {
		return nil, fmt.Errorf("list tunnels: %w", err)
	}
	var list []Tunnel
	for _, b := range raw {
		m, err := parse(b, linkHead)
		if err != nil {
			return nil, fmt.Errorf("list tunnels: %w", err)
		}
		info, _ := m.get(unix.IFLA_LINKINFO)
		parts, err := parseAttributes(info)
		if err != nil {
			continue // a kind that has something else there
		}
		kind, _ := message{attrs: parts}.get(unix.IFLA_INFO_KIND)
		data, _ := message{attrs: parts}.get(unix.IFLA_INFO_DATA)
		link, ok := linkAttribute[text(kind)]
		if !ok {
			continue
		}
		attrs, err := parseAttributes(data)
		if err != nil {
			continue
		}
		settings := message{attrs: attrs}
		if settings.number(link) != uint32(index) {
			continue
		}
		name, _ := m.get(unix.IFLA_IFNAME)
		t := Tunnel{Index: int(int32(number(m.head[4:]))), Name: text(name), Kind: text(kind)}
		if t.Kind == "vxlan" {
			settings.attrs = nil // what is not given stays, and not all may be given
		}
		settings.without(link)
		t.Data = append([]byte{}, settings.bytes()...)
		list = append(list, t)
	}
	return list, nil
}

// text is a string attribute without its terminating zero.
func text(b []byte) string {
	for i, c := range b {
		if c == 0 {
			return string(b[:i])
		}
	}
	return string(b)
}

// MoveTunnel makes a tunnel go out of another device; a VXLAN's membership of its group moves as well (Linux 5.19
// and later). A tunnel that is gone is no error.
func (c *Conn) MoveTunnel(t Tunnel, to int) error {
	attrs, err := parseAttributes(t.Data)
	if err != nil {
		return err
	}
	attrs = append(attrs, attribute{linkAttribute[t.Kind], putNumber(uint32(to))})
	m := linkMessage(t.Index)
	m.attrs = []attribute{{unix.IFLA_LINKINFO | unix.NLA_F_NESTED, appendAttributes(nil, []attribute{
		{unix.IFLA_INFO_KIND, []byte(t.Kind)},
		{unix.IFLA_INFO_DATA | unix.NLA_F_NESTED, appendAttributes(nil, attrs)},
	})}}
	err = c.change(fmt.Sprintf("move the %s %s to device %d", t.Kind, t.Name, to), unix.RTM_NEWLINK, 0, m.bytes())
	if isGone(err) {
		return nil
	}
	return err
}
