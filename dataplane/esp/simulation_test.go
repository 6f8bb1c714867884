package esp

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/xenvnet/xend/dataplane/wire"
	"github.com/xenvnet/xend/vnet"
)

var (
	testID     = vnet.ID{15: 0x97}
	testSecret = Secret{1, 2, 3}
	otherKey   = Secret{4, 5, 6}
)

// world is a network of hosts with one clock, in which the test is the network: it delivers, drops, delays, reorders and
// repeats.
type world struct {
	t     testing.TB
	rng   *rand.Rand
	now   int64
	level vnet.Security
	hosts []*simHost
	air   []packet // under way
	tape  []packet // all that ever was sent
	// extra of each key and nonce is the numbers that were sealed with them.
	sealed map[string]bool
	frames map[uint64]simFrame
}

type packet struct {
	from, to netip.AddrPort // to: the zero AddrPort for all
	data     []byte
}

type simFrame struct {
	sender int
	at     int64
}

type simHost struct {
	world   *world
	number  int
	addr    netip.Addr
	table   *Table
	vnet    *Vnet
	opener  Opener
	started int64
	keys    []Secret
	send    int
	skew    int64 // of its clock
	taken   map[uint64]bool
	refused [Refusals]int
}

func newWorld(t testing.TB, seed uint64, level vnet.Security, hosts int) *world {
	w := &world{
		t: t, rng: rand.New(rand.NewPCG(seed, 97)), now: int64(time.Hour), level: level,
		sealed: map[string]bool{}, frames: map[uint64]simFrame{},
	}
	for i := range hosts {
		h := &simHost{
			world: w, number: i, addr: netip.AddrFrom4([4]byte{10, 9, 0, byte(i + 1)}), keys: []Secret{testSecret}, taken: map[uint64]bool{},
		}
		w.hosts = append(w.hosts, h)
		h.start()
	}
	return w
}

func (w *world) random(b []byte) {
	for i := range b {
		b[i] = byte(w.rng.Uint32())
	}
}

// start begins a life: nothing of the one before is left.
func (h *simHost) start() {
	h.table = NewTable(h.world.random)
	h.started = h.world.now
	var err error
	h.vnet, err = h.table.Add(Config{
		ID: testID, Level: h.world.level, Keys: h.keys, Send: h.send, Threads: 2, Addresses: Addresses{Addr4: h.addr},
	}, h.clock())
	require.NoError(h.world.t, err)
}

func (h *simHost) clock() int64 { return h.world.now + h.skew }

func (h *simHost) emit(out []Message) {
	for _, m := range out {
		to := m.To
		if to.IsValid() && to.Port() == 0 {
			to = netip.AddrPortFrom(to.Addr(), wire.SecurityPort)
		}
		h.world.emit(packet{netip.AddrPortFrom(h.addr, wire.SecurityPort), to, m.Data})
	}
}

func (w *world) emit(p packet) {
	w.air = append(w.air, p)
	w.tape = append(w.tape, p)
}

// frame seals a frame with a number that no other has, and puts it on the air. It reports whether there was a key.
func (h *simHost) frame(thread int, to *simHost) (uint64, bool) {
	s := h.vnet.Sending(h.clock())
	if s == nil {
		return 0, false
	}
	lane, addr := s.Flooded(thread), netip.AddrPort{}
	if to != nil {
		lane, addr = s.Unicast(thread, 0), netip.AddrPortFrom(to.addr, wire.SecurityPort)
	}
	number := uint64(len(h.world.frames) + 1)
	h.world.frames[number] = simFrame{h.number, h.world.now}
	inner := make([]byte, 14, 32)
	inner = binary.BigEndian.AppendUint64(inner, number)
	use := fmt.Sprintf("%x %x %d", lane.key.salt, s.key.expand(string(laneInfo(s.key, s.nonce[:], s.epoch, levelOf(s.level), uint8(lane.spi))), 36), lane.next.Load())
	require.False(h.world.t, h.world.sealed[use], "a nonce is used a second time")
	h.world.sealed[use] = true
	b, err := lane.Append(make([]byte, Headroom), wire.AppendVUDP(nil, testID), inner)
	require.NoError(h.world.t, err)
	h.world.emit(packet{netip.AddrPortFrom(h.addr, 4501), addr, b[Headroom:]})
	return number, true
}

