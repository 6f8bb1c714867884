package checktest

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/xenvnet/xend/dataplane/wire"
	"github.com/xenvnet/xend/internal/lab"
)

// TestPathMTU is mtu_mode pmtu: senders are told what fits, instead of having it fragmented.
func TestPathMTU(t *testing.T) {
	for _, s := range []setup{
		{name: "1500 on 1500", underlay: 1500, inner: 1500, pmtu: true},
		{name: "1500 on 1400", underlay: 1400, inner: 1500, pmtu: true},
		{name: "8900 on 1500", underlay: 1500, inner: 8900, pmtu: true},
		{name: "1500 on 1500 over IPv6", underlay: 1500, inner: 1500, pmtu: true, v6: true},
	} {
		t.Run(s.name, func(t *testing.T) {
			w := newWorld(t, s)
			rec := w.recorders(t)
			for i := range w.sides {
				w.tooBig(t, i)
				w.clamped(t, i)
			}
			if s.inner > s.underlay {
				return // guests would have to learn it all anew
			}
			for _, name := range []string{"as they are", "cards off", "gro everywhere"} {
				for k := range settings {
					if settings[k].name == name {
						undo := w.set(t, &settings[k])
						w.guestsLearn(t, &settings[k], rec)
						undo()
					}
				}
			}
		})
	}
}

// innerMTU is what fits, as it is told.
func (s *setup) innerMTU() int { return s.limit() - 14 }

// tooBig sends frames that fit or don't, one by one, and checks whether they come out, or an answer does.
func (w *world) tooBig(t *testing.T, way int) {
	t.Helper()
	w.wire.during("too big")
	m := w.sides[way].maker
	limit := w.limit()
	for _, tags := range [][]tag{untagged, vlan, qinq} {
		for _, size := range []int{limit - 1, limit, limit + 1, w.inner + 14} {
			big := size > limit
			for _, c := range []struct {
				name   string
				p      packet
				passes bool // also if it is too big
			}{
				{"UDP that may be fragmented", packet{proto: protoUDP, id: 1}, true},
				{"UDP", packet{proto: protoUDP, df: true}, false},
				{"UDP to be summed", packet{proto: protoUDP, df: true, sum: partial}, false},
				{"UDP, six", packet{v6: true, proto: protoUDP}, false},
				{"TCP", packet{proto: protoTCP, df: true, flags: ack, opts: timestamps}, false},
				{"TCP, six", packet{v6: true, proto: protoTCP, flags: ack | psh, sum: partial}, false},
				{"ICMP", packet{proto: protoICMP, df: true}, false},
				{"ICMPv6", packet{v6: true, proto: protoICMPv6}, false},
				{"SCTP", packet{proto: protoSCTP, df: true}, false},
				{"UDP to a group", packet{proto: protoUDP, df: true, dst: &group4}, true},
				{"UDP to an unknown MAC", packet{proto: protoUDP, df: true, dst: &unknown}, true},
			} {
				p := c.p
				p.tags = tags
				m.next()
				w.passesOrNot(t, way, m.sized(fmt.Sprintf("%s, %d bytes, tags %04x", c.name, size, tags), p, size), !big || c.passes)
			}
			w.passesOrNot(t, way, m.plain("not IP", nil, tags, 0x88b5, size), true)
		}
		for _, v6 := range []bool{false, true} {
			// Super-frames of TCP are cut to fit; of UDP they must fit as they are, whatever hdr_len says.
			p := packet{v6: v6, tags: tags, proto: protoTCP, flags: ack, df: true, sum: partial}
			p.mss = w.inner + 14 + 4*min(1, len(tags)) - p.headers()
			p.payload = m.bytes(min(10*p.mss, 60_000))
			m.next()
			w.passesOrNot(t, way, m.ip("super-frame of TCP", p), true)
			p.proto = protoUDP
			for _, more := range []int{0, 1} {
				p.mss = limit + more - p.headers()
				p.payload = m.bytes(10 * p.mss)
				for _, hint := range []int{p.headers(), 0, 1000} {
					m.next()
					s := m.ip(fmt.Sprintf("super-frame of UDP, %d in a frame, hdr_len %d", p.mss, hint), p)
					s.hdr.HdrLen = uint16(hint)
					w.passesOrNot(t, way, s, more == 0)
				}
			}
		}
		// An error is never answered by an error: it goes in fragments.
		m.next()
		e := m.sized("ICMP error", packet{tags: tags, proto: protoICMP, df: true}, limit+50)
		l, err := look(e.frame)
		require.NoError(t, err)
		e.frame[l.l4] = 3
		e.frame[l.l4+2], e.frame[l.l4+3] = 0, 0
		binary.BigEndian.PutUint16(e.frame[l.l4+2:], ^sum16(e.frame[l.l4:l.end]))
		w.passesOrNot(t, way, e, true)
	}
	w.sync(t)
}

