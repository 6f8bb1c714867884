package dataplane

import (
	"errors"
	"fmt"
	"slices"

	"github.com/cilium/ebpf"

	"github.com/xenvnet/xend/dataplane/fastpath"
	"github.com/xenvnet/xend/dataplane/port"
	"github.com/xenvnet/xend/internal/hostnet"
)

// How the fast path's programs get to their devices, stay there when the daemon ends, and go. TCX takes them where the kernel
// has it, since that loses no frame of a device that is up; the filters of clsact do otherwise, and where others have such
// filters, since TCX comes before them. Those of an earlier run are found by their names, whichever of the two it used, and
// replaced in one step, or, from one to the other, by attaching the new one first: a packet that the first one takes does
// not get to the second.

// hook is a place for a program.
type hook struct {
	index  int
	egress bool
}

// The kinds of hooks.
const (
	hookTCX    = "tcx"
	hookClsact = "clsact"
)

// fastPriority is after all filters of others: those run first, and have the last word on what they decide.
const fastPriority = 0xff00

// fastNames are the names of the programs and filters, at ingress and egress.
var fastNames = [2]string{fastpath.NameIn, fastpath.NameOut}

func (h hook) side() int {
	if h.egress {
		return 1
	}
	return 0
}

func (h hook) classifier() hostnet.Classifier {
	return hostnet.Classifier{Index: h.index, Egress: h.egress, Priority: fastPriority, Name: fastNames[h.side()]}
}

// hooked is what is at a hook.
type hooked struct {
	// tcx are the programs at TCX, first the one that runs first; hasTCX says that the kernel has it.
	tcx    []hostnet.TCXProgram
	hasTCX bool
	// filter is our program at clsact, 0 for none; others says that there are others' filters, which would come after TCX.
	filter ebpf.ProgramID
	others bool
	// after is the priority of another's filter that would come after ours; 0: there is none.
	after uint16
}

func (k *programs) lookAtHook(h hook) (at hooked, err error) {
	filters, err := k.host.Filters(h.index, h.egress)
	if err != nil {
		return at, err
	}
	c := h.classifier()
	for _, f := range filters {
		switch {
		case f.Priority == c.Priority && f.Name == c.Name:
			at.filter = f.Program
		case f.Priority >= c.Priority:
			at.after = f.Priority
		default:
			at.others = true
		}
	}
	at.tcx, err = k.host.TCX(h.index, h.egress)
	var unsupported *hostnet.UnsupportedError
	at.hasTCX = !errors.As(err, &unsupported)
	if !at.hasTCX {
		err = nil
	}
	return at, err
}

// own are our programs at TCX.
func (at hooked) own(h hook) (ids []ebpf.ProgramID) {
	for _, p := range at.tcx {
		if p.Name == fastNames[h.side()] {
			ids = append(ids, p.ID)
		}
	}
	return ids
}

// attach puts a program into its place, and says why it can't be there.
func (k *programs) attach(h hook, verify bool) string {
	if _, placed := k.placed[h]; placed && !verify {
		return ""
	}
	if h.egress {
		switch kind, err := k.host.RootQdisc(h.index); {
		case err != nil:
			return err.Error()
		case kind != "noqueue":
			return "its queueing discipline " + kind + " would be passed by"
		}
	}
	at, err := k.lookAtHook(h)
	if err != nil {
		return err.Error()
	}
	if at.after != 0 {
		return fmt.Sprintf("a filter of another program at priority %d would be passed by", at.after)
	}
	kind, put := hookClsact, k.attachClsact
	if at.hasTCX && !at.others {
		kind, put = hookTCX, k.attachTCX
	}
	if err := put(h, at); err != nil {
		return err.Error()
	}
	k.attached[h] = struct{}{}
	k.placed[h] = kind
	return ""
}

// attachTCX puts a program behind all others at TCX, so that they run first.
func (k *programs) attachTCX(h hook, at hooked) error {
	prog, id, own := k.loaded[h.side()], k.ids[h.side()], at.own(h)
	last := len(at.tcx) > 0 && len(own) > 0 && at.tcx[len(at.tcx)-1].ID == own[0]
	if len(own) > 0 && !last {
		// Somebody has come after it. For a moment user space carries all.
		if err := k.detachTCX(h, own); err != nil {
			return err
		}
		own = nil
	}
	switch {
	case len(own) == 0:
		if err := k.host.AttachTCXProgram(h.index, h.egress, prog, 0); err != nil {
			return err
		}
	case own[0] != id:
		if err := k.host.AttachTCXProgram(h.index, h.egress, prog, own[0]); err != nil {
			return err
		}
	}
	if at.filter == 0 {
		return nil
	}
	return k.host.DetachClassifier(h.classifier())
}

