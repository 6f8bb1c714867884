package bound

import (
	"bufio"
	"encoding/hex"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Program is what a program has bound to a device, and so loses when another takes its place.
type Program struct {
	Name string // of the program; "" if it cannot be told
	Pid  int    // 0 if it cannot be told
	What string // for a person: "a UDP socket on port 68"
	// DHCP tells a client that configures the device.
	DHCP bool
}

// dhcpClients are programs that configure devices, with what is to be done about them.
var dhcpClients = []string{"dhclient", "dhcpcd", "udhcpc", "dhcpcd5", "systemd-network", "systemd-networkd", "NetworkManager", "connmand", "ifplugd", "wickedd-dhcp4", "wickedd-dhcp6"}

// Cure is what to do, once device is a bridge.
func (p Program) Cure(device string) string {
	switch {
	case p.DHCP && strings.HasPrefix(p.Name, "systemd-network"):
		return "keep systemd-networkd off the device and its bridge ([Match] Name=, [Link] Unmanaged=yes), or have it make the bridge"
	case p.DHCP && p.Name == "NetworkManager":
		return "keep NetworkManager off the device and its bridge (unmanaged-devices=), or have it make the bridge"
	case p.DHCP:
		return fmt.Sprintf("it goes on with what the port receives; restart it for %s to be sure", device)
	case p.Pid == 0:
		return "restart the program afterwards"
	}
	return "restart it afterwards"
}

// String tells who and what.
func (p Program) String() string {
	switch {
	case p.Name == "":
		return "a program that cannot be told has " + p.What
	case p.Pid == 0:
		return p.Name + " has " + p.What
	}
	return fmt.Sprintf("%s (process %d) has %s", p.Name, p.Pid, p.What)
}

// Programs finds what programs have bound to a device, DHCP clients first: sockets that are bound to it, packet
// sockets, memberships of groups. own tells the groups of the caller's own, which renews them itself; proc is where
// the processes are. What cannot be read is left out: it is for a warning.
func Programs(index int, device, proc string, own func(group netip.Addr) bool) []Program {
	var list []Program
	owners := map[uint32][]Program{}
	for _, o := range processes(proc) {
		owners[o.inode] = append(owners[o.inode], o.Program)
	}
	add := func(inode uint32, what string) {
		holders := owners[inode]
		if len(holders) == 0 {
			holders = []Program{{}}
		}
		for _, p := range holders {
			if p.What = what; p.Name == "xend" {
				continue // follows the device by itself
			}
			if !slices.Contains(list, p) {
				list = append(list, p)
			}
		}
	}
	sockets := diag()
	for _, s := range sockets {
		if int(s.ID.Interface) == index {
			add(s.INode, fmt.Sprintf("a %s socket bound to %s, port %d", s.protocol, device, s.ID.SourcePort))
		}
	}
	for _, inode := range packetSockets(index) {
		add(inode, "a packet socket on "+device)
	}
	for _, group := range memberships(index) {
		if own(group) {
			continue
		}
		what := fmt.Sprintf("joined the group %s on %s", group, device)
		found := false
		for _, s := range sockets {
			address, _ := netip.AddrFromSlice(s.ID.Source)
			known := wellKnown[group]
			if s.protocol == "UDP" && (address.Unmap() == group || known != 0 && s.ID.SourcePort == known) {
				add(s.INode, what)
				found = true
			}
		}
		if !found {
			list = append(list, Program{What: what})
		}
	}
	slices.SortStableFunc(list, func(a, b Program) int {
		switch {
		case a.DHCP == b.DHCP:
			return 0
		case a.DHCP:
			return -1
		}
		return 1
	})
	return list
}

// wellKnown are the ports by which the members of some groups are known: mDNS, LLMNR, SSDP.
var wellKnown = map[netip.Addr]uint16{
	netip.MustParseAddr("224.0.0.251"):     5353,
	netip.MustParseAddr("ff02::fb"):        5353,
	netip.MustParseAddr("224.0.0.252"):     5355,
	netip.MustParseAddr("ff02::1:3"):       5355,
	netip.MustParseAddr("239.255.255.250"): 1900,
}

type socket struct {
	*netlink.Socket
	protocol string
}

// diag lists the sockets of TCP and UDP; sock_diag(7).
func diag() []socket {
	var list []socket
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		tcp, _ := netlink.SocketDiagTCP(family)
		for _, s := range tcp {
			list = append(list, socket{s, "TCP"})
		}
		udp, _ := netlink.SocketDiagUDP(family)
		for _, s := range udp {
			list = append(list, socket{s, "UDP"})
		}
	}
	return list
}

