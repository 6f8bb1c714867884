package dataplane

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"os"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/xenvnet/xend/dataplane/wire"
	"github.com/xenvnet/xend/internal/lab"
)

// fuzzing tells how long TestFuzzEngine goes on: by $FUZZTIME, which `make fuzz` sets, in go test's own two forms, a time
// ("60s") or a number of inputs ("2000x"). Without it that is a second. What it returns says whether another one is due after n.
func fuzzing(t testing.TB) func(n int) bool {
	text := os.Getenv("FUZZTIME")
	if text == "" {
		text = "1s"
	}
	if count, ok := strings.CutSuffix(text, "x"); ok {
		most, err := strconv.Atoi(count)
		require.NoError(t, err)
		return func(n int) bool { return n < most }
	}
	d, err := time.ParseDuration(text)
	require.NoError(t, err)
	end := time.Now().Add(d)
	return func(int) bool { return time.Now().Before(end) }
}

// TestFuzzEngine feeds a running engine with random and mutated packets from the underlay and from a
// domain: it lives, nothing leaks, and what comes out of the vnif is a frame.
func TestFuzzEngine(t *testing.T) {
	cfg := testConfig()
	cfg.EntryTTL, cfg.SweepInterval = 500*time.Millisecond, 100*time.Millisecond
	cfg.MaxMACs = 1000
	cfg.IPv6 = true
	_, s, hosts := newLab(t, 2, cfg)
	a, b := hosts[0], hosts[1]
	o := newOriginal(t, s, "original")
	add(t, "97", a, b)
	d1, d2 := a.domain(1, "97"), b.domain(2, "97")
	ping(t, d1, d2.Addr())
	require.NoError(t, a.AddPeer(soon(t), o.Addr(), 0))
	at, err := a.Capture("vnif97", func(f lab.Frame) bool { return !f.Outgoing })
	require.NoError(t, err)
	defer at.Close()
	// A quarter of the frames of every recording, and some of our own.
	id := idOf(t, "97")
	var seeds [][]byte
	for _, name := range []string{"01_first_ping_eth0_A", "05a_vfwd_A_peer_B_eth0_A", "05b_vfwd_both_eth0_A", "06_full_size_frame_eth0_A"} {
		for _, p := range readUDP(t, name) {
			b := append([]byte{}, p.payload...)
			if mid, _ := messageID(b); mid == wire.MessageVUDP {
				copy(b[6:], id[:])
			} else if mid == wire.MessageVFWD && len(b) > 54 {
				copy(b[32+6:], id[:])
			}
			seeds = append(seeds, b)
		}
	}
	seeds = append(seeds,
		varpMessage(wire.Request, id, domainMAC(1), o.Addr()),
		varpMessage(wire.Announce, id, domainMAC(9), netip.MustParseAddr("192.0.2.77")),
		vudp(id, tcpFrame(1448)), vudp(id, tcpFrame(100)), vudp(id, tcpFrame(0)))

	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	runtime.GC()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	goroutines := runtime.NumGoroutine()
	mutate := func() []byte {
		p := append([]byte{}, seeds[r.IntN(len(seeds))]...)
		switch r.IntN(8) {
		case 0:
			p = make([]byte, r.IntN(2000))
			for i := range p {
				p[i] = byte(r.Uint32())
			}
			if len(p) > 26 && r.IntN(2) == 0 {
				copy(p, vudp(id, nil))
			}
		case 1:
			p = p[:r.IntN(len(p)+1)]
		case 2:
			p = append(p, make([]byte, r.IntN(3000))...)
		case 3: // as it is, in a VFWD
			h, err := wire.AppendVFWD(nil, netip.AddrPortFrom(netip.AddrFrom4([4]byte{byte(r.Uint32()), 0, 2, 1}), 1798),
				netip.AddrPortFrom(wire.Group, 1798), 64, p)
			require.NoError(t, err)
			p = append(h, p...)
		}
		for range r.IntN(6) {
			if len(p) > 0 {
				p[r.IntN(len(p))] = byte(r.Uint32())
			}
		}
		if len(p) > 40 && r.IntN(4) == 0 { // lengths and offsets are the interesting fields
			binary.BigEndian.PutUint16(p[22+r.IntN(len(p)-23):], []uint16{0, 1, 0xffff, 0x7fff, 20, 40}[r.IntN(6)])
		}
		return p
	}
	more, n := fuzzing(t), 0
	for ; more(n); n++ {
		p := mutate()
		switch n % 64 {
		case 0, 8, 16, 24, 32, 40:
			o.send(wire.Group, p)
		case 1, 9, 17, 25:
			o.sendEtherIP(a.Addr(), p)
		case 2:
			// A malformed frame from a domain's own card.
			if len(p) >= 36 && len(p) <= 1536 {
				_ = d1.Send("eth0", p[22:])
			}
		default:
			o.send(a.Addr(), p)
		}
		if n%256 == 0 {
			for _, f := range at.Take() {
				require.GreaterOrEqual(t, len(f.Data), 14)
				require.LessOrEqual(t, len(f.Data), 65535)
				require.False(t, wire.Source(f.Data).Multicast())
				require.False(t, wire.Source(f.Data).IsZero())
			}
			o.drain()
		}
	}
	t.Logf("%d packets", n)
	// It lives, and forgets.
	require.NoError(t, a.RemovePeer(soon(t), o.Addr()))
	a.FlushVARP()
	b.FlushVARP()
	ping(t, d1, d2.Addr())
	_, err = lab.Transfer(soon(t), d1.Node, d2.Node, d2.Addr(), 4<<20)
	require.NoError(t, err)
	snapshot := a.Snapshot()
	require.LessOrEqual(t, snapshot.Tables.Entries, cfg.MaxMACs)
	require.LessOrEqual(t, snapshot.Tables.Vifs, cfg.MaxMACs)
	at.Close()
	at.Take()
	runtime.GC()
	runtime.ReadMemStats(&after)
	require.Less(t, int64(after.HeapAlloc)-int64(before.HeapAlloc), int64(32<<20), "memory grows")
	require.LessOrEqual(t, runtime.NumGoroutine(), goroutines+3)
	for _, d := range snapshot.Drops {
		if d.Count > 0 {
			t.Logf("%-20s %d", d.Reason, d.Count)
		}
	}
}

// tcpFrame is a TCP segment between two domains, with a right checksum.
func tcpFrame(payload int) []byte {
	f := append(append(append([]byte{}, domainMAC(1)...), domainMAC(9)...), 8, 0)
	f, err := wire.AppendIPv4(f, wire.IPv4{
		Source: netip.MustParseAddr("10.97.0.9"), Destination: netip.MustParseAddr("10.97.0.1"), Protocol: 6, TTL: 64,
	}, 20+payload)
	if err != nil {
		panic(err)
	}
	tcp := make([]byte, 20+payload)
	copy(tcp, []byte{0, 9, 0, 10, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x10, 0xff, 0xff})
	sum := wire.Sum(f[26:34], wire.Word(6)+wire.Word(uint16(len(tcp))))
	wire.PutSum(tcp[16:], ^wire.Fold(wire.Sum(tcp, sum)))
	return append(f, tcp...)
}
