package dataplane

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/xenvnet/xend/dataplane/fastpath"
	"github.com/xenvnet/xend/dataplane/port"
	"github.com/xenvnet/xend/internal/hostnet"
	"github.com/xenvnet/xend/vnet"
)

// Two shorter ways of the fast path: native XDP at plain cards, before TC, and past the bridge at the domains' vifs; and a detour
// that is faster: where TC gets segments one by one, a pair of devices joins them. All come after the programs at TC and go
// before them.

// shortcuts are those of a host. They are the mirror's goroutine's own.
type shortcuts struct {
	engine *Engine
	host   *hostnet.Host

	strip *fastpath.Stripper
	join  *fastpath.Joiner
	made  time.Time     // when join was made
	early int           // how often in a row it was disturbed soon after that
	shun  time.Time     // until when it is not made again
	swept bool          // one of an earlier run is gone, if it was of no use
	lost  atomic.Uint64 // by the pair; anybody reads it
	cards map[int]*card

	bypass atomic.Pointer[fastpath.Bypass] // anybody reads it
	own    *hostnet.Host
	stop   context.CancelFunc
	done   sync.WaitGroup
}

// card is a device at whose ingress our TC program is.
type card struct {
	seen fastpath.Device // when a way was chosen
	xdp  *fastpath.Attached
	want fastpath.XDP // of the configuration then
	why  string       // why it is this way
	// single: segments of TCP come by it one by one; joins: they are joined; apart says why not.
	single, joins bool
	apart         string
}

// way names the way in, and says why.
func (c *card) way() (way, why string) {
	switch {
	case c.xdp != nil:
		return fastpath.IngressXDP.String(), c.why
	case c.joins:
		return fastpath.IngressTC.String(), c.why + "; segments of TCP are joined by " + fastpath.JoinDevice
	case c.apart != "":
		return fastpath.IngressTC.String(), c.why + "; segments of TCP are not joined: " + c.apart
	}
	return fastpath.IngressTC.String(), c.why
}

func newShortcuts(e *Engine, h *hostnet.Host) *shortcuts {
	return &shortcuts{engine: e, host: h, cards: map[int]*card{}}
}

// ingress chooses a way for each device at whose ingress our TC program is; verify looks at those again that have one.
func (s *shortcuts) ingress(t kernelTables, xdp fastpath.XDP, wanted map[int]struct{}, verify bool) {
	tables, _ := t.(*fastpath.Tables)
	for index, c := range s.cards {
		if _, ok := wanted[index]; !ok {
			s.detach(c)
			delete(s.cards, index)
			if s.strip != nil {
				s.strip.Forget(index)
			}
			if tables != nil {
				tables.Unjoin(index)
			}
		}
	}
	for index := range wanted {
		if c := s.cards[index]; c == nil || verify || c.want != xdp {
			s.choose(t, xdp, index)
			if tables != nil {
				s.joinAt(tables, index)
			}
		}
	}
	if tables == nil || len(wanted) == 0 {
		return
	}
	for _, c := range s.cards {
		if c.single {
			return
		}
	}
	if s.join != nil || !s.swept {
		s.endJoin(tables)
		s.swept = true
	}
}

// joinAt has segments that come one by one by a device be joined.
func (s *shortcuts) joinAt(t *fastpath.Tables, index int) {
	c := s.cards[index]
	if c == nil {
		return
	}
	c.single = c.xdp == nil && c.seen.Index != 0 && fastpath.Joins(c.seen)
	c.joins, c.apart = false, ""
	if !c.single {
		t.Unjoin(index)
		return
	}
	if err := s.letJoin(t, index); err != nil {
		t.Unjoin(index)
		c.apart = err.Error()
		return
	}
	c.joins = true
}

// letJoin is joinAt for a device that needs it, with a new pair if need be.
func (s *shortcuts) letJoin(t *fastpath.Tables, index int) (err error) {
	if s.join != nil {
		err = s.join.Let(index)
		if err == nil || errors.Is(err, fastpath.ErrNotFirst) {
			return err
		}
		s.broken(t, err)
	}
	if time.Now().Before(s.shun) {
		return errors.New(fastpath.JoinDevice + " was taken away again and again")
	}
	s.join, err = t.Join(s.host, port.Group)
	if err != nil {
		return err
	}
	s.made = time.Now()
	return s.join.Let(index)
}

