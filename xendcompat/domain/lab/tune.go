package lab

import (
	"context"
	"errors"
	"fmt"

	"github.com/xenvnet/xend/internal/hostnet"
	"github.com/xenvnet/xend/xendcompat/domain"
)

// relimit changes limits, in the kernel and on the record.
func (t *Toolstack) relimit(ctx context.Context, id int, change func(r *record) error) error {
	g, release, err := t.takeAlive(ctx, id)
	if err != nil {
		return err
	}
	defer release()
	next := g.rec
	next.Pins = append([][]int(nil), g.rec.Pins...)
	if err := change(&next); err != nil {
		return err
	}
	if err := t.cgroups.limit(id, next.Limits); err != nil {
		return fmt.Errorf("domain %s: %w", g.rec.Name, err)
	}
	return g.update(func(r *record) { r.Limits, r.Pins, r.MaxMem = next.Limits, next.Pins, next.MaxMem })
}

// VcpuSet gives the domain the time of so many processors.
func (t *Toolstack) VcpuSet(ctx context.Context, id, n int) error {
	return t.relimit(ctx, id, func(r *record) error {
		if n < 1 || n > len(r.Pins) {
			return fmt.Errorf("domain %s has 1 to %d virtual processors, not %d", r.Name, len(r.Pins), n)
		}
		r.Limits.VCPUs = n
		return nil
	})
}

// VcpuPin sets where the domain may run: on the processors of any of its virtual ones.
func (t *Toolstack) VcpuPin(ctx context.Context, id, vcpu int, cpus []int) error {
	return t.relimit(ctx, id, func(r *record) error {
		if vcpu >= len(r.Pins) {
			return fmt.Errorf("domain %s has no virtual processor %d, only 0 to %d", r.Name, vcpu, len(r.Pins)-1)
		}
		for i := range r.Pins {
			if vcpu < 0 || i == vcpu {
				r.Pins[i] = cpus
			}
		}
		r.Limits.CPUs = union(r.Pins)
		return nil
	})
}

// MemSet limits the domain's memory.
func (t *Toolstack) MemSet(ctx context.Context, id, mib int) error {
	return t.relimit(ctx, id, func(r *record) error {
		if mib < 1 || mib > r.MaxMem {
			return fmt.Errorf("domain %s can have 1 to %d MiB, not %d; 'xm mem-max' changes that", r.Name, r.MaxMem, mib)
		}
		r.Limits.Memory = mib
		return nil
	})
}

// MemMax sets what MemSet can set.
func (t *Toolstack) MemMax(ctx context.Context, id, mib int) error {
	return t.relimit(ctx, id, func(r *record) error {
		if mib < 1 || mib > 1<<30 {
			return fmt.Errorf("%d MiB is no size of a memory", mib)
		}
		r.MaxMem = mib
		r.Limits.Memory = min(r.Limits.Memory, mib)
		return nil
	})
}