// passesOrNot sends a frame, and checks that it comes out, or that its sender is told what fits.
func (w *world) passesOrNot(t *testing.T, way int, s shot, passes bool) {
	t.Helper()
	x := w.sides[way]
	if passes {
		for _, e := range w.shoot(t.Context(), &settings[0], x, w.sides[1-way], w.expect(t, []shot{s}, false)) {
			t.Errorf("%s", e)
		}
		return
	}
	require.NoError(t, x.tap.send(s))
	list, err := x.inbox.take(soon(t), 1)
	require.NoError(t, err, "%s: no answer; %s", s.name, w.drops())
	require.Len(t, list, 1)
	require.NoError(t, w.isAnswer(s, list[0].frame), "%s: answer %x", s.name, list[0].frame)
}

// isAnswer checks the frame that tells what fits.
func (w *world) isAnswer(s shot, a []byte) error {
	if err := unfinished(a); err != nil {
		return err
	}
	asked, err := look(s.frame)
	if err != nil {
		return err
	}
	l, err := look(a)
	if err != nil {
		return err
	}
	if wire.Source(a) != wire.Destination(s.frame) || wire.Destination(a) != wire.Source(s.frame) || l.l3 != asked.l3 ||
		string(a[12:l.l3]) != string(s.frame[12:l.l3]) {
		return errors.New("wrong MACs or tags")
	}
	askedFrom, askedTo := asked.addresses(s.frame)
	if from, to := l.addresses(a); string(from) != string(askedTo) || string(to) != string(askedFrom) {
		return errors.New("wrong addresses")
	}
	mtu := w.innerMTU() - (l.l3 - 14)
	icmp := a[l.l4:l.end]
	quote := s.frame[asked.l3:]
	switch {
	case l.v6 != asked.v6 || l.fragment:
		return errors.New("wrong IP")
	case l.v6 && (l.proto != protoICMPv6 || icmp[0] != 2 || icmp[1] != 0 || int(binary.BigEndian.Uint32(icmp[4:])) != mtu):
		return fmt.Errorf("no ICMPv6 packet too big, %d", mtu)
	case !l.v6 && (l.proto != protoICMP || icmp[0] != 3 || icmp[1] != 4 || int(binary.BigEndian.Uint16(icmp[6:])) != mtu):
		return fmt.Errorf("no ICMP fragmentation needed, %d", mtu)
	}
	// RFC 792 wants 8 bytes behind the IP header; RFC 4443 all that fits in 1280.
	least := 20 + 8
	if l.v6 {
		least = min(len(quote), 1280-40-8)
	}
	if n := len(icmp) - 8; n < least || n > len(quote) || string(icmp[8:]) != string(quote[:n]) {
		return fmt.Errorf("quotes %d bytes of %d, or others", n, len(quote))
	}
	return nil
}

