package esp

import (
	"encoding/hex"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/xenvnet/xend/dataplane/wire"
	"github.com/xenvnet/xend/vnet"
)

// TestChallengesDieWithSA: what answered a challenge once makes no second SA after the first was removed.
func TestChallengesDieWithSA(t *testing.T) {
	w := newWorld(t, 1, vnet.Conf, 2)
	w.pass(time.Second, true)
	a, b := w.hosts[0], w.hosts[1]
	number, _ := a.frame(0, nil)
	w.settle()
	require.True(t, b.taken[number])
	recorded := slices.Clone(w.tape)
	require.NoError(t, b.vnet.SetKeys([]Secret{otherKey}, 0, b.clock()))
	require.Empty(t, b.vnet.senders)
	require.NoError(t, b.vnet.SetKeys([]Secret{testSecret}, 0, b.clock()))
	for _, p := range recorded {
		b.receive(p) // fails if the frame is taken once more
	}
	require.Empty(t, b.vnet.senders)
}

// puppet is a sender whose every message the test makes.
type puppet struct {
	key      *vnetKey
	instance [16]byte
	number   uint64
}

func (p *puppet) say(s *Sending, echo [16]byte) []byte {
	p.number++
	m := wire.Key{
		KID: p.key.kid, Level: levelOf(s.level), Instance: p.instance, Nonce: s.nonce, Epoch: s.epoch, SPI: s.spi, Number: p.number,
		Echo: echo, Lanes: len(s.lanes), Addr4: netip.MustParseAddr("10.9.0.9"),
	}
	for i := range s.lanes {
		m.Next[i] = s.lanes[i].next.Load()
	}
	return p.key.sign(m.Append(nil), 0)
}

// TestHeldBackKey: a KEY about an epoch that was given up makes no SA, though it is the newest that is known of its sender.
func TestHeldBackKey(t *testing.T) {
	w := newWorld(t, 2, vnet.Auth, 1)
	r := w.hosts[0]
	w.pass(time.Second, false)
	start := w.now
	p := &puppet{key: newVnetKey(testSecret, testID), instance: [16]byte{1}}
	spi := uint32(p.key.kid[0]) << 24
	one := newSending(p.key, vnet.Auth, [16]byte{1}, 1, spi|0x100, 2, 0)
	two := newSending(p.key, vnet.Auth, [16]byte{2}, 2, spi|0x200, 2, 0)
	hear := func(b []byte) Refusal {
		v, _ := r.table.Message(b, Arrival{Unicast: true, From: netip.MustParseAddrPort("10.9.0.9:4500")}, r.clock(), nil)
		return v.Refusal
	}
	r.vnet.mu.Lock()
	echo := r.vnet.challengeLocked(r.clock())
	r.vnet.mu.Unlock()
	first, second := p.say(one, echo), p.say(two, echo)
	held := p.say(one, [16]byte{})
	frame := func(s *Sending) []byte {
		b, err := s.Flooded(0).Append(make([]byte, Headroom), wire.AppendVUDP(nil, testID), make([]byte, 22))
		require.NoError(t, err)
		return b[Headroom:]
	}
	old := frame(one)
	require.Equal(t, Taken, hear(first))
	_, refusal := r.table.Open(&r.opener, slices.Clone(old), 0)
	require.Equal(t, Taken, refusal)
	w.pass(35*time.Second, false)
	require.Equal(t, Taken, hear(second))
	w.pass(90*time.Second, false)
	require.Greater(t, w.now-start, saTTL)
	require.Len(t, r.vnet.sas, 1, "the first epoch was given up, the sender not")
	require.Equal(t, KeyUnconfirmed, hear(held))
	_, refusal = r.table.Open(&r.opener, slices.Clone(old), 0)
	require.Equal(t, UnknownSPI, refusal)
}

