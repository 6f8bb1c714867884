package check

import (
	"encoding/binary"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/bpf"
	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv6"

	"github.com/xenvnet/xend/dataplane"
	"github.com/xenvnet/xend/dataplane/wire"
	"github.com/xenvnet/xend/xendcompat/events"
	"github.com/xenvnet/xend/xendcompat/finding"
)

var (
	asker = net.HardwareAddr{0, 0x16, 0x3e, 0x11, 0x22, 0x33}
	guest = net.HardwareAddr{0, 0x16, 0x3e, 0, 0, 2}
	addr6 = addr("fd97::12:3456")
)

// advertised is a frame with a neighbour advertisement, after a change of its ICMPv6 message.
func advertised(t testing.TB, options []byte) []byte {
	t.Helper()
	from, to := addr6, linkLocal(asker)
	m, err := (&icmp.Message{Type: ipv6.ICMPTypeNeighborAdvertisement, Body: &icmp.RawBody{
		Data: slices.Concat([]byte{0x60, 0, 0, 0}, addr6.AsSlice(), options),
	}}).Marshal(icmp.IPv6PseudoHeader(from.AsSlice(), to.AsSlice()))
	require.NoError(t, err)
	b := slices.Concat([]byte(asker), guest, []byte{0x86, 0xdd, 0x60, 0, 0, 0})
	b = binary.BigEndian.AppendUint16(b, uint16(len(m)))
	b = append(b, 58, 255)
	return slices.Concat(b, from.AsSlice(), to.AsSlice(), m)
}

// The question is one that every implementation of IPv6 answers, to the asker alone; answers are read as RFC 4861 has them.
func TestNeighbourDiscovery(t *testing.T) {
	q := newNeighbourQuestion(addr6)
	require.Equal(t, "33:33:ff:12:34:56", q.to.String())
	b, err := q.frame(asker)
	require.NoError(t, err)
	require.Equal(t, byte(255), b[7], "hop limit")
	require.Equal(t, addr("fe80::216:3eff:fe11:2233").AsSlice(), b[8:24])
	require.Equal(t, addr("ff02::1:ff12:3456").AsSlice(), b[24:40])
	message := slices.Clone(b[40:])
	require.Equal(t, slices.Concat(addr6.AsSlice(), []byte{1, 1}, []byte(asker)), message[8:])
	sum := [2]byte(message[2:])
	m, err := icmp.ParseMessage(58, message)
	require.NoError(t, err)
	require.Equal(t, ipv6.ICMPTypeNeighborSolicitation, m.Type)
	again, err := m.Marshal(icmp.IPv6PseudoHeader(addr("fe80::216:3eff:fe11:2233").AsSlice(), addr("ff02::1:ff12:3456").AsSlice()))
	require.NoError(t, err)
	require.Equal(t, sum[:], again[2:4], "checksum")

	vm, err := bpf.NewVM(q.filter)
	require.NoError(t, err)
	passes := func(frame []byte) bool {
		n, err := vm.Run(frame)
		require.NoError(t, err)
		return n > 0
	}
	option := append([]byte{2, 1}, 2, 0x16, 0x3e, 0, 0, 9)
	for _, tt := range []struct {
		name  string
		frame []byte
		want  string
	}{
		{"with an option", advertised(t, append([]byte{14, 1, 0, 0, 0, 0, 0, 0}, option...)), "02:16:3e:00:00:09"},
		{"without", advertised(t, nil), guest.String()},
	} {
		mac, ok := q.answer(tt.frame)
		require.True(t, ok, tt.name)
		require.Equal(t, tt.want, mac.String(), tt.name)
		require.True(t, passes(tt.frame))
	}
	change := func(at int, v byte) []byte {
		b := advertised(t, option)
		b[at] = v
		return b
	}
	for name, frame := range map[string][]byte{
		"passed a router": change(14+7, 64), "of another address": change(14+40+23, 9), "a question": change(14+40, 135), "a code": change(14+41, 1),
		"cut": advertised(t, option)[:80], "an option of no length": change(14+40+25, 0), "too long an option": change(14+40+25, 9),
		"a group's MAC": change(14+40+26, 3), "IPv4": change(14, 0x45), "ARP": change(13, 6), "longer than it is": change(14+5, 200), "too short": change(14+5, 20),
	} {
		_, ok := q.answer(frame)
		require.False(t, ok, name)
	}
	require.False(t, passes(b))

	arp := newNeighbourQuestion(addr("10.97.0.2"))
	vm, err = bpf.NewVM(arp.filter)
	require.NoError(t, err)
	answer := slices.Concat([]byte(asker), guest, []byte{8, 6, 0, 1, 8, 0, 6, 4, 0, 2}, guest, addr("10.97.0.2").AsSlice(), asker, addr("0.0.0.0").AsSlice())
	mac, ok := arp.answer(answer)
	require.True(t, ok)
	require.Equal(t, guest, mac)
	require.True(t, passes(answer))
	question, err := arp.frame(asker)
	require.NoError(t, err)
	require.False(t, passes(slices.Concat([]byte(arp.to), asker, []byte{8, 6}, question)))
}

