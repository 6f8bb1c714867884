package main

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/mdlayher/packet"
	"golang.org/x/net/bpf"

	"github.com/xenvnet/xend/xendcompat/traffic"
)

// Nothing counts by MAC in the daemon or the kernel: it would cost every frame something. While `vn top --macs` runs, and only then, it
// looks at one frame in many at the ports of the vnets' bridges, and multiplies.

const (
	// sampleOne is one frame in how many is looked at, unless --sample says it.
	sampleOne = 64
	// maxSampled bounds the ports that are looked at, and maxSampledMACs the MACs that are told apart.
	maxSampled, maxSampledMACs = 64, 1 << 16
	// sampledQueue bounds, in bytes, what waits to be looked at.
	sampledQueue = 4 << 20
)

// sampledMAC is a MAC on a port of this host.
type sampledMAC struct{ vnet, mac, port string }

// sampler looks at frames. Use newSampler.
type sampler struct {
	one    int // frame in so many
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu    sync.Mutex
	seen  map[sampledMAC]*traffic.MAC
	ports map[int]*sampledPort // by index, those that are looked at
	left  int                  // ports that are not, since there are too many
}

// sampledPort is one that is looked at, until stop.
type sampledPort struct {
	name, vnet string
	index      int
	ctx        context.Context
	stop       context.CancelFunc
}

func newSampler(ctx context.Context, one int) *sampler {
	s := &sampler{one: one, seen: map[sampledMAC]*traffic.MAC{}, ports: map[int]*sampledPort{}}
	s.ctx, s.cancel = context.WithCancel(ctx)
	return s
}

// close ends it.
func (s *sampler) close() {
	s.cancel()
	s.wg.Wait()
}

// look begins with the ports of vnets' bridges that are new; vnifs are the vnets' own.
func (s *sampler) look(list []device, vnets []traffic.Vnet, vnifs map[string]bool) error {
	for _, p := range s.fresh(list, vnets, vnifs) {
		for _, out := range []bool{false, true} {
			if err := s.listen(p, out); err != nil {
				return fmt.Errorf("look at %s: %w", p.name, err)
			}
		}
	}
	return nil
}

// fresh takes the ports that are new among those that are looked at, and returns them.
func (s *sampler) fresh(list []device, vnets []traffic.Vnet, vnifs map[string]bool) (ports []*sampledPort) {
	bridges := map[int]string{}
	for _, v := range vnets {
		for _, d := range list {
			if v.Bridge != "" && d.Name == v.Bridge {
				bridges[d.Index] = v.ID
			}
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.left = 0
	for _, d := range list {
		id, ok := bridges[d.MasterIndex]
		if !ok || vnifs[d.Name] || s.ports[d.Index] != nil {
			continue
		}
		if len(s.ports) == maxSampled {
			s.left++
			continue
		}
		p := &sampledPort{name: d.Name, vnet: id, index: d.Index}
		p.ctx, p.stop = context.WithCancel(s.ctx)
		s.ports[d.Index] = p
		ports = append(ports, p)
	}
	return ports
}

// sampleFilter takes one frame in many of one direction.
func sampleFilter(one int, out bool) ([]bpf.RawInstruction, error) {
	const outgoing = 4 // PACKET_OUTGOING of packet(7)
	direction := bpf.JumpEqual
	if out {
		direction = bpf.JumpNotEqual
	}
	return bpf.Assemble([]bpf.Instruction{
		bpf.LoadExtension{Num: bpf.ExtType},
		bpf.JumpIf{Cond: direction, Val: outgoing, SkipTrue: 4},
		bpf.LoadExtension{Num: bpf.ExtRand},
		bpf.ALUOpConstant{Op: bpf.ALUOpMod, Val: uint32(one)},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: 0, SkipTrue: 1},
		bpf.RetConstant{Val: maxPacket},
		bpf.RetConstant{Val: 0},
	})
}

// listen looks at the frames of one direction, in or out by the port. It ends with the port.
func (s *sampler) listen(p *sampledPort, out bool) error {
	filter, err := sampleFilter(s.one, out)
	if err != nil {
		return err
	}
	const everything = 0x0003 // ETH_P_ALL of packet(7)
	conn, err := packet.Listen(&net.Interface{Index: p.index, Name: p.name}, packet.Raw, everything, &packet.Config{Filter: filter})
	if err != nil {
		return err
	}
	if raw, err := conn.SyscallConn(); err == nil {
		// With less room than that, more is missed.
		_ = raw.Control(func(fd uintptr) {
			_ = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, sampledQueue)
		})
	}
	stop := context.AfterFunc(p.ctx, func() { _ = conn.SetReadDeadline(time.Unix(1, 0)) })
	s.wg.Go(func() {
		defer func() { _ = conn.Close() }()
		defer stop()
		defer s.gone(p)
		b := make([]byte, maxPacket)
		for {
			n, _, err := conn.ReadFrom(b)
			if err != nil {
				return
			}
			s.count(b[:n], p.vnet, p.name, out)
		}
	})
	return nil
}

// gone ends what looks at a port, which went or is down, or at all of them.
func (s *sampler) gone(p *sampledPort) {
	p.stop()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ports[p.index] == p {
		delete(s.ports, p.index)
	}
}

// count counts a frame for the one of its two MACs that is behind the port: the sender of what comes from there, the receiver of what
// goes there to one.
func (s *sampler) count(frame []byte, id, port string, out bool) {
	if len(frame) < ethernetHeader {
		return
	}
	mac := net.HardwareAddr(frame[6:12])
	if out {
		mac = net.HardwareAddr(frame[:6])
	}
	if mac[0]&1 != 0 {
		return // it is for many
	}
	key := sampledMAC{id, mac.String(), port}
	s.mu.Lock()
	defer s.mu.Unlock()
	m := s.seen[key]
	if m == nil {
		if len(s.seen) >= maxSampledMACs {
			return
		}
		m = &traffic.MAC{Vnet: id, MAC: key.mac, Port: port}
		s.seen[key] = m
	}
	c := &m.Tx
	if out {
		c = &m.Rx
	}
	c.Packets += uint64(s.one)
	c.Bytes += uint64(s.one * len(frame))
}

// leftOut is how many ports are not looked at.
func (s *sampler) leftOut() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.left
}

// take returns what was counted since the last call.
func (s *sampler) take() []traffic.MAC {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]traffic.MAC, 0, len(s.seen))
	for _, m := range s.seen {
		out = append(out, *m)
	}
	clear(s.seen)
	slices.SortFunc(out, func(a, b traffic.MAC) int {
		return cmp.Or(cmp.Compare(a.Vnet, b.Vnet), cmp.Compare(a.MAC, b.MAC), cmp.Compare(a.Port, b.Port))
	})
	return out
}