// attachClsact puts a program behind all others' filters at clsact.
func (k *programs) attachClsact(h hook, at hooked) error {
	if at.filter != k.ids[h.side()] {
		if err := k.host.AttachClassifier(h.classifier(), k.loaded[h.side()]); err != nil {
			return err
		}
	}
	return k.detachTCX(h, at.own(h))
}

// detachTCX takes programs of ours off TCX; XDP goes before.
func (k *programs) detachTCX(h hook, own []ebpf.ProgramID) error {
	if len(own) == 0 {
		return nil
	}
	if err := k.unstrip(h); err != nil {
		return err
	}
	for _, id := range own {
		if err := k.host.DetachTCXProgram(h.index, h.egress, id); err != nil {
			return err
		}
	}
	return nil
}

// unstrip takes our XDP program off a card, before the one at TC loses its place.
func (k *programs) unstrip(h hook) error {
	if h.egress {
		return nil
	}
	if k.shortcuts != nil {
		k.shortcuts.unstrip(h.index)
	}
	return k.host.Unstrip(h.index)
}

// remove takes our programs off a hook, of whatever run and kind. The device may be gone.
func (k *programs) remove(h hook) error {
	if err := k.unstrip(h); err != nil {
		return err
	}
	at, err := k.lookAtHook(h)
	if errors.Is(err, hostnet.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	return errors.Join(k.detachTCX(h, at.own(h)), k.host.DetachClassifier(h.classifier()))
}

func (k *programs) detach(h hook) {
	if err := k.remove(h); err != nil {
		k.engine.log.Warn("a program of the fast path stays where it should not be", "device", k.engine.deviceNames.name(h.index), "err", err)
		return
	}
	delete(k.attached, h)
	delete(k.placed, h)
	delete(k.states, h)
}

// find looks for programs of an earlier run. A card where only XDP is has them at its ingress, too.
func (k *programs) find() (map[hook]struct{}, []ebpf.ProgramID, error) {
	attached, ids := map[hook]struct{}{}, []ebpf.ProgramID(nil)
	links, err := k.host.Links()
	if err != nil {
		return attached, nil, err
	}
	add := func(h hook, list ...ebpf.ProgramID) {
		attached[h] = struct{}{}
		for _, id := range list {
			if !slices.Contains(ids, id) {
				ids = append(ids, id)
			}
		}
	}
	for _, l := range links {
		for _, h := range []hook{{l.Index, false}, {l.Index, true}} {
			at, err := k.lookAtHook(h)
			if err != nil {
				continue // gone
			}
			if own := at.own(h); len(own) > 0 {
				add(h, own...)
			}
			if at.filter != 0 {
				add(h, at.filter)
			}
		}
	}
	stripping, err := k.host.XDPPrograms()
	for index, id := range stripping {
		if hostnet.ProgramName(id) == fastpath.NameXDP {
			add(hook{index: index})
		}
	}
	return attached, ids, err
}

// disturbed tells of devices where somebody has come to one of our hooks at TCX or XDP, or has taken ours away. It is asked
// often: other than at clsact the kernel tells nobody of changes.
func (k *programs) disturbed(devices map[int]struct{}) {
	var list []int
	for h, kind := range k.placed {
		if kind == hookTCX {
			list = append(list, h.index)
		}
	}
	now, errNow := k.host.TCXStates(list)
	for h, kind := range k.placed {
		if kind != hookTCX {
			continue
		}
		at := now[h.index][h.side()]
		if before, ok := k.states[h]; ok && errNow == nil && before == at {
			continue
		}
		delete(k.states, h)
		ids, err := k.host.TCXPrograms(h.index, h.egress)
		if err == nil && (len(ids) == 0 || ids[len(ids)-1] != k.ids[h.side()]) {
			devices[h.index] = struct{}{}
		} else if err == nil && errNow == nil {
			k.states[h] = at
		}
	}
	if k.shortcuts != nil {
		k.shortcuts.disturbed(devices)
	}
}

// devices are what the programs ask of a host beside its own methods.
type devices struct{ *hostnet.Host }

var _ kernelHost = devices{}

// Unstrip is that of fastpath.
func (d devices) Unstrip(index int) error { return fastpath.Unstrip(d.Host, index) }

// RemoveFastPath takes the programs of a daemon that has ended off the devices of a namespace: user space, or nobody,
// carries the frames of vnets from then on.
func RemoveFastPath(h *hostnet.Host) error {
	k := &programs{host: devices{h}}
	attached, _, err := k.find()
	errs := []error{err}
	for at := range attached {
		errs = append(errs, k.remove(at))
	}
	errs = append(errs, fastpath.RemoveBypass(h), fastpath.RemoveJoin(h, port.Group))
	return errors.Join(errs...)
}
