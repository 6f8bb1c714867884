package fastpath

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/cilium/ebpf"

	"github.com/xenvnet/xend/dataplane/wire"
	"github.com/xenvnet/xend/internal/hostnet"
)

// Ingress is the place where packets of vnets leave the kernel's ordinary way.
type Ingress int

// IngressTC decapsulates at TC, behind the driver and GRO. IngressXDP strips the outer headers of TCP in the driver,
// so that GRO joins the inner segments; TC puts them into their vnet, and decapsulates all else.
const (
	IngressTC Ingress = iota
	IngressXDP
)

func (i Ingress) String() string {
	if i == IngressXDP {
		return "xdp"
	}
	return "tc"
}

// maxXDPMTU is what fits a buffer of 4,096 bytes beside the driver's headroom (256) and the end that the kernel's skb
// takes (320), with an Ethernet header and a VLAN tag.
const maxXDPMTU = 4096 - 256 - 320 - 14 - 4

// Device is what ChooseIngress judges an underlay's device by; LookAt reads it.
type Device struct {
	Name  string
	Index int
	// Kind is that of hostnet.Link: "" for a network card.
	Kind string
	MAC  wire.MAC
	MTU  int
	// SegmentsTunnels: the device segments UDP tunnels (tx-udp_tnl-segmentation).
	SegmentsTunnels bool
	// Master is the kind of the device that this one is a port of; "" for none.
	Master string
	// VLANs tells of devices for VLANs above, whose tags the card takes off before XDP could see them.
	VLANs bool
	// XDP is the program of others at the XDP hook, Own one of ours, of this run or an earlier one; 0 for none.
	XDP, Own ebpf.ProgramID
}

// LookAt reads what ChooseIngress wants to know of a device.
func LookAt(h *hostnet.Host, index int) (Device, error) {
	l, err := h.LinkByIndex(index)
	if err != nil {
		return Device{}, err
	}
	d := Device{Name: l.Name, Index: index, Kind: l.Kind, MTU: l.MTU}
	copy(d.MAC[:], l.MAC)
	features, err := h.Features(index)
	if err != nil {
		return Device{}, err
	}
	d.SegmentsTunnels = features["tx-udp_tnl-segmentation"]
	if l.Master != 0 {
		m, err := h.LinkByIndex(l.Master)
		if err != nil {
			return Device{}, err
		}
		d.Master = m.Kind
	}
	if features["rx-vlan-hw-parse"] {
		vlans, err := h.VLANs()
		if err != nil {
			return Device{}, err
		}
		for _, o := range vlans {
			d.VLANs = d.VLANs || o.Partner == index || l.Master != 0 && o.Partner == l.Master
		}
	}
	id, err := h.XDPProgram(index)
	if id != 0 && hostnet.ProgramName(id) == NameXDP {
		d.Own = id
	} else {
		d.XDP = id
	}
	return d, err
}

// XDP says where IngressXDP may be chosen.
type XDP string

// XDPAuto: on network cards. XDPOn: on veth pairs, too. XDPOff: nowhere.
const (
	XDPAuto XDP = "auto"
	XDPOn   XDP = "on"
	XDPOff  XDP = "off"
)

// ChooseIngress chooses the place for an underlay's device, and says why, for a log line and for vn. It is
// IngressXDP on network cards that don't segment UDP tunnels; whether the driver runs native XDP only AttachXDP can tell. Where TC
// gets segments one by one Joins tells.
func ChooseIngress(d Device, xdp XDP) (Ingress, string) {
	switch {
	case d.SegmentsTunnels:
		return IngressTC, "it segments UDP tunnels"
	case xdp == XDPOff:
		return IngressTC, "the configuration wants no XDP"
	case d.Kind == "veth" && xdp != XDPOn:
		return IngressTC, "it is a veth, where XDP copies each packet"
	case d.Kind != "" && d.Kind != "veth":
		return IngressTC, fmt.Sprintf("it is a device of kind %s, and native XDP is for network cards", d.Kind)
	case d.Master != "" && d.Master != "bridge":
		return IngressTC, fmt.Sprintf("it is a port of a %s, which would see stripped frames", d.Master)
	case d.MTU > maxXDPMTU:
		return IngressTC, fmt.Sprintf("its MTU %d is above %d, so that packets would need several buffers at XDP", d.MTU, maxXDPMTU)
	case d.VLANs:
		return IngressTC, "it takes VLAN tags off before XDP, and has VLAN devices (ethtool -K … rxvlan off lets XDP see them)"
	case d.XDP != 0:
		return IngressTC, fmt.Sprintf("another XDP program (id %d) is attached to it", d.XDP)
	default:
		return IngressXDP, "it segments no UDP tunnels"
	}
}