// TestKeysNotTaken: a KEY that is not the newest of its sender, or contradicts what it said before, changes nothing; nor does one
// where the table is full, from which nobody is turned out.
func TestKeysNotTaken(t *testing.T) {
	w := newWorld(t, 13, vnet.Conf, 1)
	r := w.hosts[0]
	v := r.vnet
	w.pass(time.Second, false)
	echo := func() [16]byte {
		v.mu.Lock()
		defer v.mu.Unlock()
		return v.challengeLocked(r.clock())
	}
	hear := func(b []byte) Refusal {
		verdict, _ := r.table.Message(b, Arrival{Unicast: true, From: netip.MustParseAddrPort("10.9.0.9:4500")}, r.clock(), nil)
		return verdict.Refusal
	}
	p := &puppet{key: newVnetKey(testSecret, testID), instance: [16]byte{1}}
	spi := uint32(p.key.kid[0]) << 24
	one := newSending(p.key, vnet.Conf, [16]byte{1}, 1, spi|0x100, 2, 0)
	first := p.say(one, echo())
	require.Equal(t, Taken, hear(first))
	newer := p.say(one, [16]byte{})
	require.Equal(t, Taken, hear(newer))
	lanes := v.sas[[16]byte{1}].lanes
	before := lanes[0].window
	require.Equal(t, KeyOld, hear(newer), "once more")
	one.lanes[0].next.Store(1000)
	for name, s := range map[string]*Sending{
		"another N for the epoch": newSending(p.key, vnet.Conf, [16]byte{2}, 1, spi|0x200, 2, 0),
		"another SPI":             newSending(p.key, vnet.Conf, [16]byte{1}, 1, spi|0x300, 2, 0),
		"other lanes":             newSending(p.key, vnet.Conf, [16]byte{1}, 1, spi|0x100, 4, 0),
		"another epoch":           newSending(p.key, vnet.Conf, [16]byte{1}, 7, spi|0x100, 2, 0),
	} {
		require.Equal(t, KeyOld, hear(p.say(s, echo())), name)
		require.Equal(t, before, lanes[0].window, name)
		require.Len(t, v.sas, 1, name)
	}

	many := func(from, to int, block func(int) uint32) (last Refusal) {
		for i := from; i < to; i++ {
			q := &puppet{key: p.key, instance: [16]byte{2, byte(i >> 8), byte(i)}}
			last = hear(q.say(newSending(p.key, vnet.Conf, [16]byte{3, byte(i >> 8), byte(i)}, 1, spi|block(i)<<8, 2, 0), echo()))
		}
		return last
	}
	require.Equal(t, Taken, many(0, maxCandidates, func(int) uint32 { return 0x777 }))
	require.Equal(t, SendersFull, many(maxCandidates, maxCandidates+1, func(int) uint32 { return 0x777 }), "too many share an SPI")
	require.Equal(t, Taken, many(maxCandidates, maxSAs-1, func(i int) uint32 { return 0x1000 + uint32(i) }))
	require.Len(t, v.sas, maxSAs)
	require.Equal(t, SendersFull, many(maxSAs, maxSAs+10, func(i int) uint32 { return 0x1000 + uint32(i) }))
	require.Len(t, v.sas, maxSAs)
	require.Contains(t, v.sas, [16]byte{1}, "nobody is turned out")
}

// TestBoundedDelay: what was sealed before a mark that is old enough is not taken, though its place in the window is free.
func TestBoundedDelay(t *testing.T) {
	w := newWorld(t, 3, vnet.Conf, 2)
	w.pass(time.Second, true)
	a, b := w.hosts[0], w.hosts[1]
	a.frame(0, nil)
	late := w.air[len(w.air)-1]
	w.air = nil
	w.pass(50*time.Second, true)
	_, refusal := b.table.Open(&b.opener, late.data, 0)
	require.Equal(t, Replay, refusal)
}

// TestRemoval: nobody stays who does not prove to live, nor an epoch of which nothing is heard.
func TestRemoval(t *testing.T) {
	w := newWorld(t, 4, vnet.Conf, 2)
	w.pass(time.Second, true)
	b := w.hosts[1]
	require.Len(t, b.vnet.senders, 1)
	a := w.hosts[0]
	w.hosts = w.hosts[1:]
	for range 13 { // KEYs without an echo do not help
		w.pass(10*time.Second, false)
		out := a.vnet.Tick(a.clock(), nil)
		for _, m := range out {
			b.receive(packet{netip.AddrPortFrom(a.addr, 4500), netip.AddrPort{}, m.Data})
		}
	}
	require.Empty(t, b.vnet.senders)
	require.Empty(t, b.table.view.Load().sas)
}

