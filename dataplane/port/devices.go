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
	// ForwardMask is hostnet.BridgeSettings.ForwardMask of the bridge if xend makes it.
	ForwardMask uint16
}

// Devices are a vnet's devices as Ensure left them.
type Devices struct {
	VnifIndex, PartnerIndex int
	BridgeIndex             int // of the bridge that the vnif is on, also where Spec names none; 0: on none
	VnifName, PartnerName   string
	Bridge                  string           // "": Spec names none
	MAC                     net.HardwareAddr // of the vnif
	MTU                     int              // of the vnif, in bytes
	Created                 bool             // the pair was made now; false: adopted
	Aside                   bool             // a bridge of the vnet's is set aside, and Gather has to see to it

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

// Maker makes and removes devices of vnets in one namespace. Nobody else does.
type Maker struct {
	Host *hostnet.Host
	// Step, if not nil, is called with the name of each step that has been taken; its error is the step's. It is
	// for tests.
	Step func(step string) error

	memory memory
}

// Look lists all devices.
func (m *Maker) Look() (*Survey, error) { return Look(m.Host) }

// LookFor lists those that matter to one vnet.
func (m *Maker) LookFor(s Spec) (*Survey, error) { return LookFor(m.Host, s) }

// Ensure is Maker.Ensure without steps.
func Ensure(h *hostnet.Host, s Spec) (Devices, error) { return (&Maker{Host: h}).Ensure(s) }

// Remove is Maker.Remove without steps.
func Remove(h *hostnet.Host, s Spec) error { return (&Maker{Host: h}).Remove(s) }

// Ensure makes a vnet's devices be as specified. It adopts what an earlier daemon left, puts right what
// is not as it should be, and makes the rest; run twice it changes nothing. Before it changes
// anything it refuses names that are taken by devices that xend did not make (hostnet.NotOursError) or
// that belong to another vnet (ConflictError). On failure, what it made is taken away again.
func (m *Maker) Ensure(s Spec) (Devices, error) {
	if s.MTU == 0 {
		s.MTU = DefaultMTU
	}
	w := &work{host: m.Host, spec: s, alias: Alias(s.ID), after: m.Step}
	err := w.survey()
	if err == nil {
		w.portSettings, w.remembered = m.memory.recall(s, w.bridge.Index, w.broken)
		err = w.build()
	}
	if err != nil {
		if undone := w.rollBack(); undone != nil {
			err = errors.Join(err, fmt.Errorf("undo: %w", undone))
		}
		return Devices{}, fmt.Errorf("devices of vnet %s: %w", s.ID, err)
	}
	if s.Bridge != "" {
		m.memory.attach(s, w.vnif.Index, w.bridge.Index)
	}
	bridge := w.bridge.Index
	if s.Bridge == "" {
		bridge = w.vnif.Master // somebody may have put it on another bridge
	}
	return Devices{
		VnifIndex: w.vnif.Index, PartnerIndex: w.partner.Index, BridgeIndex: bridge,
		VnifName: w.vnif.Name, PartnerName: w.partner.Name, Bridge: s.Bridge,
		MAC: w.vnif.MAC, MTU: s.MTU, Created: w.created, Aside: w.aside, host: m.Host,
	}, nil
}

// work is one run of Ensure. A Link whose Index is 0 does not exist.
type work struct {
	host  *hostnet.Host
	spec  Spec
	alias string
	after func(step string) error

	vnif, partner, bridge hostnet.Link
	ports                 []hostnet.Link   // of the bridge, as they were found
	bridgeOurs            bool             // xend made the bridge
	created               bool             // the pair
	newBridge             bool             // the bridge was made now
	mac                   net.HardwareAddr // of a vnif that must be made anew; nil: random
	broken                []hostnet.Link   // what is ours and of no use, to be deleted
	aside                 bool             // Devices.Aside
	undo                  []func() error   // the reverse of what was made, in order

	// portSettings are what the vnif's bridge knew of it, if remembered.
	portSettings hostnet.PortSettings
	remembered   bool
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

// findIndex is LinkByIndex in the same way.
func findIndex(h *hostnet.Host, index int) (hostnet.Link, error) {
	l, err := h.LinkByIndex(index)
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
	s, err := LookFor(w.host, w.spec)
	if err != nil {
		return err
	}
	f := s.Find(w.spec)
	if f.Conflict != nil {
		return f.Conflict
	}
	w.vnif, w.partner, w.bridge, w.bridgeOurs, w.mac = f.Vnif, f.Partner, f.Bridge, f.bridgeOurs, f.mac
	w.aside, w.ports = f.Aside.Index != 0, s.links.Ports(f.Bridge.Index)
	if w.broken = f.broken; f.unfinished.Index != 0 {
		w.broken = append(w.broken, f.unfinished)
	}
	return nil
}

// randomMAC makes an address with the prefix of vnifs.
func randomMAC() net.HardwareAddr {
	mac := net.HardwareAddr{0xaa, 0xff, 0, 0, 0, 0}
	_, _ = rand.Read(mac[2:]) // never fails
	return mac
}
