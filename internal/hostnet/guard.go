package hostnet

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Guard says what of a device's traffic the host's own network stack does not get. What a bridge forwards
// between its ports, packet sockets, and devices that are stacked on the device are not concerned.
type Guard struct {
	// Closed keeps everything from the host.
	Closed bool
	// Ports are the UDP destination ports, and Protocols the IP protocols, that are kept from it otherwise: such
	// packets are neither delivered nor routed.
	Ports     []uint16
	Protocols []uint8
}

// name tells filters apart that do different things: at most 255 bytes, CLS_BPF_NAME_LEN.
func (g Guard) name() string {
	if g.Closed {
		return guardName + "closed"
	}
	var b strings.Builder
	b.WriteString(guardName + "open")
	for _, p := range g.Ports {
		fmt.Fprintf(&b, "_u%d", p)
	}
	for _, p := range g.Protocols {
		fmt.Fprintf(&b, "_p%d", p)
	}
	return b.String()
}

const (
	// guardName begins the name of a guard's filter; the number is that of what the programs do.
	guardName = "xend_guard1_"
	// guardPriority is the first that is tried: early, since filters of others may end the classification. None of them
	// is kept from seeing anything, since a guard never does.
	guardPriority = 10
	maxPriority   = 64

	packetOtherHost = 3 // PACKET_OTHERHOST of linux/if_packet.h
	actionUnspec    = -1
	maxExtensions   = 8 // IPv6 extension headers; a packet with more is kept from the host
)

// SetGuard puts a guard at a device's TC ingress, in place of the one that is there. It stays when the process
// ends. Filters of others on the device are not touched. Idempotent. UnsupportedError where the kernel has no
// eBPF programs at TC.
func (h *Host) SetGuard(index int, g Guard) error {
	err := retry(func() error { return h.setGuard(index, g) })
	var unsupported *UnsupportedError
	if err == nil || errors.As(err, &unsupported) {
		return err
	}
	return h.wrapDevice("guard", index, err)
}

// RemoveGuard takes a device's guard away. Succeeds if there is none.
func (h *Host) RemoveGuard(index int) error {
	err := retry(func() error {
		if h.handle == nil {
			return errClosed
		}
		filters, err := h.ingressFilters(index)
		if err != nil {
			return err
		}
		for _, f := range filters {
			if isGuard(f) {
				if err := h.handle.FilterDel(f); err != nil && !errors.Is(err, unix.ENOENT) {
					return err
				}
			}
		}
		return nil
	})
	err = h.wrapDevice("unguard", index, err)
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	return err
}

// GuardOf returns the name of a device's guard, "" for none.
func (h *Host) GuardOf(index int) (string, error) {
	if h.handle == nil {
		return "", errClosed
	}
	filters, err := h.ingressFilters(index)
	if err != nil {
		return "", h.wrapDevice("list filters of", index, err)
	}
	for _, f := range filters {
		if isGuard(f) {
			return strings.TrimPrefix(f.(*netlink.BpfFilter).Name, strings.TrimRight(guardName, "0123456789_")), nil
		}
	}
	return "", nil
}

func isGuard(f netlink.Filter) bool {
	b, ok := f.(*netlink.BpfFilter)
	return ok && b.DirectAction && strings.HasPrefix(b.Name, strings.TrimRight(guardName, "0123456789_"))
}

func (h *Host) setGuard(index int, g Guard) error {
	if h.handle == nil {
		return errClosed
	}
	filters, err := h.ingressFilters(index)
	if err != nil {
		return err
	}
	at := netlink.FilterAttrs{
		LinkIndex: index, Parent: netlink.HANDLE_MIN_INGRESS, Priority: guardPriority, Protocol: unix.ETH_P_ALL, Handle: 1,
	}
	if i := slices.IndexFunc(filters, isGuard); i >= 0 {
		if filters[i].(*netlink.BpfFilter).Name == g.name() {
			return nil
		}
		at.Priority, at.Handle = filters[i].Attrs().Priority, filters[i].Attrs().Handle
	} else {
		taken := func(f netlink.Filter) bool { return f.Attrs().Priority == at.Priority }
		for slices.ContainsFunc(filters, taken) {
			at.Priority++
		}
		if at.Priority > maxPriority {
			return &UnsupportedError{What: "keeping what arrives at a device from the host",
				Needs: fmt.Sprintf("a free filter priority up to %d", maxPriority), Err: unix.EBUSY}
		}
	}
	if err := h.ensureClsact(index); err != nil {
		return err
	}
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: strings.TrimSuffix(guardName, "_"), Type: ebpf.SchedCLS, Instructions: g.program(), License: "Apache-2.0",
	})
	if err != nil {
		return unsupported("keeping what arrives at a device from the host",
			"eBPF programs at TC (CONFIG_BPF_SYSCALL, CONFIG_NET_CLS_BPF)", err)
	}
	defer func() { _ = prog.Close() }() // the filter keeps it
	return h.handle.FilterReplace(&netlink.BpfFilter{FilterAttrs: at, Fd: prog.FD(), Name: g.name(), DirectAction: true})
}