// TestLanes: no two threads and flows share a lane, however many there are, and what does not fit is refused.
func TestLanes(t *testing.T) {
	k := newVnetKey(testSecret, testID)
	for threads := 1; threads <= wire.MaxLanes/2; threads++ {
		for _, flows := range []int{0, 1, 2, MaxFlows(threads)} {
			c := Config{Level: vnet.Conf, Keys: []Secret{testSecret}, Threads: threads, Flows: flows}
			if flows > MaxFlows(threads) {
				require.Error(t, c.validate(), "%d threads, %d flows", threads, flows)
				continue
			}
			require.NoError(t, c.validate())
			s := &Sending{key: k, lanes: make([]Lane, c.lanes()), threads: threads}
			used := map[*Lane]bool{}
			for thread := range threads {
				lanes := []*Lane{s.Flooded(thread), s.Unicast(thread, 0)}
				for flow := 1; flow < flows && thread < threads-1; flow++ {
					lanes = append(lanes, s.Unicast(thread, flow))
				}
				for _, l := range lanes {
					require.False(t, used[l])
					used[l] = true
				}
			}
			require.Len(t, used, c.lanes(), "%d threads, %d flows", threads, flows)
		}
	}
	require.Error(t, Config{Level: vnet.Conf, Keys: []Secret{testSecret}, Threads: wire.MaxLanes/2 + 1}.validate())
}

// TestSealingStops: a sending SA is not used when its timers did not run, nor a lane beyond its numbers.
func TestSealingStops(t *testing.T) {
	w := newWorld(t, 5, vnet.Conf, 1)
	h := w.hosts[0]
	w.now += sealLife
	require.Nil(t, h.vnet.Sending(h.clock()))
	h.vnet.Tick(h.clock(), nil)
	s := h.vnet.Sending(h.clock())
	require.NotNil(t, s)
	s.Flooded(0).next.Store(hardPackets)
	b, err := s.Flooded(0).Append(make([]byte, Headroom), []byte("x"))
	require.ErrorIs(t, err, ErrExhausted)
	require.Len(t, b, Headroom)
	// A lane that has carried much ends the epoch long before.
	s.Unicast(1, 0).next.Store(volumePackets)
	w.pass(12*time.Second, true)
	next := h.vnet.Sending(h.clock())
	require.NotSame(t, s, next)
	w.pass(12*time.Second, true)
	require.Same(t, next, h.vnet.Sending(h.clock()), "one that has carried little goes on")
	next.Unicast(1, 0).bytes.Store(volumeBytes) // in few packets
	w.pass(12*time.Second, true)
	require.NotSame(t, next, h.vnet.Sending(h.clock()))
}

// TestLevels: a sender of the other level is told apart, and none of its packets is taken.
func TestLevels(t *testing.T) {
	w := newWorld(t, 6, vnet.Conf, 2)
	b := w.hosts[1]
	w.level = vnet.Auth
	b.start()
	w.pass(3*time.Second, true)
	require.Empty(t, b.vnet.senders)
	require.NotZero(t, b.refused[KeyLevel])
	w.hosts[0].frame(0, nil)
	w.settle()
	require.NotZero(t, b.refused[UnknownSPI])
}

// TestWorkers: copies of packets that several threads open at once, mixed up, are taken once each.
func TestWorkers(t *testing.T) {
	for _, level := range []vnet.Security{vnet.Auth, vnet.Conf} {
		w := newWorld(t, 7, level, 2)
		w.pass(time.Second, true)
		a, b := w.hosts[0], w.hosts[1]
		s := a.vnet.Sending(a.clock())
		var packets [][]byte
		for i := range 3000 {
			lane := s.Unicast(i/100%2, 0)
			if i%3 == 0 {
				lane = s.Flooded(i % 2)
			}
			p, err := lane.Append(make([]byte, Headroom), wire.AppendVUDP(nil, testID), make([]byte, 60))
			require.NoError(t, err)
			packets = append(packets, p)
		}
		var taken, other atomic.Int64
		var group sync.WaitGroup
		for worker := range 4 {
			group.Go(func() {
				var o Opener
				for i := 0; i < len(packets); {
					train := make([]byte, Headroom)
					for range 1 + i%5 { // of one lane, or not
						train = append(train, packets[(i*7+worker*50)%len(packets)][Headroom:]...)
						i++
					}
					for at := Headroom; at < len(train); {
						var opened []Opened
						opened, at = b.table.OpenTrain(&o, train, at, len(packets[0])-Headroom)
						for i := range opened {
							switch opened[i].Refusal {
							case Taken:
								taken.Add(1)
							case Replay:
							default:
								other.Add(1)
							}
						}
					}
				}
			})
		}
		group.Wait()
		require.EqualValues(t, len(packets), taken.Load())
		require.Zero(t, other.Load())
	}
}

