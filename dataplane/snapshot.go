package dataplane

import (
	"net"
	"net/netip"
	"time"

	"github.com/xenvnet/xend/dataplane/wire"
	"github.com/xenvnet/xend/vnet"
)

// Snapshot is the state of the data plane at one moment, in plain values that the caller may keep.
type Snapshot struct {
	// Enabled is false where the data plane is configured off.
	Enabled bool
	// Encapsulation is how frames are sent.
	Encapsulation Encapsulation
	MTUMode       MTUMode
	// Workers is the number of threads that move frames.
	Workers int
	// Vnets are sorted by id.
	Vnets []Vnet
	// Vifs are the MACs that live on this host, sorted by vnet and MAC.
	Vifs []Vif
	// Entries are the VARP cache, sorted by vnet and MAC.
	Entries []Entry
	// Peers are sorted by address.
	Peers []PeerState
	// Replicate are the head-end hosts as configured, in that order.
	Replicate []ReplicaState
	// Underlays are one per address family, IPv4 first.
	Underlays []Underlay
	// Tables are the settings and sizes of the VARP cache and the vif table.
	Tables Tables
	// Drops has one element per reason, in a fixed order.
	Drops []Drop
}

// Counters count one direction.
type Counters struct {
	Packets uint64 // on the wire: VUDP or EtherIP packets
	Frames  uint64 // at the vnif: what the bridge counts, a super-frame as one
	Bytes   uint64 // of Ethernet frames, without our headers
}

// Vnet is the state of one vnet.
type Vnet struct {
	ID       vnet.ID
	IDText   string // as its owner wrote it
	Bridge   string // "" for the default vnets, which are on no bridge
	Vnetif   string
	Security vnet.Security
	// Default is true of the vnets 2–4 that exist without being created.
	Default bool
	// Up is false if the devices are gone or the tunnel is off; Problem says why, for a person.
	Up      bool
	Problem string
	// Header is what stands in front of the inner frame on the wire: outer Ethernet (14), IP, UDP and
	// ours, in bytes.
	Header int
	// MTU is that of the vnif.
	MTU int
	// MAC is the vnif's.
	MAC net.HardwareAddr
	// Tx is from the vnif to the underlay, Rx the reverse.
	Tx, Rx Counters
}

// Vif is a MAC that lives on this host.
type Vif struct {
	Vnet   vnet.ID
	MAC    wire.MAC
	Age    time.Duration // since it was last heard
	ByHand bool          // added by the operator or a script: it does not age away
}

// EntryState is the state of a VARP cache entry.
type EntryState string

// The states, in the original's words.
const (
	Incomplete EntryState = "incomplete"
	Reachable  EntryState = "reachable"
	Failed     EntryState = "failed"
)

// Entry is a MAC behind another host.
type Entry struct {
	Vnet   vnet.ID
	MAC    wire.MAC
	Addr   netip.Addr // the care-of address
	State  EntryState
	Age    time.Duration // since the last news
	Source string        // frame or announce
	Damped time.Duration // for how long moves will be ignored because it flapped
}

// PeerState is a host that gets what is multicast here by VFWD.
type PeerState struct {
	Name string // as configured; "" if added at run time
	Addr netip.Addr
	Port uint16
	// TxPackets and RxPackets count VFWD packets.
	TxPackets, RxPackets uint64
}

// ReplicaState is a host of head-end replication.
type ReplicaState struct {
	Name string // as configured
	// Addr is the zero Addr while the name cannot be resolved; Problem says why.
	Addr    netip.Addr
	Port    uint16
	Problem string
}

// Underlay is the network to the other hosts over one address family.
type Underlay struct {
	// Family is "ipv4" or "ipv6".
	Family string
	// Up is false while there is no device or no address; Problem says why.
	Up      bool
	Problem string
	// Device is the underlay device's name and Reason why it was chosen.
	Device string
	Index  int
	Reason string
	// Address is this host's own.
	Address netip.Addr
	Group   netip.Addr
	Port    uint16
	// MTU is the device's, Inner what an inner IP packet may have so that the outer fits.
	MTU   int
	Inner int
	// Heard is the time since a packet last came from the group; negative if none ever did.
	Heard time.Duration
	// Silent is true when nothing comes from the group though something should.
	Silent bool
	// EtherIPHosts were heard speaking only EtherIP without UDP.
	EtherIPHosts []netip.Addr
	// Segmentation is false where the kernel does not take trains of packets.
	Segmentation bool
}

// Tables are the settings and sizes of the VARP cache and the vif table.
type Tables struct {
	EntryTTL, SweepInterval, HoldDown time.Duration
	MaxMACs                           int
	Vifs, Entries                     int
	Sweeps                            uint64
	// Moves counts MACs that changed place, Damped how often a flapping one was frozen, Held claims
	// refused by hold-down, Evicted entries that had to go because a table was full.
	Moves, Damped, Held, Evicted uint64
}

// Drop counts what was not passed on for one reason.
type Drop struct {
	Reason Reason
	Count  uint64
}
