package domain

import (
	"context"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/xenvnet/xend/sxp"
)

// Params are the parameters of an operation by their names in the API.
type Params map[string]string

// flag tells whether a parameter is given and true.
func (p Params) flag(name string) bool {
	switch strings.ToLower(p[name]) {
	case "", "0", "false", "none", "no":
		return false
	}
	return true
}

// number returns a parameter that must be a number from low to high.
func (p Params) number(name string, low, high int) (int, error) {
	text, _, _ := strings.Cut(p[name], ".") // some clients send floats
	n, err := strconv.Atoi(text)
	if err != nil || n < low || n > high {
		return 0, badForm("%s must be a number from %d to %d, not %s", name, low, high, clip(strconv.Quote(p[name])))
	}
	return n, nil
}

// text returns a parameter that must be given.
func (p Params) text(name string) (string, error) {
	if p[name] == "" {
		return "", badForm("Missing parameter: %s", name)
	}
	return p[name], nil
}

// operation is one of the API's on a domain. use is the command that does the same where there is no toolstack.
type operation struct {
	use string
	do  func(m *Manager, ctx context.Context, t target, p Params) (sxp.Value, error)
}

// plain is an operation without a result.
func plain(use string, do func(m *Manager, ctx context.Context, t target, p Params) error) operation {
	return operation{use, func(m *Manager, ctx context.Context, t target, p Params) (sxp.Value, error) {
		return sxp.Value{}, do(m, ctx, t, p)
	}}
}

// running is an operation on a domain that runs, and that is not Domain-0.
func running(use string, do func(m *Manager, ctx context.Context, id int, t target, p Params) error) operation {
	return plain(use, func(m *Manager, ctx context.Context, t target, p Params) error {
		id, err := t.id()
		if err != nil {
			return err
		}
		err = do(m, ctx, id, t, p)
		m.changed()
		return err
	})
}

// operations are the operations of the API on a domain, by their names in it.
var operations map[string]operation

