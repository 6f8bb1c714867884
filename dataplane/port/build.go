package port

import (
	"bytes"
	"errors"
	"slices"
	"sync"

	"github.com/xenvnet/xend/internal/hostnet"
)

// offloads are the features of a vnif that must be off: work that is left to the device but that the header
// of a packet socket has no words for. With a feature off the kernel does that work itself before it
// hands a frame over; with it on, the frame is dropped, or comes with metadata that say something else. All
// others stay as they are: a new veth has them on, and whoever switches one off wants that.
var offloads = sync.OnceValue(func() map[string]bool {
	off := map[string]bool{
		"tx-checksum-sctp":             false, // CRC32c: NEEDS_CSUM would be taken for an Internet checksum
		"tx-sctp-segmentation":         false,
		"tx-gre-segmentation":          false,
		"tx-gre-csum-segmentation":     false,
		"tx-ipxip4-segmentation":       false,
		"tx-ipxip6-segmentation":       false,
		"tx-udp_tnl-segmentation":      false,
		"tx-udp_tnl-csum-segmentation": false,
		"tx-esp-segmentation":          false,
		"tx-gso-list":                  false,
		"tx-tcp-accecn-segmentation":   false, // CWR on every segment, which GSO_ECN does not say
	}
	if !UDPGSO() {
		off["tx-udp-segmentation"] = false
	}
	return off
})

