package hostnet

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/stretchr/testify/require"

	"github.com/xenvnet/xend/internal/bpftest"
)

// passer is a program that leaves every packet to what comes next.
func passer(t *testing.T, name string, kind ebpf.ProgramType, verdict int32) (*ebpf.Program, ebpf.ProgramID) {
	t.Helper()
	p := bpftest.New(t, ebpf.ProgramSpec{Name: name, Type: kind}, verdict)
	return p, ProgramID(p)
}

func ids(list []TCXProgram) (out []ebpf.ProgramID) {
	for _, p := range list {
		out = append(out, p.ID)
	}
	return out
}

// needTCX lists what is at a device's TCX ingress, on kernels that have one.
func needTCX(t *testing.T, h *Host, index int) []TCXProgram {
	t.Helper()
	list, err := h.TCX(index, false)
	var unsupported *UnsupportedError
	if errors.As(err, &unsupported) {
		t.Skip(err)
	}
	require.NoError(t, err)
	return list
}

// Programs at TCX come one behind the other, are replaced where they are, go when they are told to and not when their file
// descriptor is closed, and clsact's filters are another thing.
func TestTCX(t *testing.T) {
	h := newHost(t)
	a, _ := pair(t, h, "a", "b")
	require.Empty(t, needTCX(t, h, a.Index))
	for _, egress := range []bool{false, true} {
		one, first := passer(t, "one", ebpf.SchedCLS, -1)
		two, second := passer(t, "two", ebpf.SchedCLS, -1)
		three, third := passer(t, "three", ebpf.SchedCLS, -1)
		require.NoError(t, h.AttachTCXProgram(a.Index, egress, one, 0))
		require.NoError(t, h.AttachTCXProgram(a.Index, egress, two, 0))
		require.Error(t, h.AttachTCXProgram(a.Index, egress, two, 0), "twice")
		require.NoError(t, h.AttachTCXProgram(a.Index, egress, three, first))
		require.NoError(t, three.Close())
		list, err := h.TCX(a.Index, egress)
		require.NoError(t, err)
		require.Equal(t, []TCXProgram{{third, "three"}, {second, "two"}}, list)
		for range 2 {
			require.NoError(t, h.DetachTCXProgram(a.Index, egress, third))
		}
		require.NoError(t, h.AttachTCXProgram(a.Index, egress, one, 0))
		list, err = h.TCX(a.Index, egress)
		require.NoError(t, err)
		require.Equal(t, []ebpf.ProgramID{second, first}, ids(list))
		filters, err := h.Filters(a.Index, egress)
		require.NoError(t, err)
		require.Empty(t, filters)
	}
	_, err := h.TCX(9999, false)
	require.ErrorIs(t, err, ErrNotFound)
	require.NoError(t, h.DetachTCXProgram(9999, false, 1))
}

// Programs at TCX come and go on devices that are up, and no packet is lost.
func TestTCXLosesNothing(t *testing.T) {
	h, far, a, b := hostPair(t)
	needTCX(t, h, a.Index)

	var in net.PacketConn
	var out net.Conn
	require.NoError(t, far.Do(func() (err error) { in, err = net.ListenPacket("udp4", "10.9.0.2:0"); return err }))
	defer in.Close()
	require.NoError(t, in.(*net.UDPConn).SetReadBuffer(4<<20))
	require.NoError(t, h.Do(func() (err error) { out, err = net.Dial("udp4", in.LocalAddr().String()); return err }))
	defer out.Close()
	packet := make([]byte, 8)
	_, err := out.Write(packet) // so that the neighbour is known
	require.NoError(t, err)
	_, _, err = in.ReadFrom(packet)
	require.NoError(t, err)

	require.NoError(t, in.SetReadDeadline(time.Now().Add(time.Minute)))
	var stop atomic.Bool
	var got atomic.Uint64
	sent := make(chan uint64, 1)
	go func() {
		n := uint64(0)
		for b := make([]byte, 8); !stop.Load(); n++ {
			binary.BigEndian.PutUint64(b, n)
			if _, err := out.Write(b); err != nil {
				t.Error(err)
			}
			// Half of what the socket's buffer takes (212,992 bytes twice, 768 or more for each), since the kernel gives a quarter of
			// it back late.
			for n-got.Load() > 200 && !stop.Load() {
				runtime.Gosched()
			}
		}
		binary.BigEndian.PutUint64(packet, 1<<63)
		_, _ = out.Write(packet)
		sent <- n
	}()
	done := make(chan struct{})
	go func() {
		defer close(done)
		for b := make([]byte, 8); ; got.Add(1) {
			if _, _, err := in.ReadFrom(b); err != nil || b[0] != 0 {
				return
			}
		}
	}()
	one, first := passer(t, "one", ebpf.SchedCLS, -1)
	two, second := passer(t, "two", ebpf.SchedCLS, -1)
	for range 20 {
		for host, at := range map[*Host]Link{h: a, far: b} {
			egress := host == h
			require.NoError(t, host.AttachTCXProgram(at.Index, egress, one, 0))
			require.NoError(t, host.AttachTCXProgram(at.Index, egress, two, first))
			require.NoError(t, host.DetachTCXProgram(at.Index, egress, second))
		}
	}
	stop.Store(true)
	<-done
	require.Equal(t, <-sent, got.Load())
}