// clamped checks that the MSS that opens a connection is lowered to what fits, on the way out and in.
func (w *world) clamped(t *testing.T, way int) {
	t.Helper()
	w.wire.during("MSS")
	m := w.sides[way].maker
	for _, tags := range [][]tag{untagged, vlan} {
		for _, v6 := range []bool{false, true} {
			fits := w.innerMTU() - 40 - 4*len(tags)
			if v6 {
				fits -= 20
			}
			for _, c := range []struct {
				before []byte // options in front of the MSS
				mss    int
				flags  uint8
				dst    *wire.MAC
			}{
				{nil, fits + 1, syn, nil}, {nil, 65535, syn | ack, nil}, {[]byte{1}, 8960, syn, nil},
				{nil, fits, syn, nil}, {nil, 536, syn | ack, nil},
				{nil, 9000, ack, nil}, // not the place of the option
				{nil, 9000, syn, &unknown},
			} {
				for _, sum := range []checksum{done, partial} {
					options := func(mss int) []byte {
						o := binary.BigEndian.AppendUint16(append(append([]byte(nil), c.before...), 2, 4), uint16(mss))
						return append(o, make([]byte, 12-len(o))...)
					}
					p := packet{v6: v6, tags: tags, proto: protoTCP, flags: c.flags, opts: options(c.mss), dst: c.dst}
					want := p
					if c.flags&syn != 0 {
						want.opts = options(min(c.mss, fits))
					}
					p.sum = sum
					m.next()
					s := m.ip(fmt.Sprintf("MSS %d, six %t, tags %04x, flags %02x", c.mss, v6, tags, c.flags), p)
					e := expected{&s, [][]byte{m.ip("", want).frame}}
					for _, e := range w.shoot(t.Context(), &settings[0], w.sides[way], w.sides[1-way], []expected{e}) {
						t.Errorf("%s", e)
					}
				}
			}
		}
	}
	w.sync(t)
}

// guestsLearn lets kernels find out what fits, and use it.
func (w *world) guestsLearn(t *testing.T, s *setting, rec [2]*record) {
	t.Helper()
	w.wire.during("guests, " + s.name)
	w.wire.takeSplit()
	ctx := soon(t)
	for way, x := range w.sides {
		y := w.sides[1-way]
		for _, p := range y.guest.Spec.Addrs {
			header := 28
			if p.Addr().Is6() {
				header = 48
			}
			// The kernel may know from before what fits, and refuse.
			mtu, err := pathMTU(ctx, x.guest, p.Addr(), w.inner-header)
			require.NoError(t, err, w.drops())
			require.Equal(t, w.innerMTU(), mtu, "to %s", p.Addr())
			_, err = x.guest.Ping(ctx, p.Addr(), lab.PingOptions{Size: mtu - header, DontFragment: true})
			require.NoError(t, err, w.drops())
			_, err = lab.Transfer(ctx, x.guest.Node, y.guest.Node, p.Addr(), transferSize)
			require.NoError(t, err, w.drops())
			for _, size := range []int{mtu - header, 1000} {
				_, err := datagrams(ctx, x.guest, y.guest, p.Addr(), size, true)
				require.NoError(t, err, w.drops())
			}
		}
	}
	w.sync(t)
	for _, r := range rec { // with what was refused it is another matter
		r.takeLeft()
		_, err := r.in.take(ctx, 0)
		require.NoError(t, err)
	}
	require.Empty(t, w.wire.takeSplit(), "TCP packets with fragments")
}

// pathMTU sends datagrams that may not be fragmented until the kernel has learned what fits.
func pathMTU(ctx context.Context, d *lab.Domain, to netip.Addr, size int) (mtu int, err error) {
	err = d.Do(func() error {
		family, level, discover, ask := unix.AF_INET, unix.SOL_IP, unix.IP_MTU_DISCOVER, unix.IP_MTU
		var addr unix.Sockaddr
		if to.Is4() {
			addr = &unix.SockaddrInet4{Port: 9, Addr: to.As4()}
		} else {
			family, level, discover, ask = unix.AF_INET6, unix.SOL_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_MTU
			addr = &unix.SockaddrInet6{Port: 9, Addr: to.As16()}
		}
		fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		if err := errors.Join(unix.SetsockoptInt(fd, level, discover, unix.IP_PMTUDISC_DO), unix.Connect(fd, addr)); err != nil {
			return err
		}
		for ctx.Err() == nil {
			_, err := unix.Write(fd, make([]byte, size))
			if errors.Is(err, unix.EMSGSIZE) {
				mtu, err = unix.GetsockoptInt(fd, level, ask)
				return err
			}
			if err != nil && !errors.Is(err, unix.ECONNREFUSED) {
				return err
			}
		}
		return errors.New("the kernel does not learn what fits")
	})
	return mtu, err
}