// It is filled by init, since restarts look into it.
func init() {
	operations = map[string]operation{
		"configure":        plain("", func(*Manager, context.Context, target, Params) error { return nil }),
		"wait_for_devices": plain("", func(*Manager, context.Context, target, Params) error { return nil }), // they are there when it runs
		"device_refresh":   plain("", func(*Manager, context.Context, target, Params) error { return nil }),
		"start": plain("xl create", func(m *Manager, ctx context.Context, t target, p Params) error {
			return m.start(ctx, t, CreateOptions{Paused: p.flag("paused")})
		}),
		"delete": plain("", func(m *Manager, _ context.Context, t target, _ Params) error {
			if t.status != nil {
				return wrongState("Domain %s runs, with id %d: shut it down or destroy it first", t.rec.Name, t.status.ID)
			}
			if err := m.store.remove(t.rec.UUID); err != nil {
				return err
			}
			_ = os.Remove(m.checkpoint(t.rec.UUID)) // if it was suspended
			return nil
		}),
		"destroy": plain("xl destroy", func(m *Manager, ctx context.Context, t target, _ Params) error { return m.destroy(ctx, t) }),
		"shutdown": running("xl shutdown", func(m *Manager, ctx context.Context, id int, _ target, p Params) error {
			switch r := Reason(p["reason"]); r {
			case "":
				return m.tool.Shutdown(ctx, id, Poweroff)
			case Poweroff, Reboot, Halt, Suspend, Crash:
				return m.tool.Shutdown(ctx, id, r)
			}
			return badForm("reason must be poweroff, reboot or halt, not %s", clip(strconv.Quote(p["reason"])))
		}),
		"pause": running("xl pause", func(m *Manager, ctx context.Context, id int, _ target, _ Params) error { return m.tool.Pause(ctx, id) }),
		"unpause": running("xl unpause", func(m *Manager, ctx context.Context, id int, t target, _ Params) error {
			err := m.tool.Unpause(ctx, id)
			if err == nil && t.mine && t.rec.doing == leaving { // somebody has decided that it is here
				t.rec.doing = nothing
				err = m.store.put(t.rec)
			}
			return err
		}),
		"rename": plain("xl rename", func(m *Manager, ctx context.Context, t target, p Params) error {
			return m.rename(ctx, t, p["name"])
		}),
		"save": plain("xl save", func(m *Manager, ctx context.Context, t target, p Params) error {
			file, err := absolutePath(p["file"])
			if err != nil {
				return err
			}
			return m.save(ctx, t, file)
		}),
		"suspend": plain("xl save", func(m *Manager, ctx context.Context, t target, _ Params) error {
			if !t.rec.Managed {
				return wrongState("Domain %s is not managed: 'xm save %s FILE' saves it", t.rec.Name, t.rec.Name)
			}
			return m.save(ctx, t, m.checkpoint(t.rec.UUID))
		}),
		"resume": plain("xl restore", func(m *Manager, ctx context.Context, t target, p Params) error {
			return m.resume(ctx, t, CreateOptions{Paused: p.flag("paused")})
		}),
		"dump": running("xl dump-core", func(m *Manager, ctx context.Context, id int, _ target, p Params) error {
			file, err := absolutePath(p["file"])
			if err != nil {
				return err
			}
			return m.tool.DumpCore(ctx, id, file, p.flag("live"), p.flag("crash"))
		}),
		"migrate": plain("xl migrate", (*Manager).migrate),
		"mem_target_set": plain("xl mem-set", func(m *Manager, ctx context.Context, t target, p Params) error {
			n, err := p.number("target", 1, 1<<30)
			if err != nil {
				return err
			}
			return m.modify(t, func(id int) error { return m.tool.MemSet(ctx, id, n) }, func(c *Config) {
				c.Memory = n
				if c.MaxMem != 0 {
					c.MaxMem = max(c.MaxMem, n)
				}
			})
		}),
		"maxmem_set": plain("xl mem-max", func(m *Manager, ctx context.Context, t target, p Params) error {
			n, err := p.number("memory", 1, 1<<30)
			if err == nil && n < t.rec.Memory {
				err = badForm("the maximum (%d MiB) is less than what domain %s has (%d MiB): 'xm mem-set' first", n, t.rec.Name, t.rec.Memory)
			}
			if err != nil {
				return err
			}
			return m.modify(t, func(id int) error { return m.tool.MemMax(ctx, id, n) }, func(c *Config) { c.MaxMem = n })
		}),
		"set_vcpus": plain("xl vcpu-set", func(m *Manager, ctx context.Context, t target, p Params) error {
			n, err := p.number("vcpus", 1, maxVCPUs)
			if err == nil && t.status != nil && n > len(t.status.VCPUs) && len(t.status.VCPUs) > 0 {
				err = badForm("domain %s has %d virtual processors, which is less than %d", t.rec.Name, len(t.status.VCPUs), n)
			}
			if err != nil {
				return err
			}
			if t.status == nil {
				return m.modify(t, nil, func(c *Config) { c.VCPUs = n })
			}
			return m.modify(t, func(id int) error { return m.tool.VcpuSet(ctx, id, n) }, func(*Config) {})
		}),
		"pincpu": plain("xl vcpu-pin", (*Manager).pin),
		"domain_sched_credit_get": {"xl sched-credit", func(m *Manager, ctx context.Context, t target, _ Params) (sxp.Value, error) {
			weight, limit := t.rec.CPUWeight, t.rec.CPUCap
			if t.status != nil {
				var err error
				if weight, limit, err = m.tool.SchedCredit(ctx, t.status.ID); err != nil {
					return sxp.Value{}, err
				}
			}
			return sxp.List(sxp.Atom("credit"), number("weight", weight), number("cap", limit)), nil
		}},
		"domain_sched_credit_set": plain("xl sched-credit", (*Manager).setCredit),
		"device_create": plain("xl network-attach", func(m *Manager, ctx context.Context, t target, p Params) error {
			d, err := deviceParam(p)
			if err != nil {
				return err
			}
			return m.attach(ctx, t, d)
		}),
		"device_configure": plain("", func(m *Manager, ctx context.Context, t target, p Params) error {
			d, err := deviceParam(p)
			if err != nil {
				return err
			}
			dev := p["dev"]
			if dev == "" {
				dev, _, _ = strings.Cut(d.Param("dev"), ":")
			}
			return m.replace(ctx, t, d, dev)
		}),
		"device_destroy": plain("xl network-detach", func(m *Manager, ctx context.Context, t target, p Params) error {
			kind, err := p.text("type")
			if err != nil {
				return err
			}
			dev, err := p.text("dev")
			if err != nil {
				return err
			}
			return m.detach(ctx, t, kind, dev, p.flag("force"))
		}),
		"sysrq": running("xl sysrq", func(m *Manager, ctx context.Context, id int, _ target, p Params) error {
			key := p["key"]
			if len(key) != 1 || key[0] <= ' ' || key[0] > '~' {
				return badForm("key must be one letter, not %s", clip(strconv.Quote(key)))
			}
			return m.tool.Sysrq(ctx, id, key[0])
		}),
		"send_trigger": running("xl trigger", func(m *Manager, ctx context.Context, id int, _ target, p Params) error {
			vcpu := 0
			if p["vcpu"] != "" {
				var err error
				if vcpu, err = p.number("vcpu", 0, maxVCPUs); err != nil {
					return err
				}
			}
			known := []string{"nmi", "reset", "init", "power", "sleep", "s3resume"}
			if !slices.Contains(known, p["trigger"]) {
				return badForm("trigger must be one of %s, not %s", strings.Join(known, ", "), clip(strconv.Quote(p["trigger"])))
			}
			return m.tool.Trigger(ctx, id, p["trigger"], vcpu)
		}),
	}
}

