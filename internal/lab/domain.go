package lab

import (
	"fmt"
	"net"
	"net/netip"

	"github.com/mdlayher/packet"

	"github.com/xenvnet/xend/internal/hostnet"
)

// Domain is a guest: a namespace whose device eth0 is the one end of a pair; the other is a vif of its host.
type Domain struct {
	*Node
	Spec DomainSpec
	Host *Host // where it runs now
}

// DomainSpec describes a domain.
type DomainSpec struct {
	Name   string           // of the domain, unique in the lab
	Vif    string           // name of the host's end: "vif1.0"
	Bridge string           // the bridge that the vif is put in; "": none, for a script or a hand to do it
	MAC    net.HardwareAddr // of eth0; nil: random
	Addrs  []netip.Prefix   // of eth0
	MTU    int              // of eth0 and vif; 0: 1500
	Netkit bool             // the pair is netkit's, of layer 2, and no veth; NeedNetkit
}

// guestDevice is the network card of a domain.
const guestDevice = "eth0"

// vifMAC is what Xen's vif scripts give a vif: the highest, so that it never becomes the bridge's.
var vifMAC = net.HardwareAddr{0xfe, 0xff, 0xff, 0xff, 0xff, 0xff}

// Domain starts a domain on the host.
func (h *Host) Domain(s DomainSpec) (*Domain, error) {
	n, err := h.lab.node(s.Name)
	if err != nil {
		return nil, err
	}
	d := &Domain{Node: n, Spec: s, Host: h}
	if err := d.create(); err != nil {
		return nil, fmt.Errorf("lab: domain %s on %s: %w", s.Name, h.Name, err)
	}
	return d, nil
}

func (d *Domain) create() error {
	if err := d.createPair(); err != nil {
		return err
	}
	eth, err := d.Net.LinkByName(guestDevice)
	if err != nil {
		return err
	}
	d.Spec.MAC = eth.MAC
	if err := d.Net.SetUp(eth.Index); err != nil {
		return err
	}
	for _, p := range d.Spec.Addrs {
		a := hostnet.Address{Index: eth.Index, Prefix: p}
		if p.Addr().Is6() {
			a.Flags = noDAD
		}
		if err := d.Net.EnsureAddress(a); err != nil {
			return err
		}
	}
	return d.connect()
}

func (d *Domain) createPair() error {
	if d.Spec.Netkit {
		return d.createNetkit()
	}
	_, err := d.Host.Net.EnsureVeth(hostnet.Veth{
		Name: d.Spec.Vif, MAC: vifMAC, Partner: guestDevice, PartnerMAC: d.Spec.MAC, PartnerHost: d.Net, MTU: d.Spec.MTU,
	})
	return err
}

// connect does to the vif what a vif script does.
func (d *Domain) connect() error {
	n := d.Host.Net
	vif, err := n.LinkByName(d.Spec.Vif)
	if err != nil {
		return err
	}
	if d.Spec.Bridge != "" {
		br, err := n.LinkByName(d.Spec.Bridge)
		if err != nil {
			return err
		}
		if err := n.SetMaster(vif.Index, br.Index); err != nil {
			return err
		}
	}
	if err := n.SetUp(vif.Index); err != nil {
		return err
	}
	eth, err := d.Net.LinkByName(guestDevice)
	if err != nil {
		return err
	}
	return ready(end{n, vif.Index}, end{d.Net, eth.Index})
}

// Addr is the domain's first address.
func (d *Domain) Addr() netip.Addr { return d.Spec.Addrs[0].Addr() }

// MoveTo migrates the domain to another host, as vif in bridge there. Its card stays what it was, with its MAC,
// its addresses and its connections; it says nothing on the network.
func (d *Domain) MoveTo(to *Host, vif, bridge string) error {
	l, err := d.Host.Net.LinkByName(d.Spec.Vif)
	if err == nil {
		err = d.Host.Net.SetMaster(l.Index, 0)
	}
	if err == nil && l.Name != vif {
		if err = d.Host.Net.SetDown(l.Index); err == nil {
			err = d.Host.Net.Rename(l.Index, vif)
		}
	}
	if err == nil {
		err = d.Host.Net.Move(l.Index, to.Net)
	}
	if err == nil {
		d.Host, d.Spec.Vif, d.Spec.Bridge = to, vif, bridge
		err = d.connect()
	}
	if err != nil {
		return fmt.Errorf("lab: move domain %s to %s: %w", d.Name, to.Name, err)
	}
	return nil
}

// Announce sends what a guest sends after it was resumed: a gratuitous ARP for its first IPv4 address.
func (d *Domain) Announce() error {
	for _, p := range d.Spec.Addrs {
		if p.Addr().Is4() {
			return d.Send(guestDevice, gratuitousARP(d.Spec.MAC, p.Addr()))
		}
	}
	return fmt.Errorf("lab: domain %s has no IPv4 address to announce", d.Name)
}

func gratuitousARP(mac net.HardwareAddr, addr netip.Addr) []byte {
	ip := addr.As4()
	b := append(net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, mac...)
	b = append(b, 0x08, 0x06, 0, 1, 0x08, 0, 6, 4, 0, 1) // ARP: Ethernet, IPv4, request; RFC 826
	b = append(append(b, mac...), ip[:]...)
	b = append(append(b, 0, 0, 0, 0, 0, 0), ip[:]...)
	return b
}

// Send sends one Ethernet frame out of a device.
func (n *Node) Send(device string, frame []byte) error {
	l, err := n.Net.LinkByName(device)
	if err != nil {
		return fmt.Errorf("lab: %s: send: %w", n.Name, err)
	}
	err = n.Do(func() error {
		// Protocol 0: nothing is received.
		c, err := packet.Listen(&net.Interface{Index: l.Index, Name: l.Name}, packet.Raw, 0, nil)
		if err != nil {
			return err
		}
		defer func() { _ = c.Close() }()
		_, err = c.WriteTo(frame, &packet.Addr{HardwareAddr: net.HardwareAddr(frame[:6])})
		return err
	})
	if err != nil {
		return fmt.Errorf("lab: %s: send on %s: %w", n.Name, device, err)
	}
	return nil
}
