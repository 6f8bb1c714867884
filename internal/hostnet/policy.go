package hostnet

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/cilium/ebpf"
	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// BridgeTraits is what decides how a bridge forwards, besides its table.
type BridgeTraits struct {
	Link
	STP           bool // it speaks the spanning tree protocol
	VLANFiltering bool
	// Ageing is how long it remembers a MAC, in hundredths of a second; 0: it remembers none.
	Ageing uint32
	// CallsFirewall: iptables and the like see its frames (nf_call_iptables and its kin), whatever the sysctls say.
	CallsFirewall bool
	// Promiscuous: somebody captures on it.
	Promiscuous bool
	Ports       []PortTraits
}

// PortTraits is what decides how a bridge forwards to and from one of its ports.
type PortTraits struct {
	Link
	Forwarding, Learning bool
	// Special are the settings by which it treats frames in a way of its own: "isolated", "locked", …
	Special []string
	// Promiscuity counts who has it receive all frames; its bridge is one of them.
	Promiscuity int
}

// special are attributes of ports, IFLA_BRPORT_ of linux/if_link.h, that make a bridge forward otherwise if they are not 0.
var special = map[uint16]string{
	unix.IFLA_BRPORT_MODE:     "hairpin",
	unix.IFLA_BRPORT_PROXYARP: "proxy_arp", unix.IFLA_BRPORT_PROXYARP_WIFI: "proxy_arp_wifi",
	unix.IFLA_BRPORT_NEIGH_SUPPRESS: "neigh_suppress", unix.IFLA_BRPORT_VLAN_TUNNEL: "vlan_tunnel",
	unix.IFLA_BRPORT_ISOLATED: "isolated", unix.IFLA_BRPORT_LOCKED: "locked", unix.IFLA_BRPORT_BACKUP_PORT: "backup_port",
}

// BridgeOf reads the traits of a bridge and of those of the devices that are its ports. ErrNotFound if there is no bridge of that
// index.
func (h *Host) BridgeOf(index int, devices []Link) (BridgeTraits, error) {
	l, b, err := h.linkMessage(index)
	if err == nil && l.Kind != "bridge" {
		err = wrap("find bridge", number10(index), unix.ENODEV)
	}
	if err != nil {
		return BridgeTraits{}, err
	}
	t := bridgeTraits(l, b)
	for _, d := range devices {
		l, b, err := h.linkMessage(d.Index)
		switch {
		case errors.Is(err, ErrNotFound):
		case err != nil:
			return BridgeTraits{}, err
		case l.Master == index:
			t.Ports = append(t.Ports, portTraits(l, b))
		}
	}
	return t, nil
}

func (h *Host) linkMessage(index int) (Link, []byte, error) {
	b, err := h.get(unix.RTM_GETLINK, ifinfo(index), noStatistics)
	if err != nil {
		return Link{}, nil, wrap("find", number10(index), err)
	}
	l, err := parseLink(b)
	return l, b, wrap("find", number10(index), err)
}

func bridgeTraits(l Link, b []byte) BridgeTraits {
	t := BridgeTraits{Link: l}
	promiscuity := eachLinkData(b, unix.IFLA_INFO_DATA, func(kind uint16, v []byte) {
		switch kind {
		case unix.IFLA_BR_STP_STATE:
			t.STP = number(v) != 0
		case unix.IFLA_BR_VLAN_FILTERING:
			t.VLANFiltering = len(v) > 0 && v[0] != 0
		case unix.IFLA_BR_AGEING_TIME:
			t.Ageing = number(v)
		case unix.IFLA_BR_NF_CALL_IPTABLES, unix.IFLA_BR_NF_CALL_IP6TABLES, unix.IFLA_BR_NF_CALL_ARPTABLES:
			t.CallsFirewall = t.CallsFirewall || len(v) > 0 && v[0] != 0
		}
	})
	t.Promiscuous = promiscuity != 0
	return t
}

func portTraits(l Link, b []byte) PortTraits {
	p := PortTraits{Link: l}
	p.Promiscuity = eachLinkData(b, unix.IFLA_INFO_SLAVE_DATA, func(kind uint16, v []byte) {
		switch kind {
		case unix.IFLA_BRPORT_STATE:
			p.Forwarding = len(v) > 0 && v[0] == 3 // BR_STATE_FORWARDING of linux/if_bridge.h
		case unix.IFLA_BRPORT_LEARNING:
			p.Learning = len(v) > 0 && v[0] != 0
		default:
			if name, ok := special[kind]; ok && strings.Trim(string(v), "\x00") != "" {
				p.Special = append(p.Special, name)
			}
		}
	})
	return p
}

// eachLinkData calls fn for the attributes of IFLA_INFO_DATA or IFLA_INFO_SLAVE_DATA, and returns the promiscuity.
func eachLinkData(b []byte, data uint16, fn func(kind uint16, v []byte)) (promiscuity int) {
	eachAttribute(b[unix.SizeofIfInfomsg:], func(kind uint16, v []byte) {
		switch kind {
		case unix.IFLA_PROMISCUITY:
			promiscuity = int(number(v))
		case unix.IFLA_LINKINFO:
			eachAttribute(v, func(kind uint16, v []byte) {
				if kind == data {
					eachAttribute(v, fn)
				}
			})
		}
	})
	return promiscuity
}

