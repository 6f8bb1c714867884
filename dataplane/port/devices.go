package port

import (
	"crypto/rand"
	"errors"
	"fmt"
	"net"

	"github.com/xenvnet/xend/internal/hostnet"
	"github.com/xenvnet/xend/vnet"
)

// Spec says which devices a vnet wants.
type Spec struct {
	ID     vnet.ID
	Bridge string // name of the bridge that the vnif is a port of; "": none, as for the default vnets
	Vnetif string // name of the vnif
	MTU    int    // of the vnif, and the bridge if xend makes it, in bytes; 0: DefaultMTU
}

// Devices are a vnet's devices as Ensure left them.
type Devices struct {
	VnifIndex, PeerIndex int
	BridgeIndex          int // of the bridge that the vnif is on, also where Spec names none; 0: on none
	VnifName, PeerName   string
	Bridge               string           // "": Spec names none
	MAC                  net.HardwareAddr // of the vnif
	MTU                  int              // of the vnif, in bytes
	Created              bool             // the pair was made now; false: adopted

	host *hostnet.Host // the namespace in which they are
}

// ConflictError means that devices belong to another vnet.
type ConflictError struct {
	Device hostnet.Link // what is taken
	By     vnet.ID      // the vnet that has it
}

func (e *ConflictError) Error() string {
	return fmt.Sprintf("%s belongs to vnet %s", e.Device, e.By)
}

// Ensure makes a vnet's devices be as specified. It adopts what an earlier daemon left, puts right what
// is not as it should be, and makes the rest; run twice it changes nothing. Before it changes
// anything it refuses names that are taken by devices that xend did not make (hostnet.NotOursError) or
// that belong to another vnet (ConflictError). On failure, what it made is taken away again.
func Ensure(h *hostnet.Host, s Spec) (Devices, error) { return ensure(h, s, nil) }

// ensure calls after, if any, with the name of each step that has been taken; its error is the step's.
func ensure(h *hostnet.Host, s Spec, after func(step string) error) (Devices, error) {
	if s.MTU == 0 {
		s.MTU = DefaultMTU
	}
	w := &work{host: h, spec: s, alias: Alias(s.ID), after: after}
	err := w.survey()
	if err == nil {
		err = w.build()
	}
	if err != nil {
		if undone := w.rollBack(); undone != nil {
			err = errors.Join(err, fmt.Errorf("undo: %w", undone))
		}
		return Devices{}, fmt.Errorf("devices of vnet %s: %w", s.ID, err)
	}
	bridge := w.bridge.Index
	if s.Bridge == "" {
		bridge = w.vnif.Master // somebody may have put it on a bridge of his own
	}
	return Devices{
		VnifIndex: w.vnif.Index, PeerIndex: w.peer.Index, BridgeIndex: bridge,
		VnifName: w.vnif.Name, PeerName: w.peer.Name, Bridge: s.Bridge,
		MAC: w.vnif.MAC, MTU: s.MTU, Created: w.created, host: h,
	}, nil
}

// work is one run of ensure. A Link whose Index is 0 does not exist.
type work struct {
	host  *hostnet.Host
	spec  Spec
	alias string
	after func(step string) error

	vnif, peer, bridge hostnet.Link
	created            bool             // the pair
	newBridge          bool             // the bridge was made now
	mac                net.HardwareAddr // of a vnif that must be made anew; nil: random
	broken             []int            // halves of ours to be deleted
	undo               []func() error   // the reverse of what was made, in order
}

func (w *work) rollBack() error {
	var errs []error
	for i := len(w.undo) - 1; i >= 0; i-- {
		errs = append(errs, w.undo[i]())
	}
	return errors.Join(errs...)
}

// find is LinkByName with a zero Link for a device that does not exist.
func find(h *hostnet.Host, name string) (hostnet.Link, error) {
	l, err := h.LinkByName(name)
	if errors.Is(err, hostnet.ErrNotFound) {
		return hostnet.Link{}, nil
	}
	return l, err
}