// ingressFilters lists the filters at a device's TC ingress.
func (h *Host) ingressFilters(index int) ([]netlink.Filter, error) {
	link := &netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Index: index}}
	filters, err := h.handle.FilterList(link, netlink.HANDLE_MIN_INGRESS)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) { // no clsact yet
		return nil, nil
	}
	return filters, err
}

// program marks what the host shall not get as another host's (PACKET_OTHERHOST), which IPv4, IPv6, ARP and all
// other protocols of the kernel ignore. Devices that are stacked on this one are not kept from it: macvlans set
// the mark anew, and frames with a VLAN's tag pass. Frames are not dropped for their sake.
//
// The device's own are untagged frames and those with tag 0 (priority only); of several tags the kernel strips
// the first ones that are 0, so what has a second one is kept from the host, too.
func (g Guard) program() asm.Instructions {
	const (
		ctx = asm.R6
		// In registers that helpers leave alone.
		next   = asm.R7 // the header that comes next
		offset = asm.R8 // where it is, from the network header on

		buffer = -64 // in the stack
	)
	// Offsets in struct __sk_buff of linux/bpf.h.
	const skbProtocol, skbVLANPresent, skbVLANTCI = 16, 20, 24
	const headerNet = 1 // BPF_HDR_START_NET
	const keep, pass = "keep", "pass"

	load := func(size int32) asm.Instructions {
		return asm.Instructions{
			asm.Mov.Reg(asm.R1, ctx),
			asm.Mov.Reg(asm.R2, offset),
			asm.Mov.Reg(asm.R3, asm.RFP),
			asm.Add.Imm(asm.R3, buffer),
			asm.Mov.Imm(asm.R4, size),
			asm.Mov.Imm(asm.R5, headerNet),
			asm.FnSkbLoadBytesRelative.Call(),
			asm.JNE.Imm(asm.R0, 0, keep), // cut short: nobody can tell what it is
		}
	}
	at := func(offset int16) int16 { return buffer + offset }

	p := asm.Instructions{
		asm.Mov.Reg(ctx, asm.R1),
		asm.LoadMem(asm.R0, ctx, skbVLANPresent, asm.Word),
		asm.JEq.Imm(asm.R0, 0, "untagged"),
		asm.LoadMem(asm.R0, ctx, skbVLANTCI, asm.Word),
		asm.And.Imm(asm.R0, 0xfff),
		asm.JNE.Imm(asm.R0, 0, pass),
		asm.LoadMem(asm.R0, ctx, skbProtocol, asm.Word).WithSymbol("untagged"),
	}
	if g.Closed {
		p = append(p, asm.Ja.Label(keep))
	} else {
		p = append(p,
			asm.JEq.Imm(asm.R0, network16(unix.ETH_P_8021Q), keep),
			asm.JEq.Imm(asm.R0, network16(unix.ETH_P_8021AD), keep),
			asm.JEq.Imm(asm.R0, network16(unix.ETH_P_IPV6), "ipv6"),
			asm.JNE.Imm(asm.R0, network16(unix.ETH_P_IP), pass),
		)

		// IPv4, RFC 791. Of a fragmented packet only the first part has ports; without it nobody can put the rest
		// together.
		p = append(p, asm.Mov.Imm(offset, 0))
		p = append(p, load(20)...)
		p = append(p, asm.LoadMem(next, asm.RFP, at(9), asm.Byte))
		p = append(p, g.protocols(next, keep)...)
		p = append(p,
			asm.JNE.Imm(next, unix.IPPROTO_UDP, pass),
			asm.LoadMem(asm.R0, asm.RFP, at(6), asm.Half),
			asm.HostTo(asm.BE, asm.R0, asm.Half),
			asm.And.Imm(asm.R0, 0x1fff),
			asm.JNE.Imm(asm.R0, 0, pass),
			asm.LoadMem(offset, asm.RFP, at(0), asm.Byte),
			asm.And.Imm(offset, 15),
			asm.LSh.Imm(offset, 2),
			asm.Ja.Label("udp"),
		)

		// IPv6, RFC 8200: extension headers come in any number.
		p = append(p, asm.Mov.Imm(offset, 0).WithSymbol("ipv6"))
		p = append(p, load(40)...)
		p = append(p, asm.LoadMem(next, asm.RFP, at(6), asm.Byte), asm.Mov.Imm(offset, 40))
		for i := range maxExtensions {
			label := func(s string) string { return fmt.Sprint(s, i) }
			here := g.protocols(next, keep)
			here = append(here,
				asm.JEq.Imm(next, unix.IPPROTO_UDP, "udp"),
				asm.JEq.Imm(next, unix.IPPROTO_HOPOPTS, label("options")),
				asm.JEq.Imm(next, unix.IPPROTO_ROUTING, label("options")),
				asm.JEq.Imm(next, unix.IPPROTO_DSTOPTS, label("options")),
				asm.JEq.Imm(next, unix.IPPROTO_AH, label("ah")),
				asm.JNE.Imm(next, unix.IPPROTO_FRAGMENT, pass),
			)
			here = append(here, load(8)...)
			here = append(here,
				asm.LoadMem(next, asm.RFP, at(0), asm.Byte),
				asm.Add.Imm(offset, 8),
				asm.LoadMem(asm.R0, asm.RFP, at(2), asm.Half),
				asm.HostTo(asm.BE, asm.R0, asm.Half),
				asm.And.Imm(asm.R0, 0xfff8),
				asm.JEq.Imm(asm.R0, 0, label("end")),
			)
			here = append(here, g.protocols(next, keep)...) // as all parts have it
			here = append(here, asm.Ja.Label(pass))

			options := load(2)
			options[0] = options[0].WithSymbol(label("options"))
			here = append(here, options...)
			here = append(here,
				asm.LoadMem(next, asm.RFP, at(0), asm.Byte),
				asm.LoadMem(asm.R0, asm.RFP, at(1), asm.Byte),
				asm.Add.Imm(asm.R0, 1),
				asm.LSh.Imm(asm.R0, 3),
				asm.Add.Reg(offset, asm.R0),
				asm.Ja.Label(label("end")),
			)
			ah := load(2) // RFC 4302: in units of four bytes, less two
			ah[0] = ah[0].WithSymbol(label("ah"))
			here = append(here, ah...)
			here = append(here,
				asm.LoadMem(next, asm.RFP, at(0), asm.Byte),
				asm.LoadMem(asm.R0, asm.RFP, at(1), asm.Byte),
				asm.Add.Imm(asm.R0, 2),
				asm.LSh.Imm(asm.R0, 2),
				asm.Add.Reg(offset, asm.R0),
				asm.Mov.Imm(asm.R0, 0).WithSymbol(label("end")),
			)
			p = append(p, here...)
		}
		p = append(p, asm.Ja.Label(keep))

		udp := load(4)
		udp[0] = udp[0].WithSymbol("udp")
		p = append(p, udp...)
		p = append(p, asm.LoadMem(asm.R0, asm.RFP, at(2), asm.Half))
		for _, port := range g.Ports {
			p = append(p, asm.JEq.Imm(asm.R0, network16(port), keep))
		}
		p = append(p, asm.Ja.Label(pass))
	}
	return append(p,
		asm.Mov.Reg(asm.R1, ctx).WithSymbol(keep),
		asm.Mov.Imm(asm.R2, packetOtherHost),
		asm.FnSkbChangeType.Call(),
		asm.JEq.Imm(asm.R0, 0, pass),
		asm.Mov.Imm(asm.R0, actionShot), // this host's own, looped back
		asm.Return(),
		asm.Mov.Imm(asm.R0, actionUnspec).WithSymbol(pass), // on to the filters of others
		asm.Return(),
	)
}

// protocols jumps to label if a register holds one of the protocols.
func (g Guard) protocols(r asm.Register, label string) (p asm.Instructions) {
	for _, n := range g.Protocols {
		p = append(p, asm.JEq.Imm(r, int32(n), label))
	}
	return p
}

// network16 is a number as a program sees it that loads two bytes from a packet.
func network16(n uint16) int32 {
	return int32(binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, n)))
}
