package netscripts

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/xenvnet/xend/internal/hostnet"
	"github.com/xenvnet/xend/netscripts/l3"
)

// transaction is a start or stop of network-bridge: all that its steps and their inverses need. It
// is kept in the journal, so it is plain data, and devices are known by index, since names change.
type transaction struct {
	Command string `json:"command"` // start or stop

	Device    device `json:"device"`    // netdev, as it was before; its name is the one without p
	Port      string `json:"port"`      // p{netdev}
	Bridge    device `json:"bridge"`    // Index is 0 until start made it
	Temporary string `json:"temporary"` // the bridge's name while it has no other
	WasDown   bool   `json:"was_down"`  // netdev is to be down when there is no bridge
	Antispoof bool   `json:"antispoof"`

	// L3 is what moves: that of the device at start, of the bridge at stop. PortL3 is what the
	// device has at stop beside that.
	L3     l3.State `json:"l3"`
	PortL3 l3.State `json:"port_l3"`
	// Above are the devices that stand on netdev and go down with it.
	Above   []device `json:"above,omitempty"`
	AboveL3 l3.State `json:"above_l3"`

	// Rules tells that rules of the packet filter name the device by its index, and move.
	Rules bool `json:"rules,omitempty"`
	// Force tells that what cannot be moved stays, with a warning.
	Force bool `json:"force,omitempty"`
	// Tunnels go out of the device, and move.
	Tunnels []l3.Tunnel `json:"tunnels,omitempty"`

	// Begun counts the steps that were begun; the last of them may have been done or not.
	Begun int `json:"begun"`
}

// device is what a transaction remembers of a device.
type device struct {
	Index    int         `json:"index"`
	Name     string      `json:"name"`
	Up       bool        `json:"up"`
	GenMode  l3.GenMode  `json:"gen_mode"`
	Settings l3.Settings `json:"settings,omitempty"`
}

func (m *machine) remember(l hostnet.Link) (device, error) {
	mode, err := m.l3.GenMode(l.Index)
	if err != nil {
		return device{}, err
	}
	settings, err := l3.ReadSettings(l.Name)
	if err != nil {
		return device{}, err
	}
	return device{Index: l.Index, Name: l.Name, Up: l.Up(), GenMode: mode, Settings: settings}, nil
}

// step is one reversible step. undo must cope with a step that was not done, or half done.
type step struct {
	text string
	do   func(ctx context.Context) error
	undo func() error
}

// run does the steps, each noted in the journal before. On failure, or when ctx ends, it undoes
// what was begun.
func (t *transaction) run(ctx context.Context, b *bridgeScript, steps []step) error {
	e := b.entry
	e.Unfinished = t
	for i, st := range steps {
		err := context.Cause(ctx)
		if err == nil {
			err = t.begin(b, e, i)
		}
		if err == nil {
			err = st.do(ctx)
		}
		if err != nil {
			return t.undo(b, e, steps, fmt.Errorf("%s: %w", st.text, err))
		}
	}
	done := e
	done.Unfinished, done.Started = nil, t.records(e.Started)
	err := b.m.change("note that all is done", func() error { return b.journal.write(done) })
	switch {
	case err == nil:
		return nil
	case t.Command == "stop":
		// There is no way back from here. The next run sees that the bridge is gone.
		b.warn("%v", err)
		return nil
	default: // the next run would undo it
		return t.undo(b, e, steps, err)
	}
}

// undo rolls back because of an error, and returns that and what became of it.
func (t *transaction) undo(b *bridgeScript, e entry, steps []step, why error) error {
	if err := t.rollBack(b.journal, e, steps); err != nil {
		return errors.Join(why, err)
	}
	return fmt.Errorf("%w\neverything was put back as it was", why)
}

// records are the bridges that there are once the transaction is done.
func (t *transaction) records(before records) records {
	others := before.without(t.Bridge.Index)
	if t.Command != "start" {
		return others
	}
	return append(others, record{Device: t.Device.Name, Port: t.Port, BridgeIndex: t.Bridge.Index, WasDown: t.WasDown})
}

// begin notes that step i is begun.
func (t *transaction) begin(b *bridgeScript, e entry, i int) error {
	t.Begun = i + 1
	err := b.m.change(fmt.Sprintf("note step %d", i+1), func() error { return b.journal.write(e) })
	if err != nil {
		t.Begun = i
	}
	return err
}

// rollBack undoes what was begun, last step first, as far as possible. The journal is kept if
// something could not be undone.
func (t *transaction) rollBack(j *journal, e entry, steps []step) error {
	var errs []error
	for i := min(t.Begun, len(steps)) - 1; i >= 0; i-- {
		if steps[i].undo == nil {
			continue
		}
		if err := steps[i].undo(); err != nil {
			errs = append(errs, fmt.Errorf("undo “%s”: %w", steps[i].text, err))
		}
	}
	if len(errs) > 0 {
		return fmt.Errorf("%w\nnot everything could be put back; the next run of network-bridge tries again what %s says", errors.Join(errs...), j.path)
	}
	e.Unfinished = nil
	if err := j.write(e); err != nil {
		// Without a journal the next run knows less, with this one it would undo once more.
		return errors.Join(err, os.Remove(j.path))
	}
	return nil
}