// Stripper is the XDP program. It may be attached to several devices.
type Stripper struct {
	tables *Tables
	prog   *ebpf.Program
}

// LoadXDP loads the XDP program; an UnsupportedError says what the kernel lacks.
func (p *Tables) LoadXDP() (*Stripper, error) {
	spec, err := loadXdp()
	if err != nil {
		return nil, err
	}
	maps := map[string]*ebpf.Map{
		xdpMapHostCounters: p.bpf.HostCounters, xdpMapHosts: p.bpf.Hosts, xdpMapIngresses: p.bpf.Ingresses,
		xdpMapLeft: p.bpf.Left, xdpMapMacs: p.bpf.Macs, xdpMapStripCounters: p.bpf.StripCounters, xdpMapTimes: p.bpf.Times,
		xdpMapUnderlays: p.bpf.Underlays, xdpMapVnetCounters: p.bpf.VnetCounters, xdpMapVnetOfId: p.bpf.VnetOfId,
		xdpMapVnetOfVnif: p.bpf.VnetOfVnif, xdpMapVifs: p.bpf.Vifs, xdpMapVifDevices: p.bpf.VifDevices,
		xdpMapBypassUntil: p.bpf.BypassUntil,
	}
	spec.Programs[xdpProgUnderlayXdp].Name = NameXDP
	for name, m := range spec.Maps {
		m.Pinning = ebpf.PinNone
		if maps[name] == nil {
			delete(maps, name)
		}
	}
	var o xdpPrograms
	if err := spec.LoadAndAssign(&o, &ebpf.CollectionOptions{MapReplacements: maps}); err != nil {
		return nil, &UnsupportedError{Needs: "eBPF programs at XDP", Err: err}
	}
	return &Stripper{tables: p, prog: o.UnderlayXdp}, nil
}

// Close gives the program back. Where it is attached it goes on, for stripFor.
func (s *Stripper) Close() { _ = s.prog.Close() }

// Program is the XDP program.
func (s *Stripper) Program() *ebpf.Program { return s.prog }

// ErrNotFirst tells that our TC program is not the first one at a device's ingress, so that XDP must strip nothing.
var ErrNotFirst = errors.New("the TC program of the fast path is not the first one at its ingress")

// stripFor is how long XDP strips after it was seen that our TC programs are first: a new daemon has begun by then, and a
// dead one sees nobody who comes before us.
const stripFor = 10 * time.Second

// Attached is the XDP program on one device.
type Attached struct {
	s      *Stripper
	device Device
	h      *hostnet.Host
	id     ebpf.ProgramID

	mu       sync.Mutex
	detached bool
}

// Attach strips at a device, for stripFor: then Check must have been called again. The TC program must be there already (else ErrNotFirst), and must stay
// until Detach: XDP comes last and goes first. The program stays when the process ends. One of ours that an earlier process
// has left there (d.Own) is replaced without a gap.
func (s *Stripper) Attach(h *hostnet.Host, d Device) (*Attached, error) {
	a := &Attached{s: s, device: d, h: h, id: hostnet.ProgramID(s.prog)}
	if err := a.first(); err != nil {
		return nil, err
	}
	if err := s.allow(d); err != nil {
		return nil, err
	}
	if err := h.AttachXDP(d.Index, s.prog, d.Own); err != nil {
		if d.Own == 0 {
			s.Forget(d.Index)
		}
		return nil, err
	}
	return a, nil
}