// What is at TCX can be asked for while programs come and go there.
func TestTCXIsAskedWhileItChanges(t *testing.T) {
	h := newHost(t)
	a, _ := pair(t, h, "a", "b")
	needTCX(t, h, a.Index)
	one, first := passer(t, "one", ebpf.SchedCLS, -1)
	two, second := passer(t, "two", ebpf.SchedCLS, -1)
	require.NoError(t, h.AttachTCXProgram(a.Index, false, one, 0))
	asked := make(chan error, 1)
	go func() {
		for range 200 {
			ids, err := h.TCXPrograms(a.Index, false)
			if err == nil && (len(ids) == 0 || ids[0] != first) {
				err = fmt.Errorf("programs %v, of which %d was there all the time", ids, first)
			}
			if err != nil {
				asked <- err
				return
			}
		}
		asked <- nil
	}()
	for {
		select {
		case err := <-asked:
			require.NoError(t, err)
			return
		default:
		}
		require.NoError(t, h.AttachTCXProgram(a.Index, false, two, 0))
		require.NoError(t, h.DetachTCXProgram(a.Index, false, second))
	}
}

// An XDP program stays when its file descriptor is closed, and is replaced and taken away only by who knows it.
func TestXDP(t *testing.T) {
	h := newHost(t)
	a, _ := pair(t, h, "a", "b")
	one, first := passer(t, "one", ebpf.XDP, 2)
	two, second := passer(t, "two", ebpf.XDP, 2)
	require.NoError(t, h.AttachXDP(a.Index, one, 0))
	require.ErrorIs(t, h.AttachXDP(a.Index, two, 0), ErrBusy)
	there := func() ebpf.ProgramID {
		t.Helper()
		id, err := h.XDPProgram(a.Index)
		require.NoError(t, err)
		all, err := h.XDPPrograms()
		require.NoError(t, err)
		require.Equal(t, id, all[a.Index])
		return id
	}
	require.Equal(t, first, there())
	require.NoError(t, h.AttachXDP(a.Index, two, first))
	require.NoError(t, two.Close())
	require.Equal(t, second, there())
	require.ErrorIs(t, h.AttachXDP(a.Index, one, first), ErrBusy, "it is another's")
	require.NoError(t, h.DetachXDP(a.Index, first), "another's is left alone")
	require.Equal(t, second, there())
	require.Equal(t, "two", ProgramName(second))
	require.NoError(t, h.DetachXDP(a.Index, second))
	require.Zero(t, there())
	require.NoError(t, h.DetachXDP(9999, first))
	_, err := h.XDPProgram(9999)
	require.ErrorIs(t, err, ErrNotFound)
}

// TestTCXStates: what comes to a hook and goes is noticed, and only there.
func TestTCXStates(t *testing.T) {
	h := newHost(t)
	require.NoError(t, h.CreateVeth(Veth{Name: "a", Partner: "b"}))
	var devices []int
	for _, name := range []string{"a", "b"} {
		l, err := h.LinkByName(name)
		require.NoError(t, err)
		devices = append(devices, l.Index)
	}
	needTCX(t, h, devices[0])
	before, err := h.TCXStates(devices)
	require.NoError(t, err)
	one, id := passer(t, "one", ebpf.SchedCLS, -1)
	require.NoError(t, h.AttachTCXProgram(devices[0], true, one, 0))
	with, err := h.TCXStates(devices)
	require.NoError(t, err)
	require.Equal(t, before[devices[0]][0], with[devices[0]][0])
	require.NotEqual(t, before[devices[0]][1], with[devices[0]][1])
	require.EqualValues(t, 1, with[devices[0]][1].Programs)
	require.Equal(t, id, with[devices[0]][1].IDs[0])
	require.Equal(t, before[devices[1]], with[devices[1]])

	// Another one in its place: the revision is what it was.
	two, _ := passer(t, "two", ebpf.SchedCLS, -1)
	require.NoError(t, h.DetachTCXProgram(devices[0], true, id))
	require.NoError(t, h.AttachTCXProgram(devices[0], true, two, 0))
	again, err := h.TCXStates(append(devices, 9999))
	require.NoError(t, err)
	require.NotEqual(t, with[devices[0]][1], again[devices[0]][1])
	require.Zero(t, again[9999])

	// More than there is room for.
	before = again
	for range len(again[0][0].IDs) + 1 {
		more, _ := passer(t, "more", ebpf.SchedCLS, -1)
		require.NoError(t, h.AttachTCXProgram(devices[0], true, more, 0))
		again, err = h.TCXStates(devices)
		require.NoError(t, err)
		require.NotEqual(t, before, again)
		before = again
	}
	require.EqualValues(t, 10, again[devices[0]][1].Programs)
}