// joinShun is how long segments are not joined after the pair was disturbed joinOften times in a row within joinSoon of its making.
const joinShun, joinSoon, joinOften = time.Minute, 3 * time.Second, 5

// broken takes a pair away that is not whole.
func (s *shortcuts) broken(t *fastpath.Tables, err error) {
	s.engine.log.Warn("the pair that joins segments of TCP is not as it should be, and is made anew", "device", fastpath.JoinDevice, "reason", err)
	if s.early++; time.Since(s.made) > joinSoon {
		s.early = 0
	} else if s.early >= joinOften {
		s.early, s.shun = 0, time.Now().Add(joinShun)
	}
	for _, c := range s.cards {
		if c.single {
			c.joins, c.apart = false, err.Error()
		}
	}
	s.endJoin(t)
}

// checkJoin has segments be joined for another while, if the pair is whole, and tells of the devices for which that has changed.
func (s *shortcuts) checkJoin(devices map[int]struct{}) {
	if s.join == nil {
		return
	}
	s.lost.Add(s.join.Lost())
	err := s.join.Check()
	for index, c := range s.cards {
		if err == nil && c.joins {
			err = s.join.Again(index)
		}
		if c.single && c.joins != (err == nil) {
			devices[index] = struct{}{} // joinAt
		}
	}
}

// endJoin takes the pair away, of whatever run, after programs of t are told to send nothing by it; nil: there are none.
func (s *shortcuts) endJoin(t *fastpath.Tables) {
	if s == nil {
		return
	}
	if t != nil {
		t.UnjoinAll()
	}
	s.join = nil
	if err := fastpath.RemoveJoin(s.host, port.Group); err != nil {
		s.engine.log.Warn("devices of the fast path stay where they should not be", "device", fastpath.JoinDevice, "err", err)
	}
}

func (s *shortcuts) choose(t kernelTables, xdp fastpath.XDP, index int) {
	d, err := fastpath.LookAt(s.host, index)
	if err != nil {
		return // it is going away
	}
	own := d.Own
	c := s.cards[index]
	if c == nil {
		c = &card{}
		s.cards[index] = c
	} else {
		d.Own = 0
		if c.xdp != nil {
			if err := c.xdp.Check(); err != nil {
				s.detach(c)
				c.why, c.seen = err.Error(), fastpath.Device{} // it is tried again
			} else if n, err := s.strip.Counters(); err == nil && n.NoRoom > 0 && n.Stripped == 0 {
				s.detach(c)
				c.why = "its driver has no room for metadata at XDP"
				c.seen = d
			}
		}
		if d == c.seen && xdp == c.want {
			return // an attempt may stop a card for a moment
		}
	}
	way, why := fastpath.ChooseIngress(d, xdp)
	c.seen, c.want = d, xdp
	c.seen.Own = 0
	if c.xdp != nil && way == fastpath.IngressXDP {
		c.why = why
		return
	}
	s.detach(c)
	c.why = why
	tables, ok := t.(*fastpath.Tables)
	if way == fastpath.IngressXDP && ok {
		err = s.attach(tables, c, d)
		if err == nil {
			return
		}
		c.why = err.Error()
	}
	if own != 0 { // an earlier run's
		if err := fastpath.Unstrip(s.host, index); err != nil {
			s.engine.log.Warn("a program of the fast path stays where it should not be", "device", d.Name, "err", err)
		}
	}
}

func (s *shortcuts) attach(t *fastpath.Tables, c *card, d fastpath.Device) (err error) {
	if s.strip == nil {
		if s.strip, err = t.LoadXDP(); err != nil {
			return err
		}
	}
	c.xdp, err = s.strip.Attach(s.host, d)
	if errors.Is(err, fastpath.ErrNotFirst) { // the card was left alone
		c.seen = fastpath.Device{}
	}
	return err
}

// unstrip takes XDP off a card whose TC program is about to lose its place.
func (s *shortcuts) unstrip(index int) {
	if c := s.cards[index]; c != nil {
		s.detach(c)
		c.seen = fastpath.Device{}
	}
}

