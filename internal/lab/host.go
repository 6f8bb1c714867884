package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/xenvnet/xend/internal/hostnet"
)

// Host is a machine of the lab.
type Host struct {
	*Node
	// Dir is a directory of the host's own. Commands that Run starts on the host have it as $XEND_PREFIX.
	Dir     string
	Uplinks []*Uplink // in the order in which they were attached
}

// Uplink is a host's network card and its cable to a switch.
type Uplink struct {
	Switch *Switch
	Device string       // name of the device in the host
	Addr4  netip.Prefix // its address; invalid: none
	Addr6  netip.Prefix // its IPv6 address; invalid: none
	MAC    net.HardwareAddr

	host   *Host
	port   int // index of the switch's end; 0 while there is no device
	router bool
	// unplugged says that the switch's end is down.
	unplugged bool
}

// Host makes a host without a network card.
func (l *Lab) Host(name string) (*Host, error) {
	n, err := l.node(name)
	if err != nil {
		return nil, err
	}
	h := &Host{Node: n}
	if h.Dir, err = l.Dir(name); err != nil {
		return nil, fmt.Errorf("lab: %s: %w", name, err)
	}
	n.env = append(n.env, "XEND_PREFIX="+h.Dir)
	return h, nil
}

// Host makes a host with one network card, eth0, on the switch.
func (s *Switch) Host(name string) (*Host, error) {
	h, err := s.lab.Host(name)
	if err != nil {
		return nil, err
	}
	_, err = h.Attach(s, "eth0")
	return h, err
}

// Attach gives a host a network card on a switch, with the switch's next addresses, and default routes to the
// switch's gateways.
func (h *Host) Attach(s *Switch, device string) (*Uplink, error) {
	n, err := s.next()
	if err != nil {
		return nil, err
	}
	u := &Uplink{Switch: s, Device: device, host: h}
	v4, v6 := s.address(n)
	u.Addr4, u.Addr6 = netip.PrefixFrom(v4, s.Net4.Bits()), netip.PrefixFrom(v6, s.Net6.Bits())
	return u, h.attach(u)
}

func (h *Host) attach(u *Uplink) error {
	h.Uplinks = append(h.Uplinks, u)
	return u.Create()
}

// Uplink is the host's first network card.
func (h *Host) Uplink() *Uplink { return h.Uplinks[0] }

// Addr is the host's address on its first switch.
func (h *Host) Addr() netip.Addr { return h.Uplink().Addr4.Addr() }

// Addr6 is the host's IPv6 address on its first switch.
func (h *Host) Addr6() netip.Addr { return h.Uplink().Addr6.Addr() }

// Create makes the card, plugs it in and configures it: the first time, and after Delete.
func (u *Uplink) Create() error {
	err := u.create()
	if err != nil {
		err = fmt.Errorf("lab: %s: uplink %s: %w", u.host.Name, u.Device, err)
	}
	return err
}

func (u *Uplink) create() error {
	fabric := u.Switch.lab.fabric.Net
	port := u.Switch.lab.portName()
	_, err := fabric.EnsureVeth(hostnet.Veth{
		Name: port, Partner: u.Device, PartnerHost: u.host.Net, PartnerMAC: u.MAC, MTU: u.Switch.MTU,
	})
	if err != nil {
		return err
	}
	l, err := fabric.LinkByName(port)
	if err != nil {
		return err
	}
	u.port, u.unplugged = l.Index, false
	if err := fabric.DisableIPv6(l.Index); err != nil {
		return err
	}
	if err := fabric.SetMaster(l.Index, u.Switch.bridge); err != nil {
		return err
	}
	if err := fabric.SetUp(l.Index); err != nil {
		return err
	}
	dev, err := u.Link()
	if err != nil {
		return err
	}
	u.MAC = dev.MAC // the same after Delete and Create, as that of a card
	return u.Up()
}

// ready waits until what is sent on a device goes out, and what comes in is forwarded.
func ready(ends ...end) error {
	ctx, cancel := context.WithTimeout(context.Background(), readyWait)
	defer cancel()
	for _, e := range ends {
		if err := e.net.AwaitRunning(ctx, e.index); err != nil {
			return err
		}
	}
	return nil
}

