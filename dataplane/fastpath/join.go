package fastpath

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	"github.com/cilium/ebpf"

	"github.com/xenvnet/xend/internal/hostnet"
)

// GRO knows nothing of our format, so where a card hands over packet by packet, segments of TCP come to TC one by one, and the
// domain's stack and the bridge would take them so. A pair of devices that is there for nothing else has them joined: what
// is sent by its one end passes GRO on its way to the other, as VXLAN's packets do (gro_cells).

// JoinDevice is the end of the pair to which segments come joined; they are sent by joinSend.
const (
	JoinDevice = "vnp-gro1"
	joinSend   = "vnp-gro0"
)

// joinAlias tells a person what they are there for.
const joinAlias = "xend: joins TCP segments of vnets"

// joinMTU is the largest that a veth takes: what is joined is as long as an IP packet may be.
const joinMTU = 65535

// Joins reports whether segments of TCP may come one by one by a device whose Ingress is IngressTC. A pair that segments
// tunnels hands over whole what was sent. A network card, and what is stacked on cards, cuts what it sends, and the other card gets
// the pieces.
func Joins(d Device) bool { return !d.SegmentsTunnels || d.Kind != "veth" && d.Kind != "netkit" }

// Joiner is the pair.
type Joiner struct {
	tables        *Tables
	h             *hostnet.Host
	group         uint32
	send, receive int // indices
	lost          uint64
}

// Join makes the pair, or takes over the one of an earlier run, if that has its tables. It joins nothing until Let. group is the
// link group that tells it from devices of others.
func (p *Tables) Join(h *hostnet.Host, group uint32) (*Joiner, error) {
	ends, err := joinEnds(h, group)
	if err != nil {
		return nil, err
	}
	if len(ends) > 0 && !p.sharedWith(h, ends) {
		// Programs of other tables send by it still, with tags that mean other vnets.
		p.UnjoinAll()
		if err := removeEnds(h, ends); err != nil {
			return nil, err
		}
		ends = nil
	}
	if len(ends) == 0 {
		cpus, err := ebpf.PossibleCPU()
		if err != nil {
			return nil, err
		}
		err = h.CreateVeth(hostnet.Veth{
			Name: joinSend, Partner: JoinDevice, MTU: joinMTU, Group: group, PartnerGroup: group, NumQueues: cpus,
		})
		if err != nil {
			return nil, err
		}
		if ends, err = joinEnds(h, group); err != nil {
			return nil, err
		}
	}
	if len(ends) != 2 {
		return nil, fmt.Errorf("%s: %w", JoinDevice, hostnet.ErrNotFound)
	}
	j := &Joiner{tables: p, h: h, group: group, send: ends[0].Index, receive: ends[1].Index}
	if err := j.prepare(); err != nil {
		return nil, errors.Join(err, removeEnds(h, ends))
	}
	j.Lost()
	return j, nil
}

// prepare makes the ends what they should be; what is so already stays.
func (j *Joiner) prepare() error {
	for _, index := range []int{j.send, j.receive} {
		if err := errors.Join(j.h.SetAlias(index, joinAlias), j.h.SetNoARP(index, true), j.h.DisableIPv6(index)); err != nil {
			return err
		}
	}
	if err := j.setFeatures(); err != nil {
		return err
	}
	if err := j.h.AttachClassifier(joinClassifier(j.receive), j.tables.bpf.JoinedIn); err != nil {
		return err
	}
	return errors.Join(j.h.SetUp(j.receive), j.h.SetUp(j.send))
}

// setFeatures has the driver give to GRO what is sent, which it does if the sending end segments nothing.
func (j *Joiner) setFeatures() error {
	return errors.Join(j.h.SetFeatures(j.receive, map[string]bool{"rx-gro": true}), j.h.SetFeatures(j.send, map[string]bool{
		"tx-tcp-segmentation": false, "tx-tcp-ecn-segmentation": false, "tx-tcp-mangleid-segmentation": false, "tx-tcp6-segmentation": false,
	}))
}

func joinClassifier(index int) hostnet.Classifier {
	return hostnet.Classifier{Index: index, Priority: 10, Name: nameJoin}
}

// Let has segments that come by a device be joined, for stripFor: then Again must have been called. The pair must be whole (Check).
func (j *Joiner) Let(device int) error {
	if err := j.Check(); err != nil {
		return err
	}
	if err := j.setFeatures(); err != nil {
		return err
	}
	return j.Again(device)
}

// Again is Let where Check has just found nothing wrong.
func (j *Joiner) Again(device int) error {
	v := bpfJoin{Until: Now() + uint64(stripFor), Ifindex: uint32(j.send)}
	var before bpfJoin
	known := j.tables.bpf.Joins.Lookup(uint32(device), &before) == nil
	if err := j.tables.bpf.Joins.Put(uint32(device), &v); err != nil {
		return fmt.Errorf("kernel fast path: join segments: %w", err)
	}
	if !known || before.Ifindex != v.Ifindex || before.Until < Now() {
		j.tables.changed()
	}
	return nil
}