// build takes the steps from what survey found to what is specified. Each changes only what differs, so
// that nobody who watches the devices is told of changes that are none.
func (w *work) build() error {
	for _, s := range []struct {
		name string
		do   func() error
	}{
		{"clear", w.clear},
		{"bridge", w.makeBridge},
		{"bridge mark", w.markBridge},
		{"bridge quiet", w.quietBridge},
		{"bridge identity", w.keepIdentity},
		{"bridge settings", w.setBridge},
		{"bridge guard", w.guardBridge},
		{"bridge name", w.nameBridge},
		{"bridge up", w.raiseBridge},
		{"pair", w.makePair},
		{"partner mark", func() error { return w.mark(&w.partner) }},
		{"vnif mark", func() error { return w.mark(&w.vnif) }},
		{"partner quiet", w.quietPartner},
		{"partner drop", func() error { return w.host.DropIngress(w.partner.Index) }},
		{"vnif guard", w.guardVnif},
		{"vnif filters", w.prepareVnif},
		{"vnif offloads", func() error { return w.host.SetFeatures(w.vnif.Index, offloads()) }},
		{"vnif quiet", w.quietVnif},
		{"mtu", w.setMTU},
		{"names", w.namePair},
		{"vnif bridge", w.joinBridge},
		{"partner up", func() error { return w.raise(&w.partner) }},
		{"vnif up", func() error { return w.raise(&w.vnif) }},
	} {
		err := s.do()
		if err == nil && w.after != nil {
			err = w.after(s.name)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// clear removes what is ours and of no use.
func (w *work) clear() error {
	for _, l := range w.broken {
		if err := w.host.Delete(l.Index); err != nil {
			return err
		}
	}
	return nil
}

// makeBridge makes a bridge under a name of our own and in our group, from its first moment on.
func (w *work) makeBridge() error {
	if w.spec.Bridge == "" || w.bridge.Index != 0 {
		return nil
	}
	b, err := w.host.CreateBridge(hostnet.Bridge{
		Name: newBridgeName(w.spec.ID), MAC: randomMAC(), MTU: w.spec.MTU, Group: Group, BridgeSettings: w.settings(),
	})
	if err != nil {
		return err
	}
	w.bridge, w.bridgeOurs, w.newBridge = b, true, true
	w.undo = append(w.undo, func() error { return w.host.Delete(b.Index) })
	return nil
}

// markBridge marks a bridge that we made, now or for a vnet that is no more. Others are not touched.
func (w *work) markBridge() error {
	if w.bridge.Index == 0 || !w.bridgeOurs {
		return nil
	}
	return w.mark(&w.bridge)
}

// maxLearned is how many MACs a bridge learns, those behind the tunnel with them: some switches' worth. Those of more
// are flooded. Without a bound a domain that sends from random MACs fills the kernel's memory.
const maxLearned = 16384

func (w *work) settings() hostnet.BridgeSettings {
	return hostnet.BridgeSettings{ForwardMask: w.spec.ForwardMask, MaxLearned: maxLearned}
}

// keepIdentity has a bridge that an earlier release made keep its MAC and its MTU whatever its ports have: only one
// whose MAC is the kernel's choice has a port's.
func (w *work) keepIdentity() error {
	if !w.bridgeOurs || w.newBridge {
		return nil
	}
	chosen := slices.ContainsFunc(w.ports, func(p hostnet.Link) bool { return bytes.Equal(p.MAC, w.bridge.MAC) })
	if !chosen {
		return nil
	}
	w.bridge.MTU = w.spec.MTU
	return errors.Join(w.host.SetHardwareAddr(w.bridge.Index, w.bridge.MAC), w.host.PinMTU(w.bridge.Index, w.spec.MTU))
}

// setBridge puts right what may have been changed of a bridge.
func (w *work) setBridge() error {
	if !w.bridgeOurs || w.newBridge {
		return nil
	}
	d, err := w.host.Detail(w.bridge.Index)
	if err != nil {
		return err
	}
	want := w.settings()
	if d.ForwardMask == want.ForwardMask && (d.MaxLearned == want.MaxLearned || !d.BoundsLearned) {
		return nil
	}
	return w.host.SetBridge(w.bridge.Index, want)
}

// quietBridge keeps the host's IPv6 off a new bridge, and its answers to ARP for addresses that it has elsewhere: an
// administrator who wants IPv6 there switches it on, and it stays on.
func (w *work) quietBridge() error {
	if !w.newBridge {
		return nil
	}
	return w.quiet(w.bridge.Index)
}

// quiet keeps a device's segment from the host's addresses and routes.
func (w *work) quiet(index int) error {
	return errors.Join(w.host.DisableIPv6(index), w.host.RefuseRouters(index),
		w.host.SetIPv4(index, hostnet.ARPIgnore, 1), w.host.SetIPv4(index, hostnet.DropUnicastInMulticast, 1))
}

// guardBridge keeps what comes to a new bridge from the host, which has no address there. Later that is the
// engine's business.
func (w *work) guardBridge() error {
	if !w.newBridge {
		return nil
	}
	return w.host.SetGuard(w.bridge.Index, hostnet.Guard{Closed: true})
}

// guardVnif does the same for a new vnif that is on no bridge.
func (w *work) guardVnif() error {
	if !w.created || w.spec.Bridge != "" {
		return nil
	}
	return w.host.SetGuard(w.vnif.Index, hostnet.Guard{Closed: true})
}

// prepareVnif makes the place for the fast path's program while nothing can be lost.
func (w *work) prepareVnif() error {
	if !w.created {
		return nil
	}
	return w.host.PrepareFilters(w.vnif.Index)
}

func (w *work) nameBridge() error { return w.rename(&w.bridge, w.spec.Bridge) }

func (w *work) raiseBridge() error { return w.raise(&w.bridge) }

func (w *work) makePair() error {
	if w.partner.Index != 0 {
		return nil
	}
	mac := w.mac
	if mac == nil {
		mac = randomMAC()
	}
	name, partner := newVnifName(w.spec.ID), PartnerName(w.spec.ID)
	err := w.host.CreateVeth(hostnet.Veth{
		Name: name, Partner: partner, MAC: mac, PartnerMAC: randomMAC(), MTU: w.spec.MTU, Group: Group, PartnerGroup: Group,
	})
	if err != nil {
		return err
	}
	w.created = true
	w.undo = append(w.undo, func() error {
		l, err := find(w.host, partner)
		if err != nil || l.Index == 0 {
			return err
		}
		return w.host.Delete(l.Index) // and with it the vnif
	})
	if w.vnif, err = w.host.LinkByName(name); err != nil {
		return err
	}
	w.partner, err = w.host.LinkByName(partner)
	return err
}

func (w *work) mark(l *hostnet.Link) error {
	if l.Group != Group {
		if err := w.host.SetGroup(l.Index, Group); err != nil {
			return err
		}
		l.Group = Group
	}
	if l.Alias == w.alias {
		return nil
	}
	l.Alias = w.alias
	return w.host.SetAlias(l.Index, w.alias)
}

// quietPartner keeps the host's own stack off the partner: no address resolution, no IPv6, no bridge.
func (w *work) quietPartner() error {
	p := &w.partner
	var errs []error
	if !p.NoARP {
		errs = append(errs, w.host.SetNoARP(p.Index, true))
	}
	if p.Master != 0 {
		errs = append(errs, w.host.SetMaster(p.Index, 0))
	}
	return errors.Join(append(errs, w.host.DisableIPv6(p.Index))...)
}

// quietVnif keeps the host's IPv6 off a vnif that is a port: its own solicitations would go out into the
// vnet. A vnif without a bridge is there to be given addresses, and is quiet to begin with, as a bridge is.
func (w *work) quietVnif() error {
	switch {
	case w.created:
		return w.quiet(w.vnif.Index)
	case w.spec.Bridge == "":
		return w.host.RefuseRouters(w.vnif.Index)
	}
	return w.host.DisableIPv6(w.vnif.Index)
}

func (w *work) setMTU() error {
	// Beyond the MTU a packet socket leaves room for an 802.1Q tag, but for no other: packet_snd.
	errs := []error{w.limit(&w.partner, w.spec.MTU+tagLen), w.limit(&w.vnif, w.spec.MTU)}
	if w.bridgeOurs {
		errs = append(errs, w.limit(&w.bridge, w.spec.MTU))
	}
	return errors.Join(errs...)
}

func (w *work) limit(l *hostnet.Link, mtu int) error {
	if l.MTU == mtu {
		return nil
	}
	l.MTU = mtu
	return w.host.SetMTU(l.Index, mtu)
}

func (w *work) namePair() error {
	return errors.Join(w.rename(&w.partner, PartnerName(w.spec.ID)), w.rename(&w.vnif, w.spec.Vnetif))
}

// rename gives a device its name; kernels before 6.2 want it down for that.
func (w *work) rename(l *hostnet.Link, name string) error {
	if l.Index == 0 || l.Name == name {
		return nil
	}
	err := w.host.Rename(l.Index, name)
	if errors.Is(err, hostnet.ErrBusy) && l.Up() {
		if err := w.host.SetDown(l.Index); err != nil {
			return err
		}
		l.Flags = 0
		err = w.host.Rename(l.Index, name)
	}
	if err == nil {
		l.Name = name
	}
	return err
}

// joinBridge makes the vnif a port, with the settings that it had before it was lost.
func (w *work) joinBridge() error {
	if w.bridge.Index == 0 || w.vnif.Master == w.bridge.Index {
		return nil
	}
	if !w.remembered {
		return w.host.SetMaster(w.vnif.Index, w.bridge.Index)
	}
	if w.vnif.Up() { // nothing passes before the settings are what they were
		if err := w.host.SetDown(w.vnif.Index); err != nil {
			return err
		}
		w.vnif.Flags = 0
	}
	if err := w.host.SetMaster(w.vnif.Index, w.bridge.Index); err != nil {
		return err
	}
	if !w.created { // on the bridge it would be taken for whole next time
		w.undo = append(w.undo, func() error { return w.host.SetMaster(w.vnif.Index, 0) })
	}
	return w.host.SetPort(w.vnif.Index, w.portSettings)
}

func (w *work) raise(l *hostnet.Link) error {
	if l.Index == 0 || l.Up() {
		return nil
	}
	return w.host.SetUp(l.Index)
}
