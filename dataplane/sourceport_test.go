package dataplane

import (
	"encoding/binary"
	"net"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/xenvnet/xend/dataplane/wire"
)

// Frames of one flow come from one port, those of different flows from several; with source_port = "fixed" all come
// from the port of vnets, as do those to everybody, always. What others send to those ports is nobody's.
func TestSourcePorts(t *testing.T) {
	for _, mode := range []SourcePort{SourceFlow, SourceFixed} {
		t.Run(string(mode), func(t *testing.T) {
			cfg := testConfig()
			cfg.SourcePort = mode
			cfg.FastPath = FastPathOff // the kernel's hash is another: a flow changes its port when it changes its way
			_, s, hosts := newLab(t, 1, cfg)
			a := hosts[0]
			o := newOriginal(t, s, "original")
			add(t, "97", a)
			d := a.domain(1, "97")
			far := domainMAC(100)
			o.send(wire.Group, varpMessage(wire.Announce, idOf(t, "97"), far, o.Addr()))
			eventually(t, "announce learned", func() bool { return len(a.Snapshot().Entries) == 1 })

			flow := func(to net.HardwareAddr, port uint16, n byte) []byte {
				f := udpFrame(t, to, 1, []byte{n})
				copy(f[6:12], domainMAC(1))
				binary.BigEndian.PutUint16(f[14+20:], port)
				return f
			}
			ports := map[uint16]bool{}
			for i := range uint16(16) {
				var first uint16
				for n := range byte(3) {
					f := flow(far, 1000+i, n)
					require.NoError(t, d.Send("eth0", f))
					p := o.wait("the frame", isFrame(f))
					require.Equal(t, o.Addr(), p.to)
					if n == 0 {
						first = p.from.Port()
					}
					require.Equal(t, first, p.from.Port(), "one flow, one port")
					ports[first] = true
				}
			}
			f := flow(broadcastMAC, 1, 1)
			require.NoError(t, d.Send("eth0", f))
			require.EqualValues(t, wire.Port, o.wait("the broadcast", isFrame(f)).from.Port())
			if mode == SourceFixed {
				require.Equal(t, map[uint16]bool{wire.Port: true}, ports)
				return
			}
			require.Greater(t, len(ports), 2)
			require.NotContains(t, ports, uint16(wire.Port))

			// A frame that comes to such a port is dropped by the kernel; one that comes after it, to the right port, is
			// delivered.
			at, err := d.Capture("eth0", nil)
			require.NoError(t, err)
			stray := testFrame(domainMAC(1), far, "stray")
			for port := range ports {
				_, err := o.udp.WriteTo(vudp(idOf(t, "97"), stray), &net.UDPAddr{IP: a.Addr().AsSlice(), Port: int(port)})
				require.NoError(t, err)
			}
			last := testFrame(domainMAC(1), far, "last")
			o.send(a.Addr(), vudp(idOf(t, "97"), last))
			_, err = at.WaitFor(soon(t), isData(last))
			require.NoError(t, err)
			for _, f := range at.Take() {
				require.False(t, isData(stray)(f))
			}
		})
	}
}
