package dataplane

import (
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"time"

	"github.com/xenvnet/xend/dataplane/fastpath"
	"github.com/xenvnet/xend/dataplane/wire"
	"github.com/xenvnet/xend/internal/hostnet"
)

// MTUMode says what happens to frames that do not fit the underlay.
type MTUMode string

// The MTU modes.
const (
	// MTUFragment: outer packets go without DF and IP fragments what is too large; bulk TCP is
	// segmented so that it need not.
	MTUFragment MTUMode = "fragment"
	// MTUPath: senders are told what fits, by ICMP too-big and a clamped MSS.
	MTUPath MTUMode = "pmtu"
)

// Encapsulation is how frames travel.
type Encapsulation string

// The encapsulations.
const (
	// EtherIPInUDP is what hosts since Xen 3.0.2 speak.
	EtherIPInUDP Encapsulation = "etherip_in_udp"
	// EtherIP is IP protocol 97, which is all that older hosts know.
	EtherIP Encapsulation = "etherip"
)

// EtherIPHosts says what becomes of hosts that speak only EtherIP without UDP.
type EtherIPHosts string

// What becomes of them.
const (
	// EtherIPAuto: they are heard, and spoken to as they speak, once they have answered a question.
	EtherIPAuto EtherIPHosts = "auto"
	// EtherIPOff: what comes by EtherIP without UDP is dropped.
	EtherIPOff EtherIPHosts = "off"
)

// SourcePort says from which UDP port frames go to single hosts.
type SourcePort string

// The source ports.
const (
	// SourceFlow: from one of a few ports that a hash of the inner flow chooses, so that the cards and processors
	// of the receiver share the load. Every known receiver ignores the source port.
	SourceFlow SourcePort = "flow"
	// SourceFixed: from Port.
	SourceFixed SourcePort = "fixed"
)

// FastPath says whether the kernel carries what it can past user space.
type FastPath string

// The fast paths.
const (
	// FastPathAuto: where it is safe.
	FastPathAuto FastPath = "auto"
	// FastPathOn: the same, and the log warns where it is not possible.
	FastPathOn FastPath = "on"
	// FastPathOff: user space carries all.
	FastPathOff FastPath = "off"
)

// Bypass says whether frames of domains may pass their bridge by.
type Bypass string

// The values of Bypass.
const (
	// BypassAuto: where the bridge has no policy that they would miss.
	BypassAuto Bypass = "auto"
	// BypassOff: never.
	BypassOff Bypass = "off"
)

// NamedHost names another host.
type NamedHost struct {
	// Addr is an IP address or, in Config only, a host name.
	Addr string
	// Port is the host's UDP port; 0 means the protocol's.
	Port uint16
}

// Config is everything that can be said to the data plane. Use DefaultConfig and change fields: a zero
// Config is not valid.
type Config struct {
	// Device is the underlay device; "" means the one by which the group is routed, or else that of
	// the default route.
	Device string
	// Devices are further ones by which other hosts' packets may come, besides those by which peers and replicas
	// are routed. What comes by another device is dropped.
	Devices []string
	// Group is the IPv4 multicast group.
	Group netip.Addr
	// IPv6 makes an underlay over IPv6, too.
	IPv6 bool
	// Group6 is the IPv6 multicast group.
	Group6 netip.Addr
	// Port is the UDP port, of all hosts.
	Port uint16
	// SourcePort says from which port frames go to single hosts; all else goes from Port.
	SourcePort SourcePort
	// TTL is that of multicast packets, 1–255.
	TTL int
	// MTUMode says what happens to frames that do not fit the underlay.
	MTUMode MTUMode
	// ClampMSS lowers the MSS of TCP SYNs, on their way out and in, to what fits, so that bulk TCP makes no frames
	// that must be cut or fragmented. SYNs that TCP-AO signs stay as they are.
	ClampMSS bool
	// FastPath says whether the kernel carries known unicast of vnets without security past user space.
	FastPath FastPath
	// Bypass says whether what the kernel carries may pass the vnets' bridges by.
	Bypass Bypass
	// XDP says where the kernel takes bulk TCP in the card's driver, before TC.
	XDP fastpath.XDP
	// Encapsulation is how frames are sent.
	Encapsulation Encapsulation
	// EtherIPHosts says whether EtherIP without UDP is received, and sent to hosts that know nothing else.
	EtherIPHosts EtherIPHosts
	// Peers get by VFWD what is multicast here.
	Peers []NamedHost
	// Replicate are the hosts that get a unicast copy of every flooded frame (head-end replication).
	Replicate []NamedHost
	// ResolveInterval is how often names in Peers and Replicate are looked up again.
	ResolveInterval time.Duration

	// EntryTTL is the age at which a sweep forgets what no packet confirmed.
	EntryTTL time.Duration
	// SweepInterval is the time between sweeps.
	SweepInterval time.Duration
	// HoldDown is for how long a MAC that moved to another host is not claimed back, unless a frame from
	// it is heard on its own bridge.
	HoldDown time.Duration
	// GroupSilence is how long nothing may be heard from the group before the operator is told.
	GroupSilence time.Duration
	// MaxMACs bounds the VARP cache and the vif table, each.
	MaxMACs int

	// Workers is the number of threads that move frames; 0 means one per two processors, four at most:
	// bridges and domains need the others.
	Workers int
	// BUMRate is how many frames per second a vnet may flood (broadcast, unknown, multicast); ARP,
	// neighbour discovery and DHCP are exempt. 0 means no limit.
	BUMRate int

	// Security is for vnets with security auth or conf.
	Security Security
}