func (h *simHost) receive(p packet) {
	w := h.world
	data := slices.Clone(p.data)
	var out []Message
	arrival := Arrival{From: p.from, Unicast: p.to.IsValid()}
	switch wire.DecodeSecured(data) {
	case wire.SecuredMessage:
		verdict, messages := h.table.Message(data[wire.MarkerLen:], arrival, h.clock(), out)
		h.refused[verdict.Refusal]++
		out = messages
	case wire.SecuredESP:
		opened, refusal := h.table.Open(&h.opener, data, 0)
		h.refused[refusal]++
		if refusal == UnknownSPI {
			out = h.table.AskSender(binary.BigEndian.Uint32(data), len(data), arrival, h.clock(), out)
		}
		if refusal != Taken {
			break
		}
		_, inner, err := wire.DecodeVUDP(opened.Message)
		require.NoError(w.t, err)
		number := binary.BigEndian.Uint64(inner[14:])
		f, known := w.frames[number]
		require.True(w.t, known, "a frame that nobody sealed")
		require.False(w.t, h.taken[number], "host %d took frame %d twice", h.number, number)
		require.GreaterOrEqual(w.t, f.at, h.started, "a frame from before the receiver's life")
		require.Less(w.t, w.now-f.at, int64(5*time.Minute), "a frame that is too old")
		require.Equal(w.t, w.hosts[f.sender].addr, opened.From.Addr4)
		h.taken[number] = true
	}
	h.emit(out)
}

// deliver gives a packet to those whom it is for.
func (w *world) deliver(p packet) {
	for _, h := range w.hosts {
		if !p.to.IsValid() && p.from.Addr() != h.addr || p.to.Addr() == h.addr {
			h.receive(p)
		}
	}
}

// pass lets time pass: timers run when they are due, and what they send is on the air.
func (w *world) pass(d time.Duration, deliver bool) {
	end := w.now + int64(d)
	for w.now < end {
		next := end
		for _, h := range w.hosts {
			next = min(next, max(h.vnet.Next()-h.skew, w.now+int64(time.Millisecond)))
		}
		w.now = next
		for _, h := range w.hosts {
			h.emit(h.vnet.Tick(h.clock(), nil))
		}
		if deliver {
			w.settle()
		}
	}
}

// settle delivers what is under way, and what comes of it.
func (w *world) settle() {
	for len(w.air) > 0 {
		p := w.air[0]
		w.air = w.air[1:]
		w.deliver(p)
	}
}

// TestModel plays a random attacker against hosts that restart, rekey and run on wrong clocks. What receive and
// frame require must hold whatever the attacker does: nothing twice, nothing from before, nothing late, no nonce twice.
func TestModel(t *testing.T) {
	taken := 0
	for seed := range uint64(40) {
		w := newWorld(t, seed, vnet.Security(1+seed%2), 3)
		w.pass(time.Second, true)
		for range 400 {
			h := w.hosts[w.rng.IntN(3)]
			switch n := w.rng.IntN(100); {
			case n < 25:
				h.frame(w.rng.IntN(2), nil)
			case n < 40:
				h.frame(w.rng.IntN(2), w.hosts[w.rng.IntN(3)])
			case n < 60: // in any order
				if len(w.air) > 0 {
					i := w.rng.IntN(len(w.air))
					p := w.air[i]
					w.air = slices.Delete(w.air, i, i+1)
					w.deliver(p)
				}
			case n < 63:
				w.air = w.air[:0] // lost
			case n < 80: // anything, from any time, from anywhere, to anyone
				if len(w.tape) > 0 {
					p := w.tape[len(w.tape)-1-w.rng.IntN(min(len(w.tape), 200))]
					if w.rng.IntN(3) == 0 {
						p = w.tape[w.rng.IntN(len(w.tape))]
					}
					p.from = netip.AddrPortFrom(w.hosts[w.rng.IntN(3)].addr, uint16(w.rng.Uint32()))
					p.to = netip.AddrPortFrom(h.addr, wire.SecurityPort)
					w.deliver(p)
				}
			case n < 82:
				h.start()
			case n < 84:
				h.skew += w.rng.Int64N(int64(time.Minute)) - int64(30*time.Second)
			case n < 86:
				h.vnet.Suspect()
			case n < 96:
				w.pass(time.Duration(w.rng.Int64N(int64(3*time.Second))), w.rng.IntN(2) == 0)
			case n < 99:
				w.pass(time.Duration(w.rng.Int64N(int64(2*time.Minute))), w.rng.IntN(3) > 0)
			default:
				w.pass(time.Duration(w.rng.Int64N(int64(20*time.Minute))), true)
			}
		}
		for _, h := range w.hosts {
			taken += len(h.taken)
		}
	}
	require.Greater(t, taken, 500, "the test must not only refuse")
}