// Unjoin ends that for a device; those under way get to their vnets.
func (p *Tables) Unjoin(device int) {
	if p.bpf.Joins.Delete(uint32(device)) == nil {
		p.changed()
	}
}

// UnjoinAll is Unjoin for all devices, also those of an earlier run.
func (p *Tables) UnjoinAll() {
	deleteIf(p.bpf.Joins, func(*uint32, *bpfJoin) bool { return true })
	p.changed()
}

// Check reports what is wrong with the pair, so that segments would be lost; nil: nothing. ErrNotFirst: somebody else's program
// comes before ours, and may take them.
func (j *Joiner) Check() error {
	ends, err := joinEnds(j.h, j.group)
	if err != nil {
		return err
	}
	if len(ends) != 2 || ends[0].Index != j.send || ends[1].Index != j.receive {
		return fmt.Errorf("%s: %w", JoinDevice, hostnet.ErrNotFound)
	}
	for _, l := range ends {
		switch {
		case !l.Up():
			return fmt.Errorf("%s is down", l.Name)
		case l.MTU != joinMTU:
			return fmt.Errorf("%s has an MTU of %d", l.Name, l.MTU)
		case l.Master != 0:
			return fmt.Errorf("%s is a port of another device", l.Name)
		}
	}
	err = first(j.h, JoinDevice, j.receive, j.tables.bpf.JoinedIn)
	if !errors.Is(err, ErrNotFirst) {
		return err
	}
	there, errThere := joinProgram(j.h, j.receive)
	if errThere == nil && there != hostnet.ProgramID(j.tables.bpf.JoinedIn) {
		return fmt.Errorf("the program at %s is gone", JoinDevice)
	}
	return cmp.Or(errThere, err)
}

// joinProgram is what is in the place of our program at the pair; 0: nothing.
func joinProgram(h *hostnet.Host, index int) (ebpf.ProgramID, error) {
	filters, err := h.Filters(index, false)
	at := slices.IndexFunc(filters, func(f hostnet.Filter) bool { return f.Name == nameJoin })
	if err != nil || at < 0 {
		return 0, err
	}
	return filters[at].Program, nil
}

// Lost is how many segments the pair had no room for since it was asked last.
func (j *Joiner) Lost() uint64 {
	d, err := j.h.Detail(j.send)
	if err != nil {
		return 0
	}
	n := d.Counters.TxDropped - j.lost
	j.lost = d.Counters.TxDropped
	return n
}

// RemoveJoin takes away the pair of whatever run, if there is one, after UnjoinAll.
func RemoveJoin(h *hostnet.Host, group uint32) error {
	ends, err := joinEnds(h, group)
	var foreign *hostnet.NotOursError
	if errors.As(err, &foreign) {
		return nil
	}
	if err != nil {
		return err
	}
	return removeEnds(h, ends)
}

// joinEnds are the ends of the pair, that for sending first; none if there is no pair, and one where its other end was moved
// away. Another's device that has a name of theirs is a NotOursError.
func joinEnds(h *hostnet.Host, group uint32) (ends []hostnet.Link, err error) {
	for _, name := range []string{joinSend, JoinDevice} {
		l, err := h.LinkByName(name)
		if errors.Is(err, hostnet.ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if l.Kind != "veth" || l.Group != group {
			return nil, &hostnet.NotOursError{Device: l, Want: "an end of the pair that joins segments of TCP"}
		}
		ends = append(ends, l)
	}
	return ends, nil
}

func removeEnds(h *hostnet.Host, ends []hostnet.Link) error {
	var errs []error
	for _, l := range ends { // with the first the second goes, if it is its other end
		errs = append(errs, h.Delete(l.Index))
	}
	return errors.Join(errs...)
}

// sharedWith reports whether a pair is whole and its program has these tables.
func (p *Tables) sharedWith(h *hostnet.Host, ends []hostnet.Link) bool {
	if len(ends) != 2 || ends[0].Name != joinSend || ends[0].Partner != ends[1].Index {
		return false
	}
	own, err := p.bpf.VnifOfSlot.Info()
	if err != nil {
		return false
	}
	ownID, _ := own.ID()
	there, err := joinProgram(h, ends[1].Index)
	if err != nil || there == 0 {
		return false
	}
	same := false
	for _, m := range mapsOf(there) {
		if info, err := m.Info(); err == nil {
			id, _ := info.ID()
			same = same || id == ownID
		}
		_ = m.Close()
	}
	return same
}