// DefaultGroup6 is the IPv6 group by default: site-local, the port in the last field.
var DefaultGroup6 = netip.MustParseAddr("ff05::706")

// DefaultConfig returns the defaults.
func DefaultConfig() Config {
	return Config{
		Group:           wire.Group,
		Group6:          DefaultGroup6,
		Port:            wire.Port,
		SourcePort:      SourceFlow,
		TTL:             64,
		MTUMode:         MTUFragment,
		ClampMSS:        true,
		FastPath:        FastPathAuto,
		Bypass:          BypassAuto,
		XDP:             fastpath.XDPAuto,
		Encapsulation:   EtherIPInUDP,
		EtherIPHosts:    EtherIPAuto,
		ResolveInterval: 60 * time.Second,
		EntryTTL:        60 * time.Second,
		SweepInterval:   60 * time.Second,
		HoldDown:        10 * time.Second,
		GroupSilence:    5 * time.Minute,
		MaxMACs:         100_000,
		Security:        Security{Port: wire.SecurityPort, Encapsulation: ESPInUDP},
	}
}

// maxWorkers bounds Config.Workers, since every worker has a socket per underlay.
const maxWorkers = 64

// usualWorkers is the most if none are configured: more help little, and each costs a socket in every vnet.
const usualWorkers = 8

