package control

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/netip"
	"strconv"

	"github.com/xenvnet/xend/sxp"
	"github.com/xenvnet/xend/vnet"
)

// commands are what the socket takes. A command writes what it prints; what was written stands, even if it
// fails.
var commands = map[string]func(*Server, context.Context, sxp.Value, *bytes.Buffer) error{
	"vnet.add":    silent((*Server).vnetAdd),
	"vnet.del":    silent((*Server).vnetDel),
	"vif.add":     silent((*Server).vifAdd),
	"vif.del":     silent((*Server).vifDel),
	"peer.add":    silent((*Server).peerAdd),
	"peer.del":    silent((*Server).peerDel),
	"varp.mcaddr": silent((*Server).varpGroup),
	"varp.flush":  silent((*Server).varpFlush),

	"vnet.list":  prints([]part{state}, writeVnets),
	"vif.list":   prints([]part{counters, macs}, writeVifs),
	"varp.list":  prints([]part{state, macs}, writeVARP),
	"peer.list":  prints([]part{state}, writePeers),
	"varp.print": prints([]part{state, macs}, writeVnets, writeVifs, writeVARP),

	"vn.stats":  prints([]part{counters}, writeStats),
	"vn.status": (*Server).status,
	"vn.mtu":    prints([]part{state}, writeMTU),
	"vn.keys":   prints([]part{state}, writeKeys),

	"vn.members": (*Server).memberKeys,

	"vn.check":    answers((*Server).checkAll),
	"vn.reload":   answers((*Server).reloadAll),
	"vn.events":   answers((*Server).events),
	"vn.trace":    answers((*Server).traceOne),
	"vn.traffic":  answers((*Server).traffic),
	"vn.topology": answers(func(s *Server, ctx context.Context, _ sxp.Value) (any, error) { return s.svc.Topology(ctx), nil }),
}

// slow are the commands that others don't wait for.
var slow = map[string]bool{"vn.check": true, "vn.trace": true, "vn.members": true, "vn.reload": true}

// silent makes a command of something that prints nothing.
func silent(f func(*Server, context.Context, sxp.Value) error) func(*Server, context.Context, sxp.Value, *bytes.Buffer) error {
	return func(s *Server, ctx context.Context, v sxp.Value, _ *bytes.Buffer) error { return f(s, ctx, v) }
}

// do does one command.
func (s *Server) do(ctx context.Context, command sxp.Value, out *bytes.Buffer) error {
	f, ok := commands[command.Name()]
	if !ok {
		name := command.Name()
		if command.IsAtom() {
			name = command.Text()
		}
		return fmt.Errorf("unknown command: %s", cut(name))
	}
	return f(s, ctx, command, out)
}

// appendError writes (error "text"), with the quotation marks that the text needs and always some.
func appendError(b *bytes.Buffer, err error) {
	b.WriteString(`(error "`)
	for _, c := range []byte(err.Error()) {
		switch {
		case c == '"' || c == '\\':
			b.WriteByte('\\')
			b.WriteByte(c)
		case c == '\n':
			b.WriteString(`\n`)
		case c < 0x20 || c == 0x7f:
			fmt.Fprintf(b, `\x%02x`, c)
		default:
			b.WriteByte(c)
		}
	}
	b.WriteString("\")\n")
}

// field returns the value of a field that must be there.
func field(command sxp.Value, name string) (string, error) {
	v := command.ChildValue(name, "")
	if v == "" {
		return "", fmt.Errorf("%s: (%s ...) is missing", command.Name(), name)
	}
	return v, nil
}

// idField reads a vnet id.
func idField(command sxp.Value, name string) (vnet.ID, string, error) {
	text, err := field(command, name)
	if err != nil {
		return vnet.ID{}, "", err
	}
	id, err := vnet.ParseID(text)
	if err != nil {
		return vnet.ID{}, "", fmt.Errorf("%s: %w", command.Name(), err)
	}
	return id, text, nil
}

