package port

import (
	"bytes"
	"encoding/binary"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/xenvnet/xend/dataplane/wire"
)

// receive makes a batch look as if the kernel had put a frame in slot i.
func receive(b *Batch, i int, frame []byte, h wire.VnetHdr, flags int32) {
	h.Encode(b.bufs[i*slot+Headroom-wire.VnetHdrLen:])
	copy(b.bufs[i*slot+Headroom:], frame)
	b.msgs[i].Len = uint32(wire.VnetHdrLen + len(frame))
	b.msgs[i].Hdr.Flags = flags
	b.msgs[i].Hdr.SetControllen(0)
}

// tag makes the kernel tell of a tag of slot i.
func tag(b *Batch, i int, status uint32, tci, tpid uint16) {
	ctl := b.ctl[i][:]
	clear(ctl)
	ne := binary.NativeEndian
	ne.PutUint64(ctl, unix.SizeofCmsghdr+20)
	ne.PutUint32(ctl[8:], unix.SOL_PACKET)
	ne.PutUint32(ctl[12:], unix.PACKET_AUXDATA)
	ne.PutUint32(ctl[16:], status)
	ne.PutUint16(ctl[32:], tci)
	ne.PutUint16(ctl[34:], tpid)
	b.msgs[i].Hdr.SetControllen(ancillaryLen)
}

// Frames that are not whole are left out, and the others keep their order.
func TestTakeSkipsWhatIsNotWhole(t *testing.T) {
	b := NewBatch()
	receive(b, 0, testFrame(0, 60), wire.VnetHdr{}, 0)
	receive(b, 1, testFrame(1, 60), wire.VnetHdr{}, unix.MSG_TRUNC)
	receive(b, 2, testFrame(2, 13)[:13], wire.VnetHdr{}, 0)
	receive(b, 3, testFrame(3, 60), wire.VnetHdr{Flags: wire.FlagDataValid}, 0)
	b.prepare()
	for i := range 4 {
		b.msgs[i].Hdr.SetControllen(0)
	}
	require.Equal(t, 2, b.take(4))
	require.Equal(t, 2, b.Len())
	require.Equal(t, testFrame(0, 60), b.Frame(0))
	require.Equal(t, testFrame(3, 60), b.Frame(1))
	require.Equal(t, wire.VnetHdr{Flags: wire.FlagDataValid}, b.Hdr(1))
}

func TestTakePutsTagsBack(t *testing.T) {
	const valid, tpidValid = unix.TP_STATUS_VLAN_VALID, unix.TP_STATUS_VLAN_TPID_VALID
	for name, c := range map[string]struct {
		status    uint32
		tci, tpid uint16
		want      []byte // between the addresses and the type
	}{
		"none":            {0, 5, 0x8100, nil},
		"VLAN 5":          {valid | tpidValid, 5, 0x8100, []byte{0x81, 0, 0, 5}},
		"priority only":   {valid | tpidValid, 0xe000, 0x8100, []byte{0x81, 0, 0xe0, 0}},
		"802.1ad":         {valid | tpidValid, 5, 0x88a8, []byte{0x88, 0xa8, 0, 5}},
		"tag of all zero": {valid | tpidValid, 0, 0x8100, []byte{0x81, 0, 0, 0}},
		"old kernel":      {valid, 5, 0, []byte{0x81, 0, 0, 5}},
	} {
		t.Run(name, func(t *testing.T) {
			b := NewBatch()
			h := wire.VnetHdr{Flags: wire.FlagNeedsCsum, GSOType: wire.GSOTCPv4, GSOSize: 1000, HdrLen: 54, CsumStart: 34, CsumOffset: 16}
			f := testFrame(1, 4000)
			receive(b, 0, f, h, 0)
			tag(b, 0, c.status, c.tci, c.tpid)
			require.Zero(t, b.take(1))
			want := slices.Insert(bytes.Clone(f), macsLen, c.want...)
			require.Equal(t, want, b.Frame(0))
			h.HdrLen += uint16(len(c.want))
			h.CsumStart += uint16(len(c.want))
			require.Equal(t, h, b.Hdr(0))
			require.Len(t, b.Frame(0), cap(b.Frame(0)), "appending must not run into the next frame")
		})
	}
}

// The longest frame fits, with its tag.
func TestTakeLongest(t *testing.T) {
	b := NewBatch()
	for i := range BatchSize {
		receive(b, i, testFrame(byte(i), MaxFrame), wire.VnetHdr{}, 0)
		tag(b, i, unix.TP_STATUS_VLAN_VALID, 5, 0)
	}
	require.Zero(t, b.take(BatchSize))
	for i := range BatchSize {
		f := testFrame(byte(i), MaxFrame)
		require.True(t, bytes.Equal(slices.Insert(f, macsLen, 0x81, 0, 0, 5), b.Frame(i)))
	}
}

func FuzzVLANTag(f *testing.F) {
	f.Add([]byte{})
	f.Add(make([]byte, ancillaryLen))
	f.Fuzz(func(_ *testing.T, ctl []byte) { vlanTag(ctl) })
}