// formParam reads the parameter config: one form.
func formParam(p Params) (sxp.Value, error) {
	text, err := p.text("config")
	if err != nil {
		return sxp.Value{}, err
	}
	forms, err := sxp.Parse([]byte(text), sxp.Xend)
	switch {
	case err != nil:
		return sxp.Value{}, &FormError{err.Error()}
	case len(forms) == 0:
		return sxp.Value{}, badForm("the configuration is empty")
	case len(forms) > 1:
		return sxp.Value{}, badForm("Too many sxprs")
	}
	return forms[0], nil
}

func deviceParam(p Params) (DeviceConfig, error) {
	form, err := formParam(p)
	if err != nil {
		return DeviceConfig{}, err
	}
	return ParseDevice(form)
}

func (m *Manager) migrate(ctx context.Context, t target, p Params) error {
	id, err := t.id()
	if err != nil {
		return err
	}
	host, err := p.text("destination")
	if err != nil {
		return err
	}
	if strings.HasPrefix(host, "-") || strings.ContainsAny(host, " \t\r\n/\x00") {
		return badForm("destination must be the name or address of a host, not %s", clip(strconv.Quote(host)))
	}
	o := MigrateOptions{Host: host, Live: p.flag("live"), SSL: p.flag("ssl")}
	if p["port"] != "" && p["port"] != "0" {
		if o.Port, err = p.number("port", 1, 65535); err != nil {
			return err
		}
	}
	if t.status.Reason != "" {
		return wrongState("Domain %s has shut down (%s)", t.rec.Name, t.status.Reason)
	}
	return m.leave(t, leaving, func() error { return m.tool.Migrate(ctx, id, t.rec.Config, o) })
}

// pin chooses the processors of a virtual one: cpumap is "0-3,^1", "all", or (0 1 2).
func (m *Manager) pin(ctx context.Context, t target, p Params) error {
	vcpu := -1
	if p["vcpu"] != "all" && p["vcpu"] != "-1" {
		var err error
		if vcpu, err = p.number("vcpu", 0, maxVCPUs); err != nil {
			return err
		}
	}
	count := m.machine().topology().cpus
	if info, err := m.known.info.ask(ctx); err == nil && info != nil {
		if n, err := strconv.Atoi(info["nr_cpus"]); err == nil {
			count = n
		}
	}
	cpus, err := parseCPUMap(p["cpumap"], count)
	if err != nil {
		return err
	}
	if t.status != nil && vcpu >= len(t.status.VCPUs) && len(t.status.VCPUs) > 0 {
		return badForm("domain %s has no virtual processor %d: they count from 0 to %d", t.rec.Name, vcpu, len(t.status.VCPUs)-1)
	}
	return m.modify(t, func(id int) error { return m.tool.VcpuPin(ctx, id, vcpu, cpus) }, func(c *Config) {
		text := make([]string, len(cpus))
		for i, cpu := range cpus {
			text[i] = strconv.Itoa(cpu)
		}
		list := strings.Join(text, ",")
		if vcpu < 0 {
			c.CPUs = []string{list}
			return
		}
		each := make([]string, max(1, c.VCPUs, vcpu+1))
		for i := range each {
			switch {
			case len(c.CPUs) == 1:
				each[i] = c.CPUs[0]
			case i < len(c.CPUs):
				each[i] = c.CPUs[i]
			default:
				each[i] = "all"
			}
		}
		each[vcpu] = list
		c.CPUs = each
	})
}