// Unstrip takes an XDP program of ours off a device, of whatever run. The device may be gone.
func Unstrip(h *hostnet.Host, index int) error {
	id, err := h.XDPProgram(index)
	if errors.Is(err, hostnet.ErrNotFound) || err == nil && (id == 0 || hostnet.ProgramName(id) != NameXDP) {
		return nil
	}
	if err != nil {
		return err
	}
	return h.DetachXDP(index, id)
}

// allow tells both programs that they may work together on a device, for stripFor: as one generation, that of an earlier run if these are
// its tables, so that what is under way is taken. The address that stripped frames bear until TC has
// them is one that bridges don't forward (IEEE 802.3 PAUSE), or, on a device that is no port, one that is not its own.
func (s *Stripper) allow(d Device) error {
	var v xdpIngress
	_ = s.tables.bpf.Ingresses.Lookup(uint32(d.Index), &v) // if there is one
	nobody := v.Nobody
	for v.Generation == 0 { // which strips nothing
		var b [4]byte
		_, _ = rand.Read(b[:]) // never fails
		v.Generation = binary.NativeEndian.Uint32(b[:])
	}
	v.Until = Now() + uint64(stripFor)
	v.Nobody = [6]uint8{0x01, 0x80, 0xc2, 0, 0, 0x01}
	if d.Master == "" {
		v.Nobody = d.MAC
		v.Nobody[0] = v.Nobody[0]&^1 | 2 // local
		v.Nobody[5] ^= 0x5a
	}
	if err := s.tables.bpf.Ingresses.Put(uint32(d.Index), &v); err != nil {
		return fmt.Errorf("kernel fast path: XDP of %s: %w", d.Name, err)
	}
	if v.Nobody != nobody {
		s.tables.changed()
	}
	return nil
}

// Check returns ErrNotFirst if another program has come before ours at TC, or ours is gone, and hostnet.ErrBusy if ours at
// XDP is not there any more: then Detach. The programs themselves notice, too, that TC gives no answer, and strip nothing.
// Else XDP strips for another stripFor.
func (a *Attached) Check() error {
	if err := a.first(); err != nil {
		return err
	}
	switch id, err := a.h.XDPProgram(a.device.Index); {
	case err != nil:
		return err
	case id != a.id:
		return fmt.Errorf("%s: %w: our XDP program is gone", a.device.Name, hostnet.ErrBusy)
	}
	return a.s.allow(a.device)
}

func (a *Attached) first() error { return first(a.h, a.device.Name, a.device.Index, a.s.tables.In()) }

// first returns ErrNotFirst if a program is not the first one at a device's ingress.
func first(h *hostnet.Host, name string, index int, prog *ebpf.Program) error {
	found, err := h.FirstAtIngress(index)
	if err != nil {
		return err
	}
	if id := hostnet.ProgramID(prog); id == 0 || id != found {
		return fmt.Errorf("%s: %w", name, ErrNotFirst)
	}
	return nil
}

// Detach ends stripping on the device; the TC program may go afterwards. Packets that are under way when it is called
// still reach their vnet.
func (a *Attached) Detach() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.detached {
		return nil
	}
	if err := a.h.DetachXDP(a.device.Index, a.id); err != nil {
		return err
	}
	a.detached = true
	return nil
}

// Forget removes what the programs know of a device that is gone, or was detached some time ago.
func (s *Stripper) Forget(index int) {
	_ = s.tables.bpf.Ingresses.Delete(uint32(index))
	s.tables.changed()
}

// StripCounters tell what the XDP programs of all devices did.
type StripCounters struct {
	Stripped uint64 // frames given to TC without their outer headers
	Asked    uint64 // packets that asked TC first, and were left to it
	NoRoom   uint64 // packets left to TC because the driver has no room for the mark
	Foreign  uint64 // frames that TC dropped: of another generation, or with a VLAN tag
}

// Counters reads them.
func (s *Stripper) Counters() (StripCounters, error) {
	var c StripCounters
	for i, to := range []*uint64{&c.Stripped, &c.Asked, &c.NoRoom, &c.Foreign} {
		var per []uint64
		if err := s.tables.bpf.StripCounters.Lookup(uint32(i), &per); err != nil {
			return c, fmt.Errorf("kernel fast path: counters of XDP: %w", err)
		}
		for _, n := range per {
			*to += n
		}
	}
	return c, nil
}