// TestReplayToRestarted: a receiver that starts again takes nothing of what was recorded, whether the sender lives or not.
func TestReplayToRestarted(t *testing.T) {
	for _, level := range []vnet.Security{vnet.Auth, vnet.Conf} {
		for _, dead := range []bool{false, true} {
			w := newWorld(t, 1, level, 2)
			w.pass(time.Second, true)
			a, b := w.hosts[0], w.hosts[1]
			for range 20 {
				a.frame(0, nil)
				a.frame(1, b)
				w.pass(10*time.Second, true)
			}
			require.Len(t, b.taken, 40)
			b.start()
			if dead {
				w.hosts = []*simHost{b}
			}
			// receive fails if one of the old is taken.
			recorded := slices.Clone(w.tape)
			for range 3 {
				for _, p := range recorded {
					b.receive(p)
				}
				w.pass(time.Second, true)
			}
			if !dead {
				w.hosts = []*simHost{a, b}
				number, _ := a.frame(0, nil)
				w.settle()
				require.True(t, b.taken[number], "the living one is heard")
			}
		}
	}
}

// TestRekeying: epochs and rotations lose nothing.
func TestRekeying(t *testing.T) {
	w := newWorld(t, 3, vnet.Conf, 3)
	w.pass(time.Second, true)
	sent := [3]int{}
	epochs := map[[16]byte]bool{}
	exchange := func(d time.Duration) {
		for end := w.now + int64(d); w.now < end; {
			for i, h := range w.hosts {
				to := w.hosts[(i+1)%3]
				_, ok1 := h.frame(0, nil)
				_, ok2 := h.frame(1, to)
				require.True(t, ok1 && ok2)
				sent[i]++
				epochs[h.vnet.sending.Load().nonce] = true
			}
			w.settle()
			w.pass(time.Second, true)
		}
	}
	exchange(30 * time.Minute)
	require.GreaterOrEqual(t, len(epochs), 6, "there were epochs")
	for _, step := range []func(h *simHost) ([]Secret, int){
		func(*simHost) ([]Secret, int) { return []Secret{testSecret, otherKey}, 0 },
		func(*simHost) ([]Secret, int) { return []Secret{testSecret, otherKey}, 1 },
		func(*simHost) ([]Secret, int) { return []Secret{otherKey}, 0 },
	} {
		for _, h := range w.hosts {
			keys, send := step(h)
			seals := h.vnet.Keys()[0]
			require.NoError(t, h.vnet.SetKeys(keys, send, h.clock()))
			require.Equal(t, seals, h.vnet.Keys()[0], "others are told before it seals with another")
			exchange(20 * time.Second)
			require.Equal(t, keys[send].KID(h.vnet.id), h.vnet.Keys()[0])
		}
		exchange(time.Minute)
	}
	for i, h := range w.hosts {
		// Two floods a round from the others, and unicast from one.
		require.Len(t, h.taken, sent[(i+1)%3]+sent[(i+2)%3]+sent[(i+2)%3])
		require.Zero(t, h.refused[UnknownSPI])
		require.Zero(t, h.refused[Replay])
	}
	// Who has only the old key is out, at once.
	require.NoError(t, w.hosts[0].vnet.SetKeys([]Secret{testSecret}, 0, w.hosts[0].clock()))
	before := len(w.hosts[1].taken)
	w.hosts[0].frame(0, nil)
	w.settle()
	w.pass(time.Second, true)
	w.hosts[0].frame(0, nil)
	w.settle()
	require.Len(t, w.hosts[1].taken, before)
	require.NotZero(t, w.hosts[1].refused[KeyUnknown])
}

