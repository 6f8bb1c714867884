package hostnet

import (
	"errors"
	"net"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Bridge says how a bridge is made.
type Bridge struct {
	Name string
	MAC  net.HardwareAddr // nil: the kernel's choice, the lowest of its ports
	MTU  int              // 0: the kernel's choice, the lowest of its ports
	// Group is the link group, which it has from its first moment on; 0: the default group.
	Group uint32
	// Snooping leaves IGMP and MLD snooping as the kernel has it (on); false floods multicast to
	// every port.
	Snooping bool
	BridgeSettings
}

// BridgeSettings are what can be changed of a bridge at any time.
type BridgeSettings struct {
	// ForwardMask has a bit for each of the groups 01:80:c2:00:00:00 to …0f that the bridge forwards, though they
	// are for neighbours only: bit 14 LLDP, bit 3 802.1X. Bits 0 to 2 cannot be set.
	ForwardMask uint16
	// MaxLearned bounds the entries that the bridge learns; 0: nothing does. Linux 6.7; earlier ones ignore it.
	MaxLearned uint32
}

func (s BridgeSettings) add(data *nl.RtAttr) {
	data.AddRtAttr(unix.IFLA_BR_GROUP_FWD_MASK, nl.Uint16Attr(s.ForwardMask))
	data.AddRtAttr(unix.IFLA_BR_FDB_MAX_LEARNED, nl.Uint32Attr(s.MaxLearned))
}

// SetBridge changes the settings of a bridge.
func (h *Host) SetBridge(index int, s BridgeSettings) error {
	info := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
	info.AddRtAttr(unix.IFLA_INFO_KIND, nl.NonZeroTerminated("bridge"))
	s.add(info.AddRtAttr(unix.IFLA_INFO_DATA, nil))
	return h.wrapDevice("set bridge", index, h.change(unix.RTM_NEWLINK, 0, ifinfo(index), info))
}

// PinMTU sets a bridge's MTU so that it stays when ports come and go, also where it is that already: the kernel
// takes only a change as made on purpose (BROPT_MTU_SET_BY_USER).
func (h *Host) PinMTU(index, mtu int) error {
	l, err := h.LinkByIndex(index)
	if err == nil && l.MTU == mtu {
		err = h.SetMTU(index, mtu-1)
	}
	if err != nil {
		return err
	}
	return h.SetMTU(index, mtu)
}

// CreateBridge makes a bridge with STP off and forward delay 0, down. ErrExists if the name is taken.
func (h *Host) CreateBridge(b Bridge) (Link, error) {
	parts := []nl.NetlinkRequestData{nl.NewIfInfomsg(unix.AF_UNSPEC), textAttribute(unix.IFLA_IFNAME, b.Name)}
	if b.MAC != nil {
		parts = append(parts, attribute(unix.IFLA_ADDRESS, b.MAC))
	}
	if b.Group != 0 {
		parts = append(parts, numberAttribute(unix.IFLA_GROUP, b.Group))
	}
	info := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
	info.AddRtAttr(unix.IFLA_INFO_KIND, nl.NonZeroTerminated("bridge"))
	data := info.AddRtAttr(unix.IFLA_INFO_DATA, nil)
	data.AddRtAttr(nl.IFLA_BR_FORWARD_DELAY, nl.Uint32Attr(0))
	data.AddRtAttr(nl.IFLA_BR_STP_STATE, nl.Uint32Attr(0))
	if !b.Snooping {
		data.AddRtAttr(nl.IFLA_BR_MCAST_SNOOPING, nl.Uint8Attr(0))
	}
	b.add(data)
	parts = append(parts, info)
	if err := h.change(unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL, parts...); err != nil {
		return Link{}, needs(wrap("create bridge", b.Name, err), "bridge", "CONFIG_BRIDGE (modprobe bridge)")
	}
	l, err := h.LinkByName(b.Name)
	if err != nil {
		return Link{}, err
	}
	if b.MTU != 0 {
		if err := h.PinMTU(l.Index, b.MTU); err != nil {
			return Link{}, errors.Join(err, h.Delete(l.Index))
		}
		l.MTU = b.MTU
	}
	return l, nil
}

// EnsureBridge makes a bridge (STP off, forward delay 0) or takes the one of that name as it is, and
// brings it up. A device that is no bridge is a NotOursError.
func (h *Host) EnsureBridge(name string) (l Link, created bool, err error) {
	l, err = h.LinkByName(name)
	if errors.Is(err, ErrNotFound) {
		l, err = h.CreateBridge(Bridge{Name: name, Snooping: true})
		created = err == nil
		if errors.Is(err, ErrExists) { // somebody was faster, or it is an alternative name
			if found, errFind := h.LinkByName(name); errFind == nil {
				l, err = found, nil
			}
		}
	}
	if err != nil {
		return Link{}, false, err
	}
	if l.Kind != "bridge" {
		return Link{}, false, &NotOursError{Device: l, Want: "a bridge"}
	}
	if !l.Up() {
		if err := h.SetUp(l.Index); err != nil {
			if created {
				err = errors.Join(err, h.Delete(l.Index))
			}
			return Link{}, false, err
		}
		l.Flags |= net.FlagUp
	}
	return l, created, nil
}

// Veth says how a pair of virtual Ethernet devices is made.
type Veth struct {
	Name, Partner   string
	MAC, PartnerMAC net.HardwareAddr // nil: random
	MTU             int              // of both ends; 0: 1500
	// Group and PartnerGroup are the link groups, which the ends have from their first moment on; 0: the default
	// group.
	Group, PartnerGroup uint32
	PartnerHost         *Host // the namespace that the partner is made in; nil: the same
	NumQueues           int   // transmit and receive queues of both ends; 0: the kernel's choice
}

// CreateVeth makes a pair, down. ErrExists if a name is taken.
func (h *Host) CreateVeth(v Veth) error {
	end := func(name string, mac net.HardwareAddr, group uint32) []nl.NetlinkRequestData {
		parts := []nl.NetlinkRequestData{textAttribute(unix.IFLA_IFNAME, name)}
		if mac != nil {
			parts = append(parts, attribute(unix.IFLA_ADDRESS, mac))
		}
		if group != 0 {
			parts = append(parts, numberAttribute(unix.IFLA_GROUP, group))
		}
		if v.MTU != 0 {
			parts = append(parts, numberAttribute(unix.IFLA_MTU, uint32(v.MTU)))
		}
		if v.NumQueues != 0 {
			parts = append(parts, numberAttribute(unix.IFLA_NUM_TX_QUEUES, uint32(v.NumQueues)),
				numberAttribute(unix.IFLA_NUM_RX_QUEUES, uint32(v.NumQueues)))
		}
		return parts
	}
	info := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
	info.AddRtAttr(unix.IFLA_INFO_KIND, nl.NonZeroTerminated("veth"))
	partner := info.AddRtAttr(unix.IFLA_INFO_DATA, nil).AddRtAttr(nl.VETH_INFO_PEER, nil)
	partner.AddChild(nl.NewIfInfomsg(unix.AF_UNSPEC))
	for _, p := range end(v.Partner, v.PartnerMAC, v.PartnerGroup) {
		partner.AddChild(p)
	}
	if v.PartnerHost != nil && v.PartnerHost != h {
		ns := v.PartnerHost.ns
		ns.mu.RLock()
		defer ns.mu.RUnlock()
		if ns.file == nil {
			return wrap("create veth", v.Name+" with partner "+v.Partner, errClosed)
		}
		partner.AddChild(numberAttribute(unix.IFLA_NET_NS_FD, uint32(ns.file.Fd())))
	}
	parts := append([]nl.NetlinkRequestData{nl.NewIfInfomsg(unix.AF_UNSPEC)}, end(v.Name, v.MAC, v.Group)...)
	err := h.change(unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL, append(parts, info)...)
	return needs(wrap("create veth", v.Name+" with partner "+v.Partner, err), "veth", "CONFIG_VETH (modprobe veth)")
}

// EnsureVeth makes a pair, or accepts one whose ends bear these names already; its other attributes
// are left as they are. Another device of either name is a NotOursError.
func (h *Host) EnsureVeth(v Veth) (created bool, err error) {
	there := v.PartnerHost
	if there == nil {
		there = h
	}
	for range 2 { // twice, in case somebody makes it meanwhile
		a, errA := h.LinkByName(v.Name)
		b, errB := there.LinkByName(v.Partner)
		goneA, goneB := errors.Is(errA, ErrNotFound), errors.Is(errB, ErrNotFound)
		switch {
		case errA != nil && !goneA:
			return false, errA
		case errB != nil && !goneB:
			return false, errB
		case goneA && goneB:
			if err = h.CreateVeth(v); errors.Is(err, ErrExists) {
				continue
			}
			return err == nil, err
		case !goneA && (a.Kind != "veth" || goneB):
			return false, &NotOursError{Device: a, Want: "an end of the veth pair " + v.Name + "–" + v.Partner}
		case goneA || b.Kind != "veth" || (there == h && a.Partner != b.Index):
			return false, &NotOursError{Device: b, Want: "an end of the veth pair " + v.Name + "–" + v.Partner}
		default:
			return false, nil
		}
	}
	return false, err
}

// needs turns EOPNOTSUPP, with which the kernel says that it does not know a kind of device, into
// an error that names the cure.
func needs(err error, what, option string) error {
	if errors.Is(err, unix.EOPNOTSUPP) {
		return &UnsupportedError{What: what, Needs: option, Err: err}
	}
	return err
}
