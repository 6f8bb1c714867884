// Package domaintest has a toolstack for tests, whose domains are entries of a table.
package domaintest

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/xenvnet/xend/sxp"
	"github.com/xenvnet/xend/xendcompat/domain"
)

// Toolstack is a toolstack whose domains are entries of a table. Its zero value has none, not even Domain-0.
type Toolstack struct {
	// Fail, if not nil, is asked before everything that changes something, "create vm1", "destroy 3"; its error is the answer.
	Fail func(op string) error
	// Blind, if not nil, is List's answer: the toolstack hangs. After may set it.
	Blind error
	// After, if not nil, is told of everything that changed something.
	After func(op string)
	// File, if not empty, keeps the domains, so that they survive the process, as those of a real toolstack do. Load reads it.
	File string

	mu      sync.Mutex
	next    int // the last id that was given
	domains map[int]*domain.Status
	events  []chan domain.Event
	calls   []string
}

var _ domain.Toolstack = (*Toolstack)(nil)

// Calls returns what changed something so far, and forgets it.
func (t *Toolstack) Calls() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	calls := t.calls
	t.calls = nil
	return calls
}

// do has f change the domain with that id, if Fail agrees.
func (t *Toolstack) do(id int, op string, f func(*domain.Status)) error {
	if err := t.ask(op); err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	s, ok := t.domains[id]
	if !ok {
		return &domain.NotFoundError{Name: strconv.Itoa(id)}
	}
	t.calls = append(t.calls, op)
	f(s)
	t.savedLocked(op)
	return nil
}

// savedLocked writes the file and tells of a change. mu is held.
func (t *Toolstack) savedLocked(op string) {
	if t.File != "" {
		var items []sxp.Value
		for _, id := range slices.Sorted(maps.Keys(t.domains)) {
			s := t.domains[id]
			c := s.Config
			c.Name = s.Name
			items = append(items, sxp.List(sxp.Atom(strconv.Itoa(id)), sxp.Atom(string(s.Flags)), sxp.Atom(string(s.Reason)), c.SXP()))
		}
		text := sxp.List(sxp.Atom(strconv.Itoa(t.next)), sxp.List(items...)).String()
		if err := errors.Join(os.WriteFile(t.File+".new", []byte(text), 0o600), os.Rename(t.File+".new", t.File)); err != nil {
			panic(err)
		}
	}
	if t.After != nil {
		t.After(op)
	}
}

// Load reads File, if it is there.
func (t *Toolstack) Load() error {
	b, err := os.ReadFile(t.File)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	forms, err := sxp.Parse(b, sxp.Xend)
	if err != nil {
		return err
	}
	for _, v := range forms[0].Items()[1].Items() {
		e := v.Items()
		c, err := domain.ParseForm(e[3])
		if err != nil {
			return err
		}
		id, err := strconv.Atoi(e[0].Text())
		if err != nil {
			return err
		}
		t.next = id - 1
		t.Add(c, false)
		t.domains[id].Flags, t.domains[id].Reason = domain.Flags(e[1].Text()), domain.Reason(e[2].Text())
	}
	t.next, err = strconv.Atoi(forms[0].Items()[0].Text())
	return err
}

func (t *Toolstack) ask(op string) error {
	if t.Fail == nil {
		return nil
	}
	return t.Fail(op)
}

// Name implements [domain.Toolstack].
func (*Toolstack) Name() string { return "fake" }

// List implements [domain.Toolstack].
func (t *Toolstack) List(context.Context) ([]domain.Status, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.Blind != nil {
		return nil, t.Blind
	}
	var list []domain.Status
	for _, id := range slices.Sorted(maps.Keys(t.domains)) {
		s := *t.domains[id]
		s.Devices = slices.Clone(s.Devices)
		s.VCPUs = slices.Clone(s.VCPUs)
		list = append(list, s)
	}
	return list, nil
}

// Info implements [domain.Toolstack].
func (*Toolstack) Info(context.Context) (map[string]string, error) { return nil, nil }

// Dmesg implements [domain.Toolstack].
func (*Toolstack) Dmesg(_ context.Context, clear bool) ([]byte, error) {
	if clear {
		return nil, nil
	}
	return []byte("(fake) no hypervisor\n"), nil
}

// Create implements [domain.Toolstack].
func (t *Toolstack) Create(_ context.Context, c domain.Config, o domain.CreateOptions) (int, error) {
	if err := t.ask("create " + c.Name); err != nil {
		return 0, err
	}
	t.mu.Lock()
	t.calls = append(t.calls, "create "+c.Name)
	t.mu.Unlock()
	return t.Add(c, o.Paused), nil
}