// Validate reports everything that is wrong with c.
func (c Config) Validate() error {
	var errs []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	check(c.Group.Is4() && c.Group.IsMulticast(), "group %s is not an IPv4 multicast address", c.Group)
	check(!c.IPv6 || c.Group6.Is6() && !c.Group6.Is4In6() && c.Group6.IsMulticast() && c.Group6.Zone() == "",
		"group6 %s is not an IPv6 multicast address", c.Group6)
	for i, name := range c.Devices {
		check(name != "" && len(name) <= hostnet.MaxName, "devices[%d]: %q is not the name of a device", i, name)
	}
	check(c.Port != 0, "port is 0")
	check(c.SourcePort == SourceFlow || c.SourcePort == SourceFixed,
		"source_port %q is neither %q nor %q", c.SourcePort, SourceFlow, SourceFixed)
	check(c.TTL >= 1 && c.TTL <= 255, "ttl %d is not between 1 and 255", c.TTL)
	check(c.MTUMode == MTUFragment || c.MTUMode == MTUPath, "mtu_mode %q is neither %q nor %q", c.MTUMode, MTUFragment, MTUPath)
	check(c.FastPath == FastPathAuto || c.FastPath == FastPathOn || c.FastPath == FastPathOff,
		"fastpath %q is neither %q nor %q nor %q", c.FastPath, FastPathAuto, FastPathOn, FastPathOff)
	check(c.Bypass == BypassAuto || c.Bypass == BypassOff, "bypass %q is neither %q nor %q", c.Bypass, BypassAuto, BypassOff)
	check(c.XDP == fastpath.XDPAuto || c.XDP == fastpath.XDPOn || c.XDP == fastpath.XDPOff,
		"xdp %q is neither %q nor %q nor %q", c.XDP, fastpath.XDPAuto, fastpath.XDPOn, fastpath.XDPOff)
	check(c.Encapsulation == EtherIPInUDP || c.Encapsulation == EtherIP,
		"encapsulation %q is neither %q nor %q", c.Encapsulation, EtherIPInUDP, EtherIP)
	check(c.EtherIPHosts == EtherIPAuto || c.EtherIPHosts == EtherIPOff,
		"etherip %q is neither %q nor %q", c.EtherIPHosts, EtherIPAuto, EtherIPOff)
	check(c.Encapsulation != EtherIP || c.EtherIPHosts != EtherIPOff,
		"encapsulation %q needs etherip %q, or nothing that other hosts send so is received", EtherIP, EtherIPAuto)
	check(c.ResolveInterval > 0, "resolve interval %s is not positive", c.ResolveInterval)
	check(c.EntryTTL > 0, "entry ttl %s is not positive", c.EntryTTL)
	check(c.SweepInterval > 0, "sweep interval %s is not positive", c.SweepInterval)
	check(c.HoldDown >= 0, "hold-down %s is negative", c.HoldDown)
	check(c.GroupSilence >= 0, "group silence %s is negative", c.GroupSilence)
	check(c.MaxMACs > 0, "the number of MACs %d is not positive", c.MaxMACs)
	check(c.Workers >= 0 && c.Workers <= maxWorkers, "workers %d is not between 0 and %d", c.Workers, maxWorkers)
	check(c.BUMRate >= 0, "bum_rate %d is negative", c.BUMRate)
	check(c.Security.Port != 0 && c.Security.Port != c.Port, "security port %d is 0 or the port of vnets without security", c.Security.Port)
	check(c.Security.Encapsulation == ESPInUDP || c.Security.Encapsulation == ESP,
		"security encapsulation %q is neither %q nor %q", c.Security.Encapsulation, ESPInUDP, ESP)
	check(!c.Security.NAT || c.Security.Encapsulation == ESPInUDP, "security encapsulation %q does not pass NAT", c.Security.Encapsulation)
	for _, list := range []struct {
		name  string
		peers []NamedHost
	}{{"peer", c.Peers}, {"replicate", c.Replicate}} {
		for i, p := range list.peers {
			check(p.Addr != "", "%s %d has no address", list.name, i+1)
			if a, err := netip.ParseAddr(p.Addr); err == nil {
				check(reachable(a.Unmap()), "%s %s is not the address of a host, or only on one link", list.name, p.Addr)
				check(list.name != "peer" || a.Unmap().Is4(), "peer %s: VFWD carries IPv4 only", p.Addr)
				check(list.name == "peer" || a.Unmap().Is4() || c.IPv6, "replicate %s is an IPv6 address, and ipv6 is off", p.Addr)
			}
			check(list.name == "peer" || p.Port == 0 || p.Port == c.Port,
				"replicate %s: port %d is not the port %d that all hosts of a vnet have in common", p.Addr, p.Port, c.Port)
		}
	}
	return errors.Join(errs...)
}

// usableHost reports whether a can be the address of another host.
func usableHost(a netip.Addr) bool {
	a = a.Unmap()
	return a.IsValid() && !a.IsUnspecified() && !a.IsMulticast() && !a.IsLoopback() && a != limitedBroadcast
}

// reachable reports whether a configured address names one host whatever way leads to it: link-local IPv6
// addresses do not.
func reachable(a netip.Addr) bool {
	return usableHost(a) && a.Zone() == "" && !(a.Is6() && a.IsLinkLocalUnicast())
}

var limitedBroadcast = netip.AddrFrom4([4]byte{255, 255, 255, 255})

// workers is the number of workers that c asks for.
func (c Config) workers() int {
	if c.Workers > 0 {
		return c.Workers
	}
	return min(max(runtime.NumCPU()/2, 1), usualWorkers)
}

// spread is how many sockets, and so source ports, a worker has to send by.
func (c Config) spread() int { return max(2, min(8, maxWorkers/c.workers())) }