// TestFirstFrame: a host that starts opens its vnif when all who are there can hear it, and hears them itself.
func TestFirstFrame(t *testing.T) {
	w := newWorld(t, 5, vnet.Auth, 4)
	w.pass(time.Second, true)
	late := w.hosts[3]
	late.start()
	begin := w.now
	for !late.vnet.Open() {
		w.pass(time.Millisecond, true)
	}
	require.LessOrEqual(t, time.Duration(w.now-begin), 100*time.Millisecond)
	number, _ := late.frame(0, nil)
	w.settle()
	for _, h := range w.hosts[:3] {
		require.True(t, h.taken[number])
		n, _ := h.frame(0, nil)
		w.settle()
		require.True(t, late.taken[n])
	}
	// Alone in the world, it does not wait forever.
	alone := newWorld(t, 6, vnet.Auth, 1)
	for !alone.hosts[0].vnet.Open() {
		alone.pass(time.Millisecond, true)
		require.LessOrEqual(t, alone.now-alone.hosts[0].started, openLatest+int64(2*time.Millisecond))
	}
}

// TestClone: when a copy of a running machine speaks, both begin another life.
func TestClone(t *testing.T) {
	w := newWorld(t, 7, vnet.Conf, 2)
	w.pass(time.Second, true)
	a := w.hosts[0]
	instance, nonce := a.vnet.instance, a.vnet.sending.Load().nonce
	// The copy says what a would have said next.
	s := a.vnet.sending.Load()
	a.vnet.mu.Lock()
	a.vnet.number++
	twin := a.vnet.keyMessageLocked(s, [16]byte{})
	own := a.vnet.keyMessageLocked(s, [16]byte{})
	a.vnet.number -= 2
	a.vnet.mu.Unlock()
	_ = own
	verdict, _ := a.table.Message(twin[wire.MarkerLen:], Arrival{}, a.clock(), nil)
	require.Equal(t, Own, verdict.Refusal)
	w.pass(2*time.Second, true)
	require.NotEqual(t, instance, a.vnet.instance)
	require.NotEqual(t, nonce, a.vnet.sending.Load().nonce)
	// A replay of what it said itself has none of these effects.
	instance = a.vnet.instance
	for _, p := range slices.Clone(w.tape) {
		a.receive(p)
	}
	w.pass(2*time.Minute, true)
	require.Equal(t, instance, a.vnet.instance)
	n, _ := a.frame(0, nil)
	w.settle()
	require.True(t, w.hosts[1].taken[n])
}

// TestFlood: forged and replayed messages without end make nothing grow, and do not keep a newcomer out.
func TestFlood(t *testing.T) {
	w := newWorld(t, 9, vnet.Auth, 2)
	w.pass(time.Second, true)
	a, b := w.hosts[0], w.hosts[1]
	recorded := slices.Clone(w.tape)
	for i := range 20000 {
		p := recorded[i%len(recorded)]
		data := slices.Clone(p.data)
		if i%3 == 0 {
			data[w.rng.IntN(len(data))] ^= 1 << w.rng.IntN(8)
		}
		b.receive(packet{netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, byte(i >> 8), byte(i)}), 4500), netip.AddrPortFrom(b.addr, 4500), data})
	}
	require.LessOrEqual(t, len(w.air), 200, "answers are limited")
	require.Len(t, b.vnet.senders, 1)
	require.Len(t, b.vnet.sas, 1)
	require.LessOrEqual(t, len(b.vnet.delayed), maxDelayed)
	require.NotZero(t, b.refused[KeyMAC])
	require.NotZero(t, b.refused[KeyRate])
	w.pass(2*time.Second, true)
	n, _ := a.frame(0, nil)
	w.settle()
	require.True(t, b.taken[n])
}