// Add makes a domain without being asked by the tested code, as other people's tools do.
func (t *Toolstack) Add(c domain.Config, paused bool) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.next++
	s := &domain.Status{
		ID: t.next, Name: c.Name, UUID: c.UUID, Memory: c.Memory, MaxMem: max(c.Memory, c.MaxMem), Flags: flags(paused),
		CPUTime: 12345678 * time.Microsecond, Started: time.Unix(1143111537, 890e6), CPUWeight: cmp.Or(c.CPUWeight, 256), CPUCap: c.CPUCap, Config: c,
	}
	for range max(1, c.VCPUs) {
		s.VCPUs = append(s.VCPUs, domain.VCPU{Online: true, CPUTime: time.Second, Affinity: []int{0, 1}})
	}
	for _, d := range c.AllDevices() {
		attach(s, d)
	}
	if t.domains == nil {
		t.domains = map[int]*domain.Status{}
	}
	t.domains[t.next] = s
	t.savedLocked("add " + c.Name)
	t.tellLocked(domain.Event{ID: s.ID, UUID: s.UUID})
	return s.ID
}

func attach(s *domain.Status, c domain.DeviceConfig) int {
	n := 0
	for _, d := range s.Devices {
		if d.Kind == c.Kind {
			n = max(n, d.ID+1)
		}
	}
	params := []domain.Param{{Name: "backend-id", Value: "0"}}
	params = append(params, c.Params...)
	params = append(params, domain.Param{Name: "handle", Value: strconv.Itoa(n)}, domain.Param{Name: "state", Value: "4"},
		domain.Param{Name: "backend", Value: fmt.Sprintf("/local/domain/0/backend/%s/%d/%d", c.Kind, s.ID, n)},
		domain.Param{Name: "event-channel", Value: "9"}, domain.Param{Name: "tx-ring-ref", Value: "521"}, domain.Param{Name: "rx-ring-ref", Value: "522"})
	s.Devices = append(s.Devices, domain.Device{Kind: c.Kind, ID: n, Params: params})
	return n
}

func flags(paused bool) domain.Flags {
	if paused {
		return "--p---"
	}
	return "r-----"
}

// tellLocked tells an event to whoever watches. mu is held.
func (t *Toolstack) tellLocked(e domain.Event) {
	for _, c := range t.events {
		c <- e
	}
}

// End makes a domain shut down by itself. It stays until it is destroyed.
func (t *Toolstack) End(id int, r domain.Reason) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if s, ok := t.domains[id]; ok {
		s.Reason, s.Flags = r, "---s--"
		if r == domain.Crash {
			s.Flags = "---sc-"
		}
		t.savedLocked("end")
		t.tellLocked(domain.Event{ID: id, UUID: s.UUID, Reason: r})
	}
}

// Destroy implements [domain.Toolstack].
func (t *Toolstack) Destroy(_ context.Context, id int) error {
	return t.do(id, fmt.Sprintf("destroy %d", id), func(s *domain.Status) {
		delete(t.domains, id)
		t.tellLocked(domain.Event{ID: id, UUID: s.UUID})
	})
}

// Shutdown implements [domain.Toolstack]. The domain obeys at once.
func (t *Toolstack) Shutdown(_ context.Context, id int, r domain.Reason) error {
	err := t.do(id, fmt.Sprintf("shutdown %d %s", id, r), func(*domain.Status) {})
	if err == nil {
		t.End(id, r)
	}
	return err
}

// Pause implements [domain.Toolstack].
func (t *Toolstack) Pause(_ context.Context, id int) error {
	return t.do(id, fmt.Sprintf("pause %d", id), func(s *domain.Status) { s.Flags = flags(true) })
}

// Unpause implements [domain.Toolstack].
func (t *Toolstack) Unpause(_ context.Context, id int) error {
	return t.do(id, fmt.Sprintf("unpause %d", id), func(s *domain.Status) { s.Flags = flags(false) })
}

// Rename implements [domain.Toolstack].
func (t *Toolstack) Rename(_ context.Context, id int, name string) error {
	return t.do(id, fmt.Sprintf("rename %d %s", id, name), func(s *domain.Status) { s.Name = name })
}

// Save implements [domain.Toolstack].
func (t *Toolstack) Save(_ context.Context, id int, c domain.Config, file string) error {
	return t.do(id, fmt.Sprintf("save %d", id), func(s *domain.Status) {
		_ = os.WriteFile(file, []byte(c.SXP().String()), 0o600)
		delete(t.domains, id)
		t.tellLocked(domain.Event{ID: id, UUID: s.UUID})
	})
}

// Restore implements [domain.Toolstack].
func (t *Toolstack) Restore(ctx context.Context, file string, o domain.CreateOptions, admit func(domain.Config) error) (int, domain.Config, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return 0, domain.Config{}, err
	}
	forms, err := sxp.Parse(b, sxp.Xend)
	if err != nil || len(forms) != 1 {
		return 0, domain.Config{}, fmt.Errorf("%s was not written by xm save", file)
	}
	c, err := domain.ParseForm(forms[0])
	if err == nil {
		err = admit(c)
	}
	if err != nil {
		return 0, c, err
	}
	id, err := t.Create(ctx, c, o)
	return id, c, err
}

// Migrate implements [domain.Toolstack]. The other host is nowhere.
func (t *Toolstack) Migrate(_ context.Context, id int, _ domain.Config, o domain.MigrateOptions) error {
	return t.do(id, fmt.Sprintf("migrate %d %s:%d live=%t", id, o.Host, o.Port, o.Live), func(s *domain.Status) {
		delete(t.domains, id)
		t.tellLocked(domain.Event{ID: id, UUID: s.UUID})
	})
}