// BridgeFirewall says what of the host's firewall sees the frames that bridges forward; "" for nothing. calls: a bridge
// hands them to iptables by a setting of its own.
func (h *Host) BridgeFirewall(calls bool) (why string, err error) {
	err = h.Do(func() error {
		if !calls {
			// Sysctls of br_netfilter, one set for each network namespace.
			for _, name := range []string{"iptables", "ip6tables", "arptables"} {
				v, err := os.ReadFile("/proc/sys/net/bridge/bridge-nf-call-" + name)
				calls = calls || err == nil && strings.TrimSpace(string(v)) != "0"
			}
		}
		if present("nft_do_chain", "nf_tables") {
			c, err := nftables.New()
			if err != nil {
				return fmt.Errorf("nf_tables: %w", err)
			}
			tables, err := c.ListTables()
			if err != nil {
				return fmt.Errorf("nf_tables: %w", err)
			}
			for _, t := range tables {
				switch {
				case t.Family == nftables.TableFamilyBridge:
					why = fmt.Sprintf("nft table bridge %s", t.Name)
				case t.Family == nftables.TableFamilyNetdev:
					why = fmt.Sprintf("nft table netdev %s", t.Name)
				case calls:
					why = fmt.Sprintf("nft table %s, which br_netfilter shows bridged frames to", t.Name)
				}
				if why != "" {
					return nil
				}
			}
		}
		if present("ebt_do_table", "ebtables") {
			why = "ebtables"
			return nil
		}
		for _, name := range []string{"ip_tables_names", "ip6_tables_names", "arp_tables_names"} {
			v, err := os.ReadFile(filepath.Join("/proc/thread-self/net", name))
			if calls && err == nil && len(v) > 0 {
				why = "iptables, which br_netfilter shows bridged frames to"
			}
		}
		return nil
	})
	return why, err
}

// builtin are functions of the kernel proper that tell of parts of it that elsewhere are modules.
var builtin = sync.OnceValue(func() map[string]bool {
	found := map[string]bool{}
	f, err := os.Open("/proc/kallsyms")
	if err != nil {
		return found
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		line := s.Text()
		if strings.HasSuffix(line, "]") { // a module's
			continue
		}
		for _, name := range []string{" nft_do_chain", " ebt_do_table"} {
			if strings.HasSuffix(line, name) {
				found[name[1:]] = true
			}
		}
	}
	return found
})

// present says whether the kernel has a part, loaded or built in. Asking it for what is not there would load it.
func present(function, module string) bool {
	if builtin()[function] {
		return true
	}
	_, err := os.Stat("/sys/module/" + module)
	return err == nil
}

// DeviceProgram is a filter or program at TC.
type DeviceProgram struct {
	Name string         // of an eBPF filter, or of a program at TCX; "" for others
	Kind string         // "bpf", "flower", …; "tcx"
	ID   ebpf.ProgramID // 0 if it is no eBPF program
}

// DevicePrograms lists all that TC has at a device's ingress and egress, TCX programs first.
func (h *Host) DevicePrograms(index int) ([]DeviceProgram, error) {
	var list []DeviceProgram
	err := h.Do(func() error {
		for _, egress := range []bool{false, true} {
			programs, err := h.TCX(index, egress)
			if err != nil {
				continue // before Linux 6.6 there is no TCX
			}
			for _, p := range programs {
				list = append(list, DeviceProgram{Name: p.Name, Kind: "tcx", ID: p.ID})
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	tcx := len(list)
	err = retry(func() error {
		list = list[:tcx]
		for _, parent := range []uint32{netlink.HANDLE_MIN_INGRESS, netlink.HANDLE_MIN_EGRESS} {
			filters, err := h.filters(index, parent)
			if err != nil {
				return err
			}
			for _, f := range filters {
				p := DeviceProgram{Kind: f.Type()}
				if b, ok := f.(*netlink.BpfFilter); ok {
					p.Name, p.ID = b.Name, ebpf.ProgramID(b.Id)
				}
				list = append(list, p)
			}
		}
		return nil
	})
	return list, h.wrapDevice("list filters of", index, err)
}

// NetkitDecides reports whether a netkit device may do otherwise than pass on to its partner what is sent by it: it has
// programs or another policy, or is not the primary one of the pair, whose programs only the partner's namespace sees.
// linux/if_link.h, IFLA_NETKIT_.
func (h *Host) NetkitDecides(index int) (bool, error) {
	b, err := h.get(unix.RTM_GETLINK, ifinfo(index), noStatistics)
	if err != nil || len(b) < unix.SizeofIfInfomsg {
		return true, wrap("find", number10(index), err)
	}
	primary, passes := false, false
	eachLinkData(b, unix.IFLA_INFO_DATA, func(kind uint16, v []byte) {
		switch kind {
		case nl.IFLA_NETKIT_PRIMARY:
			primary = len(v) > 0 && v[0] != 0
		case nl.IFLA_NETKIT_POLICY:
			passes = number(v) == 0 // NETKIT_PASS
		}
	})
	if !primary || !passes {
		return true, nil
	}
	decides := true
	err = h.Do(func() error {
		q, err := queryPrograms(index, ebpf.AttachNetkitPrimary)
		if err == nil {
			decides = len(q.Programs) > 0
		}
		return err
	})
	return decides, h.wrapDevice("list netkit programs of", index, err)
}

// RootQdisc is the kind of a device's queueing discipline, "noqueue" where nothing waits. The device itself tells it (IFLA_QDISC): a
// list of disciplines has those of all devices, whichever is asked about.
func (h *Host) RootQdisc(index int) (string, error) {
	b, err := h.get(unix.RTM_GETLINK, ifinfo(index), noStatistics)
	if err != nil {
		return "", wrap("find", number10(index), err)
	}
	if len(b) < unix.SizeofIfInfomsg {
		return "", wrap("find", number10(index), errMalformed)
	}
	kind := "noqueue"
	eachAttribute(b[unix.SizeofIfInfomsg:], func(attr uint16, v []byte) {
		if attr == unix.IFLA_QDISC && text(v) != "noop" { // that of a device which was never up
			kind = text(v)
		}
	})
	return kind, nil
}