// TestFleet: 64 hosts that start at once know each other within half a second, with a bounded number of messages, and few go on
// after that.
func TestFleet(t *testing.T) {
	const n = 64
	w := newWorld(t, 13, vnet.Conf, n)
	known := func() int {
		count := 0
		for _, h := range w.hosts {
			count += len(h.vnet.senders)
		}
		return count
	}
	for known() < n*(n-1) {
		w.pass(10*time.Millisecond, true)
		require.Less(t, w.now-w.hosts[0].started, int64(500*time.Millisecond))
	}
	t.Logf("all know each other after %v and %d messages", time.Duration(w.now-w.hosts[0].started), len(w.tape))
	w.pass(200*time.Millisecond, true)
	for _, h := range w.hosts {
		require.True(t, h.vnet.Open())
		require.LessOrEqual(t, len(h.vnet.delayed), maxDelayed)
		require.Len(t, h.vnet.sas, n-1)
	}
	// The steps of the start, each with ASK and KEY to all, and a question and its answer for each pair, by step with another
	// second: at most four of both.
	w.pass(10*time.Second, true)
	start := len(w.tape)
	require.LessOrEqual(t, start, n*2*len(startSteps)+n*(n-1)*4*2)
	// Then a hello of each host every 20 s, and a question and its answer for each pair a minute.
	w.pass(2*time.Minute, true)
	require.LessOrEqual(t, len(w.tape)-start, n*8+n*(n-1)*3*2)
	t.Logf("%d messages in the first seconds, %d in two minutes more", start, len(w.tape)-start)
	number, _ := w.hosts[5].frame(0, nil)
	w.settle()
	for i, h := range w.hosts {
		require.Equal(t, i != 5, h.taken[number])
	}
}

// TestNAT: a host behind NAT is known by the outer source of a KEY that has proved to be fresh.
func TestNAT(t *testing.T) {
	w := newWorld(t, 11, vnet.Conf, 1)
	b := w.hosts[0]
	table := NewTable(w.random)
	inside, err := table.Add(Config{ID: testID, Level: vnet.Conf, Keys: []Secret{testSecret}, Threads: 1, NAT: true}, w.now)
	require.NoError(t, err)
	outer := netip.MustParseAddrPort("198.51.100.7:31000")
	for step := 0; step < 10; step++ {
		w.now += int64(100 * time.Millisecond)
		for _, m := range inside.Tick(w.now, nil) {
			if len(m.Data) > 1 {
				_, out := b.table.Message(m.Data[wire.MarkerLen:], Arrival{From: outer}, b.clock(), nil)
				for _, o := range append(out, b.vnet.Tick(b.clock(), nil)...) {
					if o.To.IsValid() {
						require.Equal(t, outer, o.To)
					}
					_, back := table.Message(o.Data[wire.MarkerLen:], Arrival{From: netip.AddrPortFrom(b.addr, 4500), Unicast: true}, w.now, nil)
					for _, m := range back {
						b.table.Message(m.Data[wire.MarkerLen:], Arrival{From: outer, Unicast: true}, b.clock(), nil)
					}
				}
			}
		}
	}
	require.Len(t, b.vnet.senders, 1)
	for _, s := range b.vnet.senders {
		require.Equal(t, outer, s.addresses.Load().Of(true))
		// An old KEY from elsewhere moves nobody.
		data := inside.Tick(w.now+helloEvery*2, nil)
		require.NotEmpty(t, data)
		b.table.Message(data[0].Data[wire.MarkerLen:], Arrival{From: netip.MustParseAddrPort("203.0.113.1:1")}, b.clock(), nil)
		require.Equal(t, outer, s.addresses.Load().Of(true))
		require.Equal(t, []byte{0xff}, data[len(data)-1].Data, "a keepalive")
	}
}
