package capture

import (
	"bytes"
	"errors"
	"io"
	"net/netip"
	"testing"
	"time"

	"github.com/gopacket/gopacket/pcapgo"
	"github.com/stretchr/testify/require"

	"github.com/xenvnet/xend/dataplane/wire"
	"github.com/xenvnet/xend/vnet"
)

var (
	id97  = vnet.ID{15: 0x97}
	start = time.Unix(1000, 0)
	here  = netip.MustParseAddr("192.0.2.1")
	there = netip.MustParseAddr("192.0.2.2")
	group = netip.MustParseAddr("224.10.0.1")
)

func options() Options {
	return Options{Vnet: id97, Vnif: "vnif97", Device: "eth0", Port: 1798, SecurityPort: 4500}
}

// frame is an Ethernet frame with some payload.
func frame(text string) []byte {
	return append([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0x16, 0x3e, 0, 0, 1, 8, 6}, text...)
}

// wired is a packet on the underlay.
func wired(t *testing.T, from, to netip.Addr, message ...[]byte) []byte {
	t.Helper()
	b, err := wire.AppendDatagram(append(make([]byte, 12), 8, 0), netip.AddrPortFrom(from, 1798), netip.AddrPortFrom(to, 1798), 64, 7, message...)
	require.NoError(t, err)
	return append(b, bytes.Join(message, nil)...)
}

func after(d time.Duration) time.Time { return start.Add(d) }

func comments(list []Packet) (out [][]string) {
	for _, p := range list {
		out = append(out, p.Comments)
	}
	return out
}

// Each frame is told with the packet that carries it, whichever was seen first; what goes nowhere is told so, with what
// was dropped meanwhile; other vnets are not shown.
func TestCorrelate(t *testing.T) {
	c := New(options())
	vudp := func(f []byte) [][]byte { return [][]byte{wire.AppendVUDP(nil, id97), f} }
	c.Add(Packet{Time: after(0), Place: Vnif, Outgoing: true, Data: frame("hello")})
	c.Add(Packet{Time: after(time.Millisecond), Place: Underlay, Outgoing: true, Data: wired(t, here, group, vudp(frame("hello"))...)})
	// The vnif's socket was read before that of the underlay.
	c.Add(Packet{Time: after(12 * time.Millisecond), Place: Vnif, Data: frame("answer")})
	c.Add(Packet{Time: after(10 * time.Millisecond), Place: Underlay, Data: wired(t, there, here, vudp(frame("answer"))...)})
	c.Add(Packet{Time: after(20 * time.Millisecond), Place: Underlay, Data: wired(t, there, here, vudp(frame("lost"))...)})
	c.Add(Packet{Time: after(21 * time.Millisecond), Place: Underlay, Data: wired(t, there, here, wire.AppendVUDP(nil, vnet.ID{15: 0x98}), frame("other"))})
	c.Add(Packet{Time: after(30 * time.Millisecond), Place: Vnif, Outgoing: true, Data: append(frame(""), make([]byte, 20000)...)})
	c.Add(Packet{Time: after(31 * time.Millisecond), Place: Underlay, Data: wired(t, there, group, wire.VARP{Opcode: wire.Announce, Vnet: id97, MAC: wire.MAC{2}, CareOf: there}.Append(nil))})
	c.Add(Packet{Time: after(32 * time.Millisecond), Place: Underlay, Data: []byte("no packet")})
	c.Dropped("duplicate 1", after(100*time.Millisecond))
	require.Empty(t, c.Flush(after(100*time.Millisecond)))
	list := c.Flush(after(time.Second))
	require.Equal(t, [][]string{
		{"left by eth0 to 224.10.0.1 by the group"},
		{"VUDP to 224.10.0.1 by the group", "from vnif97"},
		{"VUDP from 192.0.2.2 by unicast", "delivered on vnif97 after 2ms"},
		{"came by eth0 from 192.0.2.2 by unicast"},
		{"VUDP from 192.0.2.2 by unicast", "was not seen on vnif97 in one piece; dropped meanwhile: duplicate 1"},
		{"larger than any packet: it goes in pieces, or is put together from them"},
		{"VARP from 192.0.2.2 by the group: 02:00:00:00:00:00 is at 192.0.2.2"},
	}, comments(list))
	require.Empty(t, c.Flush(after(time.Hour)))

	// Where the kernel carries the vnet, it is no wonder.
	o := options()
	o.Kernel = true
	fast := New(o)
	fast.Add(Packet{Time: after(0), Place: Underlay, Data: wired(t, there, here, vudp(frame("past"))...)})
	fast.Add(Packet{Time: after(1), Place: Underlay, Outgoing: true, Data: wired(t, here, there, vudp(frame("past, too"))...)})
	require.Equal(t, [][]string{
		{"VUDP from 192.0.2.2 by unicast", "was not seen on vnif97, which the kernel's fast path passes by, or not in one piece"},
		{"VUDP to 192.0.2.2 by unicast", "its frame was not seen on vnif97, which the kernel's fast path passes by, or not in one piece"},
	}, comments(fast.Flush(after(time.Second))))

	var b bytes.Buffer
	f, err := NewFile(&b, options())
	require.NoError(t, err)
	for _, p := range list {
		require.NoError(t, f.Write(p))
		require.NotEmpty(t, options().Line(p))
	}
	require.NoError(t, f.Flush())
	r, err := pcapgo.NewNgReader(&b, pcapgo.DefaultNgReaderOptions)
	require.NoError(t, err)
	n := 0
	for ; ; n++ {
		data, info, err := r.ReadPacketData()
		if errors.Is(err, io.EOF) {
			break
		}
		require.NoError(t, err)
		require.Equal(t, list[n].Data, data)
		require.Equal(t, int(list[n].Place), info.InterfaceIndex)
		require.Equal(t, list[n].Time.UnixNano(), info.Timestamp.UnixNano())
	}
	require.Len(t, list, n)
}

// Later fragments belong to their first; packets are bounded.
func TestFragments(t *testing.T) {
	c := New(options())
	first := wired(t, there, here, wire.AppendVUDP(nil, id97), frame("long"))
	first[14+6] |= 0x20 // more follow
	c.Add(Packet{Time: start, Place: Underlay, Data: first})
	later := bytes.Clone(first)
	later[14+6], later[14+7] = 0, 10
	c.Add(Packet{Time: start, Place: Underlay, Data: later})
	stranger := bytes.Clone(later)
	stranger[14+5]++
	c.Add(Packet{Time: start, Place: Underlay, Data: stranger})
	require.Equal(t, [][]string{
		{"VUDP from 192.0.2.2 by unicast", "the first fragment"}, {"a later fragment of a packet of this vnet"},
	}, comments(c.Flush(after(time.Second))))
	for range 3 {
		for range maxHeld {
			c.Add(Packet{Time: start, Place: Vnif, Data: frame("x")[:14]})
		}
		c.Flush(start)
	}
	require.LessOrEqual(t, len(c.held), maxHeld)
}

// Whatever is captured is read without harm.
func FuzzAdd(f *testing.F) {
	f.Add(frame("x"), true)
	f.Add(append(append(make([]byte, 12), 0x86, 0xdd, 0x60), make([]byte, 60)...), false)
	f.Add(append(append(make([]byte, 12), 8, 0, 0x45), make([]byte, 60)...), false)
	f.Fuzz(func(_ *testing.T, data []byte, secured bool) {
		o := options()
		o.Secured = secured
		c := New(o)
		c.Add(Packet{Time: start, Place: Underlay, Data: data})
		c.Add(Packet{Time: start, Place: Vnif, Data: data})
		c.Flush(after(time.Hour))
	})
}