// TestTrain: whatever a train is made of, each of its packets becomes what it becomes alone.
func TestTrain(t *testing.T) {
	for _, level := range []vnet.Security{vnet.Auth, vnet.Conf} {
		w := newWorld(t, 14, level, 3)
		w.pass(time.Second, true)
		a, alone, together := w.hosts[0], w.hosts[1], w.hosts[2]
		s := a.vnet.Sending(a.clock())
		const length = 100
		size := wire.ESPLen(wire.VUDPLen + length)
		seen := map[Refusal]int{}
		longest := 0
		var before [][]byte
		for range 300 {
			room := Headroom * w.rng.IntN(2)
			train, lane := make([]byte, room), s.Unicast(w.rng.IntN(2), 0)
			var want []Opened
			for range w.rng.IntN(2 * maxLot) {
				id := testID
				switch w.rng.IntN(30) {
				case 0:
					lane = s.Flooded(w.rng.IntN(2))
				case 1:
					id[3]++
				}
				p, err := lane.Append(make([]byte, Headroom), wire.AppendVUDP(nil, id), make([]byte, length-w.rng.IntN(2)))
				require.NoError(t, err)
				p = p[Headroom:]
				switch w.rng.IntN(20) {
				case 0:
					if len(before) > 0 {
						p = before[w.rng.IntN(len(before))] // maybe of this train
					}
				case 1:
					p[len(p)-1] ^= 4
				case 2:
					clear(p[:4]) // no SPI
				case 3:
					p[1] ^= 4 // another
				default:
					before = append(before, slices.Clone(p))
				}
				train = append(train, p...)
				opened, _ := alone.table.Open(&alone.opener, slices.Clone(p), 0)
				opened.Message = slices.Clone(opened.Message)
				want = append(want, opened)
			}
			for at := room; at < len(train); {
				opened, next := together.table.OpenTrain(&together.opener, train, at, size)
				require.Equal(t, min(len(train), at+len(opened)*size), next)
				at, longest = next, max(longest, len(opened))
				for i := range opened {
					require.Equal(t, want[i].Refusal, opened[i].Refusal)
					if seen[want[i].Refusal]++; want[i].Refusal == Taken {
						require.Equal(t, want[i].Message, opened[i].Message)
						require.Same(t, together.vnet, opened[i].Vnet)
					}
				}
				want = want[len(opened):]
			}
			require.Empty(t, want)
		}
		for _, r := range []Refusal{Taken, Malformed, UnknownSPI, Replay, WrongICV, WrongVnet} {
			require.NotZero(t, seen[r], r)
		}
		require.Greater(t, longest, 20)
		require.Equal(t, alone.vnet.Status(w.now).Refused, together.vnet.Status(w.now).Refused)
	}
}