// parseCPUMap reads a list of processors of a machine that has so many.
func parseCPUMap(text string, count int) ([]int, error) {
	bad := badForm("cpumap must be processors of this machine, such as 0-%d,^1, not %s", max(0, count-1), clip(strconv.Quote(text)))
	in := map[int]bool{}
	fields := strings.FieldsFunc(text, func(r rune) bool { return strings.ContainsRune(", ()[]", r) })
	for _, f := range fields {
		out := strings.HasPrefix(f, "^")
		f = strings.TrimPrefix(f, "^")
		if f == "all" {
			f = "0-" + strconv.Itoa(max(0, count-1))
		}
		from, to, isRange := strings.Cut(f, "-")
		if !isRange {
			to = from
		}
		a, err1 := strconv.Atoi(from)
		b, err2 := strconv.Atoi(to)
		if err1 != nil || err2 != nil || a < 0 || b < a || b >= max(1, count) {
			return nil, bad
		}
		for cpu := a; cpu <= b; cpu++ {
			if in[cpu] = !out; out {
				delete(in, cpu)
			}
		}
	}
	if len(in) == 0 {
		return nil, bad
	}
	return slices.Sorted(maps.Keys(in)), nil
}

func (m *Manager) setCredit(ctx context.Context, t target, p Params) error {
	weight, limit := t.rec.CPUWeight, t.rec.CPUCap
	if t.status != nil {
		var err error
		if weight, limit, err = m.tool.SchedCredit(ctx, t.status.ID); err != nil {
			return err
		}
	}
	var err error
	if p["weight"] != "" && p["weight"] != "0" {
		if weight, err = p.number("weight", 1, 65535); err != nil {
			return err
		}
	}
	// ~0, as an unsigned number, is what clients send for no change.
	if p["cap"] != "" && p["cap"] != "65535" && p["cap"] != "-1" {
		if limit, err = p.number("cap", 0, 100*maxVCPUs); err != nil {
			return err
		}
	}
	return m.modify(t, func(id int) error { return m.tool.SetSchedCredit(ctx, id, weight, limit) }, func(c *Config) {
		c.CPUWeight, c.CPUCap = weight, limit
	})
}

// KnownOp tells whether the API has an operation of that name on domains, supported or not.
func KnownOp(op string) bool {
	_, ok := operations[op]
	return ok
}

// Op does an operation on a domain, by name, id or uuid, and returns its result, which may be the
// empty atom. A domain that does not exist is a NotFoundError, whatever the operation.
func (m *Manager) Op(ctx context.Context, key, op string, p Params) (sxp.Value, error) {
	if m.tool == nil {
		if _, err := m.Get(ctx, key); err != nil {
			return sxp.Value{}, err
		}
		return sxp.Value{}, unsupported(op)
	}
	t, err := m.target(ctx, key)
	if err != nil {
		return sxp.Value{}, err
	}
	release := t.release
	released := false
	t.release = func() {
		if !released {
			released = true
			release()
		}
	}
	defer t.release()
	if t.rec.UUID == dom0UUID && !onDomain0[op] {
		return sxp.Value{}, wrongState("Domain-0 is this host itself: %s is not for it", op)
	}
	// From here on it is all or nothing, whether or not the client stays.
	return operations[op].do(m, context.WithoutCancel(ctx), t, p)
}

// onDomain0 are the operations that make sense for it.
var onDomain0 = map[string]bool{
	"mem_target_set": true, "maxmem_set": true, "set_vcpus": true, "pincpu": true, "domain_sched_credit_get": true,
	"domain_sched_credit_set": true, "wait_for_devices": true,
}

func unsupported(op string) error {
	use := map[string]string{"create": "xl create", "new": "xl create", "restore": "xl restore"}[op]
	if o, ok := operations[op]; ok {
		use = o.use
	}
	return &UnsupportedError{Op: op, Use: use}
}