// Whatever a domain answers, it is an answer or none.
func FuzzNeighbourAnswer(f *testing.F) {
	f.Add(advertised(f, []byte{2, 1, 0, 0x16, 0x3e, 0, 0, 9}))
	f.Add(advertised(f, nil))
	four := addr("10.97.0.2")
	f.Fuzz(func(t *testing.T, frame []byte) {
		for _, q := range []neighbourQuestion{newNeighbourQuestion(addr6), newNeighbourQuestion(four)} {
			if mac, ok := q.answer(frame); ok {
				require.Len(t, mac, 6)
				require.Zero(t, mac[0]&1)
			}
		}
	})
}

// What can't be traced is refused, with what to do.
func TestTraceRefuses(t *testing.T) {
	c := New(Options{})
	for target, want := range map[string]string{
		"fe80::1%eth0": "name it without %eth0", "ff02::1": "is no single machine's address", "224.10.0.1": "is no single machine's address", "::": "is no single machine's address",
		"web2": "manages no domains: name its MAC or address",
	} {
		_, _, err := c.resolve(t.Context(), target, dataplane.Status{})
		require.ErrorContains(t, err, want, target)
	}
}

// What hosts say of a MAC is told beside what this one holds to be so.
func TestSaid(t *testing.T) {
	claim := func(s string) dataplane.Claim { return dataplane.Claim{Addr: addr(s), Took: time.Millisecond} }
	behind, here := &finding.Place{Host: "192.0.2.2"}, &finding.Place{Here: true}
	require.Equal(t, "192.0.2.2 says that it has it (VARP, within 1.0 ms)", said(behind, []dataplane.Claim{claim("192.0.2.2")}))
	require.Contains(t, said(behind, []dataplane.Claim{claim("192.0.2.3"), claim("192.0.2.2")}), "it (VARP, within 1.0 ms); so does 192.0.2.3: two domains have one MAC")
	require.Contains(t, said(behind, []dataplane.Claim{claim("192.0.2.3")}), "192.0.2.3 says that it has it, and 192.0.2.2 does not")
	require.Contains(t, said(behind, nil), "no host says that it has it: ")
	require.Equal(t, "no other host says that it has it", said(here, nil))
	require.Contains(t, said(here, []dataplane.Claim{claim("192.0.2.3")}), "it is here; so does 192.0.2.3")
}

// The log tells since when something is where it is, if it still tells of the last move.
func TestSince(t *testing.T) {
	moved := func(from, to string, at time.Time) events.Event {
		return events.Event{Time: at, Text: "MAC moved", Attrs: []events.Attr{{Key: "mac", Value: wire.MAC(guest).String()}, {Key: "from", Value: from}, {Key: "to", Value: to}}}
	}
	p := &finding.Place{Events: []events.Event{moved("192.0.2.2", "this host", now.Add(-time.Hour)), moved("this host", "192.0.2.3", now)}}
	since(p, "192.0.2.3")
	require.Equal(t, now, p.Since)
	require.Equal(t, "this host", p.Before)
	p.Since, p.Before = time.Time{}, ""
	since(p, "192.0.2.2")
	require.Zero(t, p.Since)
}
