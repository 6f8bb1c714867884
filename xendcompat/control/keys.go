package control

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/xenvnet/xend/dataplane/esp"
	"github.com/xenvnet/xend/sxp"
)

// writeKeys writes, for each vnet with security, (keys (vnet ID) (security LEVEL) (epoch N) (age S) (packets N)
// (key (kid K) (use send|open))… (sender (addr A)… (kid K) (epoch N) (age S) (echo S) (packets N))…
// (refused (reason R) (packets N))…). Keys are named by their public names.
func writeKeys(b *bytes.Buffer, s snapshot) {
	for _, v := range s.Keys {
		items := []sxp.Value{
			sxp.Atom("keys"), sxp.Pair("vnet", v.ID.String()), sxp.Pair("security", v.Level.String()),
			sxp.Pair("epoch", fmt.Sprint(v.Epoch)), sxp.Pair("age", fmt.Sprint(seconds(v.Age))), sxp.Pair("packets", fmt.Sprint(v.Packets)),
		}
		for _, k := range v.Keys {
			use := "open"
			if k.Sends {
				use = "send"
			}
			items = append(items, sxp.List(sxp.Atom("key"), sxp.Pair("kid", fmt.Sprintf("%x", k.KID)), sxp.Pair("use", use)))
		}
		for _, x := range v.Senders {
			f := []sxp.Value{sxp.Atom("sender")}
			a := x.Addresses
			if a.NAT.IsValid() {
				f = append(f, sxp.Pair("addr", a.NAT.String()))
			}
			if a.Addr4.IsValid() {
				f = append(f, sxp.Pair("addr", a.Addr4.String()))
			}
			if a.Addr6.IsValid() {
				f = append(f, sxp.Pair("addr", a.Addr6.String()))
			}
			items = append(items, sxp.List(append(f, sxp.Pair("kid", fmt.Sprintf("%x", x.KID)), sxp.Pair("epoch", fmt.Sprint(x.Epoch)),
				sxp.Pair("age", fmt.Sprint(seconds(x.Age))), sxp.Pair("echo", fmt.Sprint(seconds(x.Echo))), sxp.Pair("packets", fmt.Sprint(x.Packets)))...))
		}
		for r, n := range v.Refused {
			if n > 0 {
				items = append(items, sxp.List(sxp.Atom("refused"), sxp.Pair("reason", esp.Refusal(r).String()), sxp.Pair("packets", fmt.Sprint(n))))
			}
		}
		writeForm(b, sxp.List(items...))
	}
}

// membersWait bounds how long hosts are asked for their keys.
const membersWait = 3 * time.Second

// memberKeys does (vn.members (vnet ID)): which hosts answer inside of the ESP of a vnet, and which keys they have for it, of which they
// send with the first: (member (addr A) (version V) (kid K)…)…. It takes a second.
func (s *Server) memberKeys(ctx context.Context, command sxp.Value, out *bytes.Buffer) error {
	id, _, err := idField(command, "vnet")
	if err != nil {
		return err
	}
	if s.members == nil {
		return errors.New("vn.members: there is nobody to ask with")
	}
	ctx, cancel := context.WithTimeout(ctx, membersWait)
	defer cancel()
	list, err := s.members(ctx, id)
	if err != nil {
		return fmt.Errorf("vn.members: %w", err)
	}
	for _, m := range list {
		f := []sxp.Value{sxp.Atom("member"), sxp.Pair("addr", m.Addr.String()), sxp.Pair("version", m.Version)}
		for _, k := range m.Keys {
			f = append(f, sxp.Pair("kid", fmt.Sprintf("%x", k)))
		}
		writeForm(out, sxp.List(f...))
	}
	return nil
}