// TestWindow: whatever order numbers come in, early, late, twice or made up, the window takes each at most once, none from before
// the floor, and each new one that is not too late: like a set that forgets nothing.
func TestWindow(t *testing.T) {
	for seed := range uint64(200) {
		rng := rand.New(rand.NewPCG(seed, 4096))
		first := 1 + rng.Uint64N(1<<40)
		w := newWindow(first)
		floor, marks, top := int64(first), int64(first), int64(first)-1
		taken := map[int64]bool{}
		for range 3000 {
			q := top + 1 + rng.Int64N(3)
			switch rng.IntN(10) {
			case 0:
				q = top - rng.Int64N(2*windowSize) // late
			case 1:
				q = top + rng.Int64N(3*windowSize) // after a loss
			case 2:
				q = top - rng.Int64N(16) // as when flooded and unicast copies overtake each other
			case 3: // a newer KEY
				next, due := uint64(top)+uint64(rng.IntN(100)), rng.IntN(2) == 0
				w.hear(next, due)
				if due {
					floor, marks = max(floor, marks), max(marks, int64(next))
				}
				continue
			}
			if q < 1 {
				continue
			}
			want := !taken[q] && q >= floor && q > top-windowSize
			got := w.infer(uint32(q)) == q && w.fresh(q)
			require.Equal(t, want, got, "seed %d: %d, floor %d, top %d", seed, q, floor, top)
			if got {
				w.take(q)
				taken[q], top = true, max(top, q)
			}
		}
	}
}

// TestSharedSPI: two senders that drew one SPI are both heard.
func TestSharedSPI(t *testing.T) {
	for _, level := range []vnet.Security{vnet.Auth, vnet.Conf} {
		w := newWorld(t, 8, level, 1)
		r := w.hosts[0]
		var sendings []*Sending
		for i := range byte(2) {
			p := &puppet{key: newVnetKey(testSecret, testID), instance: [16]byte{i}}
			s := newSending(p.key, level, [16]byte{i}, 1, uint32(p.key.kid[0])<<24|0x100, 2, 0)
			r.vnet.mu.Lock()
			echo := r.vnet.challengeLocked(r.clock())
			r.vnet.mu.Unlock()
			v, _ := r.table.Message(p.say(s, echo), Arrival{}, r.clock(), nil)
			require.Equal(t, Taken, v.Refusal)
			sendings = append(sendings, s)
		}
		for _, s := range sendings {
			for range 3 {
				b, err := s.Unicast(0, 0).Append(make([]byte, Headroom), wire.AppendVUDP(nil, testID), make([]byte, 22))
				require.NoError(t, err)
				opened, refusal := r.table.Open(&r.opener, b, Headroom)
				require.Equal(t, Taken, refusal)
				require.Equal(t, append(wire.AppendVUDP(nil, testID), make([]byte, 22)...), opened.Message)
				r.opener.buffer = append(r.opener.buffer[:0], 1, 2, 3)
				require.Len(t, opened.Message, wire.VUDPLen+22)
				require.Equal(t, b[Headroom+24:][:len(opened.Message)], opened.Message, "in the packet's own buffer")
			}
		}
	}
}

// TestCareOf: a member announces no MAC for another host.
func TestCareOf(t *testing.T) {
	w := newWorld(t, 9, vnet.Conf, 2)
	w.pass(time.Second, true)
	a, b := w.hosts[0], w.hosts[1]
	for _, c := range []struct {
		addr string
		want Refusal
	}{{"10.9.0.1", Taken}, {"0.0.0.0", Taken}, {"10.9.0.2", WrongInner}, {"fd00::1", WrongInner}} {
		m := wire.VARP{Opcode: wire.Announce, Vnet: testID, MAC: wire.MAC{2}, CareOf: netip.MustParseAddr(c.addr)}
		p, err := a.vnet.Sending(a.clock()).Flooded(1).Append(make([]byte, Headroom), m.Append(nil))
		require.NoError(t, err)
		_, refusal := b.table.Open(&b.opener, p, Headroom)
		require.Equal(t, c.want, refusal, c.addr)
	}
}

// TestGrowingBuffer: packets that were sealed stay whole when the buffer behind them has to grow.
func TestGrowingBuffer(t *testing.T) {
	w := newWorld(t, 12, vnet.Auth, 2)
	w.pass(time.Second, true)
	a, b := w.hosts[0], w.hosts[1]
	buf := make([]byte, Headroom)
	var packets [][]byte
	for i := range 100 {
		at := len(buf)
		var err error
		buf, err = a.vnet.Sending(a.clock()).Unicast(0, 0).Append(buf, wire.AppendVUDP(nil, testID), make([]byte, 60+i))
		require.NoError(t, err)
		packets = append(packets, buf[at:len(buf):len(buf)])
	}
	for _, p := range packets {
		_, refusal := b.table.Open(&b.opener, p, 0)
		require.Equal(t, Taken, refusal)
	}
}

