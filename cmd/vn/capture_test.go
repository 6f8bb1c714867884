package main

import (
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/bpf"

	"github.com/xenvnet/xend/internal/capture"
	"github.com/xenvnet/xend/xendcompat/traffic"
)

// The filter lets through what may be a vnet's, and nothing else.
func TestUnderlayFilter(t *testing.T) {
	raw, err := underlayFilter(capture.Options{Port: 1798, SecurityPort: 4500})
	require.NoError(t, err)
	program, ok := bpf.Disassemble(raw)
	require.True(t, ok)
	vm, err := bpf.NewVM(program)
	require.NoError(t, err)
	v4 := func(protocol byte, flags uint16, from, to uint16) []byte {
		b := make([]byte, 14+20+8)
		b[12], b[13], b[14] = 8, 0, 0x45
		b[14+6], b[14+7], b[14+9] = byte(flags>>8), byte(flags), protocol
		b[34], b[35], b[36], b[37] = byte(from>>8), byte(from), byte(to>>8), byte(to)
		return b
	}
	v6 := func(next byte, from, to uint16) []byte {
		b := make([]byte, 14+40+8)
		b[12], b[13], b[14], b[20] = 0x86, 0xdd, 0x60, next
		b[54], b[55], b[56], b[57] = byte(from>>8), byte(from), byte(to>>8), byte(to)
		return b
	}
	for name, tt := range map[string]struct {
		frame []byte
		want  bool
	}{
		"VUDP": {v4(17, 0, 40000, 1798), true}, "from the port": {v4(17, 0, 1798, 9), true}, "security": {v4(17, 0, 4500, 4500), true},
		"DNS": {v4(17, 0, 40000, 53), false}, "a later fragment": {v4(17, 100, 0, 0), true}, "first fragment": {v4(17, 0x2000, 1, 1798), true},
		"EtherIP": {v4(97, 0, 0, 0), true}, "ESP": {v4(50, 0, 0, 0), true}, "TCP": {v4(6, 0, 1798, 1798), false},
		"IPv6": {v6(17, 1, 1798), true}, "IPv6 from": {v6(17, 1798, 1), true}, "IPv6 DNS": {v6(17, 1, 53), false}, "IPv6 fragment": {v6(44, 0, 0), true},
		"IPv6 ESP": {v6(50, 0, 0), true}, "IPv6 TCP": {v6(6, 1798, 1798), false}, "ARP": {append(make([]byte, 12), 8, 6, 0, 0), false},
	} {
		n, err := vm.Run(tt.frame)
		require.NoError(t, err)
		require.Equal(t, tt.want, n > 0, name)
	}
}

// What was dropped of the vnet is told apart from what may have been, and what was another's is not told.
func TestDropText(t *testing.T) {
	s := traffic.Snapshot{
		Vnets: []traffic.Vnet{{ID: "97", Drops: traffic.Drops{"loop": 2}}, {ID: "98", Drops: traffic.Drops{"loop": 1, "bum_rate": 5}}},
		Drops: []traffic.Drop{{Reason: "loop", Packets: 3}, {Reason: "bum_rate", Packets: 5}, {Reason: "malformed", Packets: 4}, {Reason: "security"}},
	}
	require.Equal(t, "of this vnet loop 2, of vnets that are not known malformed 4", dropText(s, "97"))
	require.Equal(t, "of vnets that are not known malformed 4", dropText(s, "99"))
	require.Empty(t, dropText(traffic.Snapshot{}, "97"))
}