// disturbed looks whether XDP may go on stripping, which it does for a while only after that, and tells of devices where it
// may not.
func (s *shortcuts) disturbed(devices map[int]struct{}) {
	for index, c := range s.cards {
		if c.xdp != nil && c.xdp.Check() != nil {
			devices[index] = struct{}{}
		}
	}
	s.checkJoin(devices)
}

func (s *shortcuts) detach(c *card) {
	if c.xdp == nil {
		return
	}
	if err := c.xdp.Detach(); err != nil {
		s.engine.log.Warn("a program of the fast path stays where it should not be", "device", c.seen.Name, "err", err)
	}
	c.xdp = nil
}

// wayOf names the ways in by devices, the first one that is not TC; and says why.
func (s *shortcuts) wayOf(hooks []hook) (way, why string) {
	for _, h := range hooks {
		if c := s.cards[h.index]; c != nil {
			if way, why = c.way(); c.xdp != nil {
				return way, why
			}
		}
	}
	return way, why
}

// pass lets domains of the vnets that the kernel carries pass their bridges by, if the configuration wants it.
func (s *shortcuts) pass(t kernelTables, v *view, carried []vnet.ID) {
	tables, ok := t.(*fastpath.Tables)
	if !ok || v.config.Bypass == BypassOff {
		s.endBypass()
		return
	}
	if s.bypass.Load() == nil && !s.startBypass(tables) {
		return
	}
	set := map[vnet.ID]fastpath.BypassVnet{}
	s.engine.mu.Lock()
	for _, id := range carried {
		if a := s.engine.networks[id]; a != nil && a.bridge != 0 {
			set[id] = fastpath.BypassVnet{Bridge: a.bridge, Vnif: a.devices.VnifIndex}
		}
	}
	s.engine.mu.Unlock()
	s.bypass.Load().Set(set)
}

func (s *shortcuts) startBypass(t *fastpath.Tables) bool {
	err := s.host.Do(func() (err error) {
		s.own, err = hostnet.New()
		return err
	})
	if err != nil {
		s.engine.log.Warn("domains cannot pass their bridges by", "err", err)
		return false
	}
	log := s.engine.log
	b := fastpath.NewBypass(t, s.own)
	b.Changed = func(p fastpath.BypassedPort) {
		if p.Way == fastpath.WayBridge {
			log.Info("a domain's frames go by its bridge", "device", p.Name, "vnet", p.Vnet.Short(), "reason", p.Reason)
		} else {
			log.Info("a domain's frames pass its bridge by", "device", p.Name, "vnet", p.Vnet.Short(), "way", p.Way)
		}
	}
	var ctx context.Context
	ctx, s.stop = context.WithCancel(context.Background())
	s.bypass.Store(b)
	s.done.Go(func() {
		if err := b.Run(ctx); err != nil && !errors.Is(err, context.Canceled) {
			log.Warn("domains cannot pass their bridges by", "err", err)
		}
	})
	return true
}

func (s *shortcuts) endBypass() {
	if s.bypass.Load() == nil {
		return
	}
	s.stop()
	s.done.Wait()
	s.own.Close()
	s.bypass.Store(nil)
	s.own = nil
}

// left adds what the pair dropped to what the programs count.
func (s *shortcuts) left(l fastpath.Left) fastpath.Left {
	if s != nil {
		l.In[fastpath.LeftQueue] += s.lost.Load()
	}
	return l
}

// ports tells what was chosen for the ports of the vnets' bridges. Any goroutine may ask.
func (s *shortcuts) ports() []fastpath.BypassedPort {
	if s == nil {
		return nil
	}
	if b := s.bypass.Load(); b != nil {
		return b.Ports()
	}
	return nil
}

// close ends the shortcuts, before the programs at TC or their tables go.
func (s *shortcuts) close() {
	if s == nil {
		return
	}
	for _, c := range s.cards {
		s.detach(c)
	}
	s.release()
}

// release ends what needs a daemon. XDP goes on as the programs at TC do, for the next one to take over, but not for long.
func (s *shortcuts) release() {
	if s == nil {
		return
	}
	s.endBypass()
	s.cards, s.join = map[int]*card{}, nil
	if s.strip != nil {
		s.strip.Close()
		s.strip = nil
	}
}