// TestNIST: AES-256-GCM as such: test cases 13, 14 and 16 of the specification of GCM, and one of NIST's for GMAC.
func TestNIST(t *testing.T) {
	x := func(s string) []byte {
		b, err := hex.DecodeString(s)
		require.NoError(t, err)
		return b
	}
	for _, c := range []struct{ key, iv, aad, plain, sealed string }{
		{"0000000000000000000000000000000000000000000000000000000000000000", "000000000000000000000000", "", "",
			"530f8afbc74536b9a963b4f1c4cb738b"},
		{"0000000000000000000000000000000000000000000000000000000000000000", "000000000000000000000000", "", "00000000000000000000000000000000",
			"cea7403d4d606b6e074ec5d3baf39d18d0d1c8a799996bf0265b98b5d48ab919"},
		{"feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308", "cafebabefacedbaddecaf888", "feedfacedeadbeeffeedfacedeadbeefabaddad2",
			"d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a721c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39",
			"522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f66276fc6ece0f4e1768cddf8853bb2d551b"},
		{"78dc4e0aaf52d935c3c01eea57428f00ca1fd475f5da86a49c8dd73d68c8e223", "d79cf22d504cc793c3fb6c8a", "b96baa8c1c75a671bfb2d08d06be5f36", "",
			"3e5d486aa2e30b22e040b85723a06e76"},
	} {
		k := laneKeyOf(x(c.key))
		require.Equal(t, c.sealed, hex.EncodeToString(k.Seal(nil, x(c.iv), x(c.plain), x(c.aad))))
	}
}

// TestPublished: whole ESP packets that others made. Those of conf are the cases of AES-256 with extended sequence numbers in
// draft-mcgrew-gcm-test-01 (RFC 4106); it has none for AES-256-GMAC, and that of auth (RFC 4543) was made of the first with
// OpenSSL by Python's cryptography 48, which reproduces that one, too.
func TestPublished(t *testing.T) {
	const key, salt = "abbccddef00112233445566778899aababbccddef00112233445566778899aab", "73616c74"
	const sequence = 0x156f3126dd0db99b
	x := func(s string) []byte {
		b, err := hex.DecodeString(s)
		require.NoError(t, err)
		return b
	}
	for _, c := range []struct {
		level           vnet.Security
		packet, content string
	}{
		{vnet.Conf, "17405e67dd0db99b616e640169766563f2d69ecdbd5a0d5b8d5ef38bad4da58d1f278fde98ef67549d524a3018d9a57f" +
			"f4d3a31ce673119e451626c2415771e3b7eebca614c89b35",
			"45080028732c00004006e9f90a0106120a01038f06b88023dd6bafbecb71260250101f646d540001"},
		{vnet.Conf, "17405e67dd0db99b616e640169766563d4b7ed86a1777f2ea13d6973d324c69e7b43f826fb56831226508bebd2dceb18" +
			"d0a6df10e5487df074113e14c641024e3e6773d91a62ee429b043a10e3efe6b012a49363412364f8c0cac587f249e56b11e24f30e44ccc76",
			"636973636f0172756c657301746865016e6574776501646566696e6501746865746563686e6f6c6f6769657301746861" +
				"7477696c6c01646566696e65746f6d6f72726f7701020201"},
		{vnet.Auth, "17405e67dd0db99b616e64016976656345080028732c00004006e9f90a0106120a01038f06b88023dd6bafbecb712602" +
			"50101f646d540001abade6838f3e3ae57d8d13e4e393a1b6",
			"45080028732c00004006e9f90a0106120a01038f06b88023dd6bafbecb71260250101f646d540001"},
	} {
		for _, room := range []int{0, Headroom} {
			sa := &receiving{vnet: &Vnet{level: c.level}, spi: 0x17405e00, lanes: make([]receivingLane, 0x68)}
			lane := &sa.lanes[0x67]
			lane.key = laneKey{aead: laneKeyOf(x(key)), salt: [4]byte(x(salt))}
			lane.window = newWindow(sequence)
			buf := append(make([]byte, room), x(c.packet)...)
			spi, low, err := wire.DecodeESP(buf[room:])
			require.NoError(t, err)
			require.EqualValues(t, 0x17405e67, spi)
			var o Opener
			o.lot = []sealedPacket{{at: room, end: len(buf), low: low}}
			sa.open(&o, 0x67, slices.Clone(buf), false)
			require.Equal(t, Taken, o.lot[0].refusal)
			require.Equal(t, c.content, hex.EncodeToString(o.lot[0].content))
			sa.open(&o, 0x67, buf, false)
			require.Equal(t, Replay, o.lot[0].refusal)
		}
	}
}

