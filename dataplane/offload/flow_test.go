package offload

import (
	"encoding/binary"
	"testing"

	"github.com/stretchr/testify/assert"
)

// flowFrame is an IPv4 frame from 10.0.0.1 to 10.0.0.2.
func flowFrame(proto uint8, from, to uint16, payload int) []byte {
	f := append(make([]byte, 12), 8, 0, 0x45, 0, 0, 0, 0, 1, 0, 0, 64, proto, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2)
	f = binary.BigEndian.AppendUint16(f, from)
	f = binary.BigEndian.AppendUint16(f, to)
	f = append(f, make([]byte, 16+payload)...)
	binary.BigEndian.PutUint16(f[16:], uint16(len(f)-14))
	return f
}

func TestFlow(t *testing.T) {
	one := Flow(flowFrame(6, 1000, 80, 0))
	assert.Equal(t, one, Flow(flowFrame(6, 1000, 80, 1400)), "the payload does not matter")
	tagged := flowFrame(6, 1000, 80, 10)
	tagged = append(append(append([]byte{}, tagged[:12]...), 0x81, 0, 0, 5), tagged[12:]...)
	assert.Equal(t, one, Flow(tagged), "nor does a tag")

	fragment := func(n uint16, ports uint16) []byte {
		f := flowFrame(17, ports, ports, 100)
		binary.BigEndian.PutUint16(f[20:], n)
		return f
	}
	assert.Equal(t, Flow(fragment(0x2000, 5)), Flow(fragment(100, 77)), "fragments of one packet are one flow: later ones have no ports")

	v6 := append(make([]byte, 12), 0x86, 0xdd, 0x60, 0, 0, 0, 0, 8, 17, 64)
	v6 = append(v6, make([]byte, 32)...)
	v6 = append(v6, 0, 1, 0, 2, 0, 8, 0, 0)
	other := append([]byte{}, v6...)
	other[14+8+15] = 9
	assert.NotEqual(t, Flow(v6), Flow(other))
	other = append([]byte{}, v6...)
	other[14+40+1] = 9
	assert.NotEqual(t, Flow(v6), Flow(other))

	arp := append(make([]byte, 12), 8, 6, 0, 1)
	assert.Equal(t, Flow(arp), Flow(append(arp, 1, 2, 3)))
	assert.Zero(t, Flow(arp[:13]))
}

// TestFlowSpreads: flows that differ in a port alone spread over a few places about evenly.
func TestFlowSpreads(t *testing.T) {
	const flows, places = 4000, 8
	var n [places]int
	for i := range flows {
		n[Flow(flowFrame(6, uint16(32768+i), 5201, 0))%places]++
	}
	for i := range n {
		assert.InDelta(t, flows/places, n[i], flows/places/3, "place %d", i)
	}
}

func FuzzFlow(f *testing.F) {
	f.Add(flowFrame(6, 1, 2, 3))
	f.Fuzz(func(t *testing.T, frame []byte) {
		if Flow(frame) != Flow(append([]byte{}, frame...)) {
			t.Fatal("differs")
		}
	})
}