const procNet = "/proc/thread-self/net"

// lines calls each for the lines of a file below /proc/net, split at blanks.
func lines(name string, each func(line string, words []string)) {
	f, err := os.Open(filepath.Join(procNet, name))
	if err != nil {
		return
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		each(s.Text(), strings.Fields(s.Text()))
	}
}

// packetSockets are the inodes of packet sockets that are bound to a device; packet(7).
func packetSockets(index int) []uint32 {
	var list []uint32
	lines("packet", func(_ string, words []string) {
		const device, inode = 4, 8
		if len(words) <= inode || words[device] != strconv.Itoa(index) {
			return
		}
		if n, err := strconv.ParseUint(words[inode], 10, 32); err == nil {
			list = append(list, uint32(n))
		}
	})
	return list
}

// memberships are the groups that programs have joined on a device, without those of the kernel's own.
func memberships(index int) []netip.Addr {
	var list []netip.Addr
	current := -1
	lines("igmp", func(line string, words []string) {
		switch {
		case len(words) == 0:
		case line[0] != '\t':
			current, _ = strconv.Atoi(words[0])
		case current == index:
			if b, err := hex.DecodeString(words[0]); err == nil && len(b) == 4 {
				slices.Reverse(b) // printed as a number of the machine's order
				list = append(list, netip.AddrFrom4([4]byte(b)))
			}
		}
	})
	lines("igmp6", func(_ string, words []string) {
		if len(words) < 3 || words[0] != strconv.Itoa(index) {
			return
		}
		if b, err := hex.DecodeString(words[2]); err == nil && len(b) == 16 {
			list = append(list, netip.AddrFrom16([16]byte(b)))
		}
	})
	return slices.DeleteFunc(list, kernels)
}

// kernels are the groups that every host is in: all nodes, all routers, solicited nodes (RFC 1112, 4291).
func kernels(group netip.Addr) bool {
	if group.Is4() {
		return group == netip.AddrFrom4([4]byte{224, 0, 0, 1}) || group == netip.AddrFrom4([4]byte{224, 0, 0, 106})
	}
	b := group.As16()
	low := b
	low[0], low[1] = 0, 0
	nodes := [16]byte{15: 1}
	routers := [16]byte{15: 2}
	snoopers := [16]byte{15: 0x6a} // RFC 4286, which bridges join
	return low == nodes || low == routers || low == snoopers || netip.PrefixFrom(netip.MustParseAddr("ff02::1:ff00:0"), 104).Contains(group)
}

type owner struct {
	Program
	inode uint32
}

// processes lists whose sockets there are.
func processes(proc string) []owner {
	var list []owner
	dirs, _ := filepath.Glob(filepath.Join(proc, "[0-9]*"))
	for _, dir := range dirs {
		pid, err := strconv.Atoi(filepath.Base(dir))
		if err != nil {
			continue
		}
		fds, err := os.ReadDir(filepath.Join(dir, "fd"))
		if err != nil {
			continue
		}
		name := ""
		for _, fd := range fds {
			target, err := os.Readlink(filepath.Join(dir, "fd", fd.Name()))
			text, ok := strings.CutPrefix(target, "socket:[")
			if err != nil || !ok {
				continue
			}
			inode, err := strconv.ParseUint(strings.TrimSuffix(text, "]"), 10, 32)
			if err != nil {
				continue
			}
			if name == "" {
				b, _ := os.ReadFile(filepath.Join(dir, "comm"))
				name = strings.TrimSpace(string(b))
			}
			list = append(list, owner{Program{Name: name, Pid: pid, DHCP: slices.Contains(dhcpClients, name)}, uint32(inode)})
		}
	}
	return list
}

// MulticastRouting tells whether a multicast routing daemon uses a device, by name.
func MulticastRouting(device string) bool {
	found := false
	for _, file := range []string{"ip_mr_vif", "ip6_mr_vif"} {
		lines(file, func(_ string, words []string) {
			found = found || len(words) > 1 && words[1] == device
		})
	}
	return found
}