func TestNothingAllocated(t *testing.T) {
	for _, level := range []vnet.Security{vnet.Auth, vnet.Conf} {
		w := newWorld(t, 10, level, 2)
		w.pass(time.Second, true)
		a, b := w.hosts[0], w.hosts[1]
		lane := a.vnet.Sending(a.clock()).Unicast(0, 0)
		buf := make([]byte, Headroom, 4096)
		pieces := [][]byte{wire.AppendVUDP(nil, testID), make([]byte, 1514)}
		seal := func() []byte {
			p, err := lane.Append(buf, pieces...)
			if err != nil {
				panic(err)
			}
			return p
		}
		open := func() {
			if _, r := b.table.Open(&b.opener, seal(), Headroom); r != Taken {
				panic(r)
			}
		}
		open()
		require.Zero(t, testing.AllocsPerRun(200, open), level)
	}
}

func BenchmarkSeal(b *testing.B) { benchTrain(b, false) }
func BenchmarkOpen(b *testing.B) { benchTrain(b, true) }

// benchTrain seals or opens trains of 64 KiB: as many frames as a TCP super-frame becomes on a path of 1500. "best" is the
// shortest that a train took: it is what a machine that others use can tell.
func benchTrain(b *testing.B, open bool) {
	const frames = 45
	for _, level := range []vnet.Security{vnet.Auth, vnet.Conf} {
		b.Run(level.String(), func(b *testing.B) {
			w := newWorld(b, 1, level, 2)
			w.pass(time.Second, true)
			lane := w.hosts[0].vnet.Sending(w.now).Unicast(0, 0)
			pieces := [][]byte{append(wire.AppendVUDP(nil, testID), make([]byte, 66)...), make([]byte, 1342)}
			r := w.hosts[1]
			buf := make([]byte, Headroom, 1<<17)
			best := time.Hour
			b.SetBytes(frames * 1408)
			for b.Loop() {
				began := time.Now()
				train := buf
				for range frames {
					train, _ = lane.Append(train, pieces...)
				}
				if open {
					began = time.Now()
					for at := len(buf); at < len(train); {
						var opened []Opened
						opened, at = r.table.OpenTrain(&r.opener, train, at, wire.ESPLen(len(pieces[0])+len(pieces[1])))
						for i := range opened {
							if opened[i].Refusal != Taken {
								b.Fatal(opened[i].Refusal)
							}
						}
					}
				}
				best = min(best, time.Since(began))
			}
			b.ReportMetric(float64(best.Nanoseconds()), "best-ns/train")
		})
	}
}

// FuzzTable: whatever comes is refused, and nothing is learned from it.
func FuzzTable(f *testing.F) {
	v := loadVectors(f)
	for _, b := range v.Bad {
		f.Add([]byte(b.Packet))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		w := newWorld(t, 1, vnet.Auth, 1)
		h := w.hosts[0]
		b = slices.Clone(b)
		if wire.DecodeSecured(b) == wire.SecuredMessage {
			verdict, out := h.table.Message(b[wire.MarkerLen:], Arrival{}, h.clock(), nil)
			require.NotEqual(t, Taken, verdict.Refusal)
			require.Empty(t, out)
		} else if _, refusal := h.table.Open(&h.opener, b, 0); refusal == UnknownSPI {
			require.LessOrEqual(t, len(h.table.AskSender(binaryUint32(b), len(b), Arrival{From: netip.MustParseAddrPort("10.0.0.1:1")}, h.clock(), nil)), 1)
		} else {
			require.Equal(t, Malformed, refusal)
		}
		require.Empty(t, h.vnet.senders)
	})
}