// VcpuSet implements [domain.Toolstack].
func (t *Toolstack) VcpuSet(_ context.Context, id, n int) error {
	return t.do(id, fmt.Sprintf("vcpu-set %d %d", id, n), func(s *domain.Status) {
		for i := range s.VCPUs {
			s.VCPUs[i].Online = i < n
		}
	})
}

// VcpuPin implements [domain.Toolstack].
func (t *Toolstack) VcpuPin(_ context.Context, id, vcpu int, cpus []int) error {
	return t.do(id, fmt.Sprintf("vcpu-pin %d %d %v", id, vcpu, cpus), func(s *domain.Status) {
		for i := range s.VCPUs {
			if vcpu < 0 || i == vcpu {
				s.VCPUs[i].Affinity = cpus
			}
		}
	})
}

// MemSet implements [domain.Toolstack].
func (t *Toolstack) MemSet(_ context.Context, id, mib int) error {
	return t.do(id, fmt.Sprintf("mem-set %d %d", id, mib), func(s *domain.Status) { s.Memory = mib })
}

// MemMax implements [domain.Toolstack].
func (t *Toolstack) MemMax(_ context.Context, id, mib int) error {
	return t.do(id, fmt.Sprintf("mem-max %d %d", id, mib), func(s *domain.Status) { s.MaxMem = mib })
}

// SchedCredit implements [domain.Toolstack].
func (t *Toolstack) SchedCredit(_ context.Context, id int) (weight, limit int, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s, ok := t.domains[id]
	if !ok {
		return 0, 0, &domain.NotFoundError{Name: strconv.Itoa(id)}
	}
	return s.CPUWeight, s.CPUCap, nil
}

// SetSchedCredit implements [domain.Toolstack].
func (t *Toolstack) SetSchedCredit(_ context.Context, id, weight, limit int) error {
	return t.do(id, fmt.Sprintf("sched-credit %d %d %d", id, weight, limit), func(s *domain.Status) { s.CPUWeight, s.CPUCap = weight, limit })
}

// DeviceAttach implements [domain.Toolstack].
func (t *Toolstack) DeviceAttach(_ context.Context, id int, d domain.DeviceConfig) (dev int, err error) {
	err = t.do(id, fmt.Sprintf("attach %d %s", id, d.SXP()), func(s *domain.Status) { dev = attach(s, d) })
	return dev, err
}

// DeviceDetach implements [domain.Toolstack].
func (t *Toolstack) DeviceDetach(_ context.Context, id int, kind string, dev int, force bool) error {
	return t.do(id, fmt.Sprintf("detach %d %s %d force=%t", id, kind, dev, force), func(s *domain.Status) {
		s.Devices = slices.DeleteFunc(s.Devices, func(d domain.Device) bool { return d.Kind == kind && d.ID == dev })
	})
}

// Sysrq implements [domain.Toolstack].
func (t *Toolstack) Sysrq(_ context.Context, id int, key byte) error {
	return t.do(id, fmt.Sprintf("sysrq %d %c", id, key), func(*domain.Status) {})
}

// Trigger implements [domain.Toolstack]. It knows nothing but nmi.
func (t *Toolstack) Trigger(_ context.Context, id int, trigger string, vcpu int) error {
	if trigger != "nmi" {
		return &domain.UnsupportedError{Toolstack: "fake", Op: "trigger " + trigger, Use: "trigger nmi"}
	}
	return t.do(id, fmt.Sprintf("trigger %d %s %d", id, trigger, vcpu), func(*domain.Status) {})
}

// DumpCore implements [domain.Toolstack].
func (t *Toolstack) DumpCore(_ context.Context, id int, file string, live, crash bool) error {
	return t.do(id, fmt.Sprintf("dump-core %d live=%t crash=%t", id, live, crash), func(*domain.Status) {
		_ = os.WriteFile(file, []byte("core"), 0o600)
	})
}

// Console implements [domain.Toolstack]. It is a loop: what is written can be read.
func (t *Toolstack) Console(_ context.Context, id int) (io.ReadWriteCloser, error) {
	if err := t.do(id, fmt.Sprintf("console %d", id), func(*domain.Status) {}); err != nil {
		return nil, err
	}
	return &loop{Buffer: *bytes.NewBufferString("login: ")}, nil
}

type loop struct{ bytes.Buffer }

func (*loop) Close() error { return nil }

// Watch implements [domain.Toolstack].
func (t *Toolstack) Watch(ctx context.Context) <-chan domain.Event {
	const plenty = 1000 // events that a test has
	c := make(chan domain.Event, plenty)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.events = append(t.events, c)
	for _, id := range slices.Sorted(maps.Keys(t.domains)) {
		if s := t.domains[id]; s.Reason != "" {
			c <- domain.Event{ID: id, UUID: s.UUID, Reason: s.Reason}
		}
	}
	context.AfterFunc(ctx, func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.events = slices.DeleteFunc(t.events, func(e chan domain.Event) bool { return e == c })
		close(c)
	})
	return c
}