// vnetAdd makes a vnet that is on no bridge and gone after a restart.
func (s *Server) vnetAdd(ctx context.Context, command sxp.Value) error {
	id, text, err := idField(command, "id")
	if err != nil {
		return err
	}
	if id.Reserved() {
		return fmt.Errorf("vnet.add: vnet id %q is reserved for the physical network", text)
	}
	c := vnet.Config{ID: id, IDText: text, Vnetif: command.ChildValue("vnetif", vnet.DefaultVnetif(id, text))}
	if err := vnet.CheckDeviceName(c.Vnetif); err != nil {
		return fmt.Errorf("vnet.add: vnetif: %w", err)
	}
	if c.Security, err = vnet.ParseSecurity(command.ChildValue("security", vnet.None.String())); err != nil {
		return fmt.Errorf("vnet.add: security: %w", err)
	}
	c.Form = sxp.List(sxp.Atom("vnet"), sxp.Pair("id", text), sxp.Pair("vnetif", c.Vnetif), sxp.Pair("security", c.Security.String()))
	return s.svc.AddTransient(ctx, c)
}

// vnetDel removes a vnet; the id may stand there bare, as xend sent it.
func (s *Server) vnetDel(ctx context.Context, command sxp.Value) error {
	if rest := command.Children(); len(rest) == 1 && rest[0].IsAtom() {
		command = sxp.List(sxp.Atom(command.Name()), sxp.Pair("id", rest[0].Text()))
	}
	id, _, err := idField(command, "id")
	if err != nil {
		return err
	}
	return s.svc.DeleteTransient(ctx, id)
}

// vifFields reads (vnet ID) and (vmac MAC).
func vifFields(command sxp.Value) (vnet.ID, net.HardwareAddr, error) {
	id, _, err := idField(command, "vnet")
	if err != nil {
		return id, nil, err
	}
	text, err := field(command, "vmac")
	if err != nil {
		return id, nil, err
	}
	mac, err := parseMAC(text)
	if err != nil {
		return id, nil, fmt.Errorf("%s: vmac: %w", command.Name(), err)
	}
	return id, mac, nil
}

// parseMAC reads six bytes with ":" or "-" between, one or two hexadecimal digits each.
func parseMAC(s string) (net.HardwareAddr, error) {
	mac := make(net.HardwareAddr, 0, 6)
	for rest := s; ; {
		end := 0
		for end < len(rest) && rest[end] != ':' && rest[end] != '-' {
			end++
		}
		n, err := strconv.ParseUint(rest[:end], 16, 8)
		if err != nil || end > 2 || len(mac) == 6 {
			return nil, fmt.Errorf("%q is not a MAC", s)
		}
		mac = append(mac, byte(n))
		if end == len(rest) {
			break
		}
		rest = rest[end+1:]
	}
	if len(mac) != 6 {
		return nil, fmt.Errorf("%q is not a MAC", s)
	}
	return mac, nil
}

func (s *Server) vifAdd(_ context.Context, command sxp.Value) error {
	id, mac, err := vifFields(command)
	if err != nil {
		return err
	}
	return s.svc.Dataplane().AddVif(id, mac)
}

func (s *Server) vifDel(_ context.Context, command sxp.Value) error {
	id, mac, err := vifFields(command)
	if err != nil {
		return err
	}
	return s.svc.Dataplane().RemoveVif(id, mac)
}

// addrField reads (addr A).
func addrField(command sxp.Value) (netip.Addr, error) {
	text, err := field(command, "addr")
	if err != nil {
		return netip.Addr{}, err
	}
	addr, err := netip.ParseAddr(text)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("%s: %q is not an IP address", command.Name(), text)
	}
	return addr.Unmap(), nil
}

func (s *Server) peerAdd(ctx context.Context, command sxp.Value) error {
	addr, err := addrField(command)
	if err != nil {
		return err
	}
	port := uint64(0) // the protocol's
	if text := command.ChildValue("port", ""); text != "" {
		if port, err = strconv.ParseUint(text, 10, 16); err != nil || port == 0 {
			return fmt.Errorf("peer.add: %q is not a port (1 to 65535)", text)
		}
	}
	return s.svc.Dataplane().AddPeer(ctx, addr, uint16(port))
}

func (s *Server) peerDel(ctx context.Context, command sxp.Value) error {
	addr, err := addrField(command)
	if err != nil {
		return err
	}
	return s.svc.Dataplane().RemovePeer(ctx, addr)
}

func (s *Server) varpGroup(ctx context.Context, command sxp.Value) error {
	addr, err := addrField(command)
	if err != nil {
		return err
	}
	return s.svc.Dataplane().SetGroup(ctx, addr)
}

func (s *Server) varpFlush(context.Context, sxp.Value) error {
	s.svc.Dataplane().FlushVARP()
	return nil
}