// SchedCredit returns weight and cap.
func (t *Toolstack) SchedCredit(_ context.Context, id int) (weight, limit int, err error) {
	g, err := t.get(id)
	if err != nil {
		return 0, 0, err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.rec.Limits.Weight, g.rec.Limits.Cap, nil
}

// SetSchedCredit sets them.
func (t *Toolstack) SetSchedCredit(ctx context.Context, id, weight, limit int) error {
	return t.relimit(ctx, id, func(r *record) error {
		if weight < 1 || weight > 65535 || limit < 0 || limit > 100*len(r.Pins) {
			return fmt.Errorf("weight %d, cap %d: a weight is 1 to 65535, a cap of domain %s 0 to %d", weight, limit, r.Name, 100*len(r.Pins))
		}
		r.Limits.Weight, r.Limits.Cap = weight, limit
		return nil
	})
}

// DeviceAttach adds a vif; there are no other devices here.
func (t *Toolstack) DeviceAttach(ctx context.Context, id int, d domain.DeviceConfig) (int, error) {
	if d.Kind != "vif" {
		return 0, t.unsupported("device_create "+d.Kind, "a vif, the only device of a domain here")
	}
	v, err := domain.ParseVif(d.Params)
	if err != nil {
		return 0, err
	}
	if v.MAC == "" {
		v.MAC = domain.NewMAC()
	}
	if err := t.checkVif(v); err != nil {
		return 0, err
	}
	g, release, err := t.takeAlive(ctx, id)
	if err != nil {
		return 0, err
	}
	defer release()
	number := 0
	for _, other := range g.rec.Vifs {
		number = max(number, other.Number+1)
	}
	if number >= maxVifs {
		return 0, fmt.Errorf("domain %s has %d vifs, which is as many as there can be", g.rec.Name, maxVifs)
	}
	var n network
	if err := n.vif(number, v); err != nil {
		return 0, err
	}
	ns, err := g.network()
	if err != nil {
		return 0, err
	}
	defer ns.Close()
	if err := t.step("note vif %d", number); err != nil {
		return 0, err
	}
	// On the record first, by its name: whatever happens now, it is taken away with the domain.
	if err := g.update(func(r *record) {
		r.Vifs = append(r.Vifs, vifRecord{Number: number, Device: vifName(id, number), Script: t.scriptOf(v)})
	}); err != nil {
		return 0, err
	}
	if err := t.step("device vif %d", number); err != nil {
		return 0, errors.Join(err, t.detach(context.WithoutCancel(ctx), g, g.rec.Vifs[len(g.rec.Vifs)-1]))
	}
	made, err := t.makeVif(ns, id, number, v)
	if err == nil {
		err = t.step("record vif %d", number)
	}
	if err == nil {
		err = g.update(func(r *record) { r.Vifs[len(r.Vifs)-1] = made })
	}
	if err == nil {
		err = t.connectVif(ctx, ns, &g.rec, &made, g.paused)
	}
	if err == nil {
		err = n.apply(ns)
	}
	if err != nil {
		if errUndo := t.detach(context.WithoutCancel(ctx), g, made); errUndo != nil {
			t.o.Log.Warn("something of a vif is left", "domid", id, "vif", number, "error", errUndo)
		}
		return 0, fmt.Errorf("domain %s: vif %d: %w", g.rec.Name, number, err)
	}
	return number, nil
}

// network binds to the domain's namespace.
func (g *guest) network() (*hostnet.Host, error) {
	return hostnet.At(fmt.Sprintf("/proc/%d/ns/net", g.pid))
}

// DeviceDetach takes a vif away.
func (t *Toolstack) DeviceDetach(ctx context.Context, id int, kind string, dev int, _ bool) error {
	if kind != "vif" {
		return t.unsupported("device_destroy "+kind, "a vif, the only device of a domain here")
	}
	// One that has ended and is kept gives its devices away, too.
	g, release, err := t.take(ctx, id)
	if err != nil {
		return err
	}
	defer release()
	for _, v := range g.rec.Vifs {
		if v.Number == dev {
			return t.detach(ctx, g, v)
		}
	}
	return fmt.Errorf("domain %s has no vif %d", g.rec.Name, dev)
}

// detach is for who has the turn.
func (t *Toolstack) detach(ctx context.Context, g *guest, v vifRecord) error {
	if err := t.step("offline vif %d", v.Number); err != nil {
		return err
	}
	if err := t.removeVif(ctx, &g.rec, &v); err != nil {
		return err
	}
	if err := t.step("detached vif %d", v.Number); err != nil {
		return err
	}
	if err := t.xenstore().remove(backendPath(g.id, v.Number)); err != nil {
		return err
	}
	return g.update(func(r *record) {
		kept := r.Vifs[:0]
		for _, other := range r.Vifs {
			if other.Number != v.Number {
				kept = append(kept, other)
			}
		}
		r.Vifs = kept
	})
}

// Sysrq shows the key on the console and does c (crash), b (reboot) and o (power off).
func (t *Toolstack) Sysrq(ctx context.Context, id int, key byte) error {
	if key <= ' ' || key > '~' {
		return fmt.Errorf("sysrq: %q is not a key", key)
	}
	g, release, err := t.takeAlive(ctx, id)
	if err != nil {
		return err
	}
	defer release()
	return g.order(ctx, "sysrq "+string(rune(key)))
}

// Trigger does power and reset.
func (t *Toolstack) Trigger(ctx context.Context, id int, trigger string, _ int) error {
	switch trigger {
	case "power":
		return t.Shutdown(ctx, id, domain.Poweroff)
	case "reset":
		return t.Shutdown(ctx, id, domain.Reboot)
	}
	return t.unsupported("trigger "+trigger, "power or reset")
}

// DumpCore is not possible: the domain's memory is that of its processes.
func (t *Toolstack) DumpCore(context.Context, int, string, bool, bool) error {
	return t.unsupported("dump", "gcore with the process ids of the domain's programs")
}
