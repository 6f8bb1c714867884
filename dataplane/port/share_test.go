package port

import (
	"encoding/binary"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/xenvnet/xend/dataplane/wire"
	"github.com/xenvnet/xend/internal/hostnet"
)

// Each frame comes to one of the ports that share a vnif, those of a flow to the same, and what they
// send themselves to none.
func TestOpenShared(t *testing.T) {
	h := newHost(t)
	d, err := Ensure(h, spec97(t))
	require.NoError(t, err)
	ports, err := OpenShared(d, Options{}, 3)
	require.NoError(t, err)
	require.Len(t, ports, 3)
	for _, p := range ports {
		defer func() { _ = p.Close() }()
	}
	const flows, each = 64, 4
	tx := openRaw(t, h, "vnif97")
	frame := make([]byte, 60)
	copy(frame, []byte{2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0, 0x45, 0, 0, 46, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2})
	binary.BigEndian.PutUint16(frame[38:], 26)
	for range each {
		for i := range flows {
			binary.BigEndian.PutUint16(frame[34:], uint16(1000+i))
			_, err := unix.Write(tx, frame)
			require.NoError(t, err)
		}
	}
	where := map[uint16]int{}
	used := map[int]bool{}
	b := NewBatch()
	total := 0
	for deadline := time.Now().Add(10 * time.Second); total < flows*each; {
		require.False(t, time.Now().After(deadline), "%d frames", total)
		for i, p := range ports {
			n, err := p.Recv(b)
			require.NoError(t, err)
			for k := range n {
				f := b.Frame(k)
				if binary.BigEndian.Uint16(f[12:]) != 0x0800 {
					continue // the vnif's own
				}
				source := binary.BigEndian.Uint16(f[34:])
				if before, ok := where[source]; ok && total >= flows {
					// Not the first round: the kernel chooses the seed of its hash when it first needs it.
					require.Equal(t, before, i)
				}
				where[source] = i
				used[i] = true
				total++
			}
		}
	}
	require.Len(t, where, flows)
	require.Len(t, used, 3)
	for _, p := range ports {
		_, err := p.Send([]wire.Frame{{Bufs: [][]byte{frame}}})
		require.NoError(t, err)
	}
	for _, p := range ports {
		n, err := p.Recv(b)
		require.NoError(t, err)
		for k := range n {
			require.NotEqual(t, frame, b.Frame(k))
		}
	}
	one, err := OpenShared(d, Options{}, 1)
	require.NoError(t, err)
	require.Len(t, one, 1)
	require.NoError(t, one[0].Close())
}

// openRaw opens a packet socket that sends out of a device.
func openRaw(t *testing.T, h *hostnet.Host, device string) (fd int) {
	t.Helper()
	index := link(t, h, device).Index
	require.NoError(t, h.Do(func() (err error) {
		if fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		return unix.Bind(fd, &unix.SockaddrLinklayer{Ifindex: index})
	}))
	t.Cleanup(func() { _ = unix.Close(fd) })
	return fd
}

// The first group that a kernel makes after it started has number 0, which is a number as good as any. On a kernel
// that has just started TestOpenShared shows the same.
func TestFanoutGroupZero(t *testing.T) {
	for _, first := range []int{0, 1, 0xffff} {
		groups := map[int][]int{} // sockets by group, as in the kernel
		next := first
		of := map[int]int{}
		g := &fanout{
			set: func(fd, value int) error {
				number := value & 0xffff
				if value>>16&unix.PACKET_FANOUT_FLAG_UNIQUEID != 0 {
					if number != 0 {
						return unix.EINVAL // fanout_add
					}
					number, next = next, next+1
				}
				groups[number] = append(groups[number], fd)
				of[fd] = number
				return nil
			},
			get: func(fd int) (int, error) { return of[fd] | unix.PACKET_FANOUT_HASH<<16, nil },
		}
		for fd := range 4 {
			require.NoError(t, g.join(fd))
		}
		require.Equal(t, map[int][]int{first: {0, 1, 2, 3}}, groups)
	}
}