// end is one end of a pair.
type end struct {
	net   *hostnet.Host
	index int
}

// readyWait is generous: the kernel takes milliseconds.
const readyWait = 10 * time.Second

// Link is the card as the host sees it.
func (u *Uplink) Link() (hostnet.Link, error) { return u.host.Net.LinkByName(u.Device) }

// Up brings the device up and configures it: the kernel forgets routes and IPv6 addresses when it goes down.
func (u *Uplink) Up() error {
	n := u.host.Net
	dev, err := u.Link()
	if err != nil {
		return err
	}
	if err := n.SetUp(dev.Index); err != nil {
		return err
	}
	for _, c := range []struct {
		addr    netip.Prefix
		gateway netip.Addr
		all     netip.Prefix
	}{
		{u.Addr4, u.Switch.Gateway4, netip.MustParsePrefix("0.0.0.0/0")},
		{u.Addr6, u.Switch.Gateway6, netip.MustParsePrefix("::/0")},
	} {
		if !c.addr.IsValid() {
			continue
		}
		a := hostnet.Address{Index: dev.Index, Prefix: c.addr}
		if c.addr.Addr().Is6() {
			a.Flags = noDAD
		}
		if err := n.EnsureAddress(a); err != nil {
			return err
		}
		if u.router || c.gateway == c.addr.Addr() {
			continue
		}
		r := hostnet.Route{To: c.all, Via: c.gateway, Index: dev.Index}
		if err := n.EnsureRoute(r); err != nil {
			return err
		}
	}
	if u.unplugged {
		return nil
	}
	return ready(end{n, dev.Index}, end{u.Switch.lab.fabric.Net, u.port})
}

const noDAD = 0x02 // IFA_F_NODAD of linux/if_addr.h

// Down takes the device down, as `ip link set … down`.
func (u *Uplink) Down() error {
	dev, err := u.Link()
	if err != nil {
		return err
	}
	return u.host.Net.SetDown(dev.Index)
}

// Unplug pulls the cable: the device loses its carrier.
func (u *Uplink) Unplug() error {
	u.unplugged = true
	return u.Switch.lab.fabric.Net.SetDown(u.port)
}

// Plug puts the cable back. If the device is up it has its carrier again afterwards.
func (u *Uplink) Plug() error {
	u.unplugged = false
	fabric := u.Switch.lab.fabric.Net
	dev, err := u.Link()
	if err != nil {
		return err
	}
	if err := fabric.SetUp(u.port); err != nil || !dev.Up() {
		return err
	}
	return ready(end{u.host.Net, dev.Index}, end{fabric, u.port})
}

// Rename gives the device another name and configures it again.
func (u *Uplink) Rename(name string) error {
	dev, err := u.Link()
	if err != nil {
		return err
	}
	if err := u.Down(); err != nil { // kernels before 6.2 rename only what is down
		return err
	}
	if err := u.host.Net.Rename(dev.Index, name); err != nil {
		return err
	}
	u.Device = name
	return u.Up()
}

// Delete takes the card out of the host; Create puts it back, with another interface index.
func (u *Uplink) Delete() error {
	index := u.port
	u.port = 0
	return u.Switch.lab.fabric.Net.Delete(index)
}

// SetAddr replaces the IPv4 address.
func (u *Uplink) SetAddr(addr netip.Prefix) error {
	dev, err := u.Link()
	if err != nil {
		return err
	}
	old := u.Addr4
	u.Addr4 = addr
	// The old one first: its routes go with it.
	return errors.Join(u.host.Net.DeleteAddress(hostnet.Address{Index: dev.Index, Prefix: old}), u.Up())
}

// Capture captures the frames that enter and leave a device.
func (n *Node) Capture(device string, filter func(Frame) bool) (*Capture, error) {
	l, err := n.Net.LinkByName(device)
	if err != nil {
		return nil, fmt.Errorf("lab: %s: capture: %w", n.Name, err)
	}
	return capture(n, l.Index, n.Name+": "+device, filter)
}

// SetPathMTU makes the cable's other end drop, without a word, what is longer: IP packets of more than mtu bytes.
func (u *Uplink) SetPathMTU(mtu int) error { return u.Switch.lab.fabric.Net.SetMTU(u.port, mtu) }