// survey finds what is there, and refuses what can't be; it changes nothing.
func (w *work) survey() error {
	if w.spec.Vnetif == "" || w.spec.Vnetif == w.spec.Bridge {
		return fmt.Errorf("interface %q on bridge %q makes no sense", w.spec.Vnetif, w.spec.Bridge)
	}
	if err := w.surveyPair(); err != nil {
		return err
	}
	if w.spec.Bridge == "" {
		return nil
	}
	return w.surveyBridge()
}

// surveyPair finds the pair by its names and its alias.
//
// The two ends are one pair if each is the other's partner. They are ours if one of them bears our alias, or
// both bear names that only ensure gives, which is how a killed daemon may leave them. What is ours but
// has no other end here is of no use, and made anew.
func (w *work) surveyPair() error {
	vnif, err := find(w.host, w.spec.Vnetif)
	if err != nil {
		return err
	}
	peer, err := find(w.host, PeerName(w.spec.ID))
	if err != nil {
		return err
	}
	if peer.Index == 0 {
		// Renamed, by udev for example, or never made.
		if peer, err = w.partner(vnif); err != nil {
			return err
		}
	}
	other, err := w.partner(peer) // the vnif, under whatever name
	if err != nil {
		return err
	}
	pairIsOurs := w.ours(peer) || w.ours(other) ||
		(peer.Kind == "veth" && other.Name == newVnifName(w.spec.ID))

	switch {
	case peer.Index != 0 && !pairIsOurs:
		if peer.Name != PeerName(w.spec.ID) { // reached from the vnif, which is the one in the way
			return w.inTheWay(vnif)
		}
		return w.inTheWay(peer)
	case vnif.Index != 0 && vnif.Index != other.Index && !w.ours(vnif):
		return w.inTheWay(vnif)
	case other.Index != 0 && (vnif.Index == 0 || vnif.Index == other.Index):
		w.vnif, w.peer = other, peer
		return nil
	}
	for _, half := range []hostnet.Link{vnif, peer} {
		if half.Index != 0 {
			w.broken = append(w.broken, half.Index)
		}
	}
	w.mac = vnif.MAC
	return nil
}

// ours says whether a device bears the vnet's alias and is what we make.
func (w *work) ours(l hostnet.Link) bool { return l.Kind == "veth" && l.Alias == w.alias }

// partner finds the other end of a pair; none for what is no pair or has its end elsewhere.
func (w *work) partner(l hostnet.Link) (hostnet.Link, error) {
	if l.Kind != "veth" || l.Partner == 0 {
		return hostnet.Link{}, nil
	}
	p, err := w.host.LinkByIndex(l.Partner)
	if errors.Is(err, hostnet.ErrNotFound) {
		return hostnet.Link{}, nil
	}
	return p, err
}

func (w *work) inTheWay(l hostnet.Link) error {
	if id, ok := parseAlias(l.Alias); ok && id != w.spec.ID {
		return &ConflictError{Device: l, By: id}
	}
	return &hostnet.NotOursError{Device: l, Want: "a vnif of vnet " + w.spec.ID.String()}
}

// surveyBridge finds the bridge, which anybody may have made, and makes sure that it carries no other
// vnet: that would join the two.
func (w *work) surveyBridge() error {
	b, err := find(w.host, w.spec.Bridge)
	if err != nil || b.Index == 0 {
		return err
	}
	if b.Kind != "bridge" {
		return &hostnet.NotOursError{Device: b, Want: "a bridge"}
	}
	ports, err := w.host.Ports(b.Index)
	if err != nil {
		return err
	}
	for _, p := range ports {
		if id, ok := parseAlias(p.Alias); ok && id != w.spec.ID {
			return &ConflictError{Device: b, By: id}
		}
	}
	w.bridge = b
	return nil
}

// randomMAC makes an address with the prefix of vnifs.
func randomMAC() net.HardwareAddr {
	mac := net.HardwareAddr{0xaa, 0xff, 0, 0, 0, 0}
	_, _ = rand.Read(mac[2:]) // never fails
	return mac
}
