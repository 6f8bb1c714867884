package lab

import (
	"bufio"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/xenvnet/xend/internal/hostnet"
	"github.com/xenvnet/xend/xendcompat/domain"
)

// Options configure the toolstack. Those whose zero value is not described are required.
type Options struct {
	// Dir is its directory, below /run: what is there must not survive a reboot.
	Dir string
	// ScriptDirs are where vif scripts are looked for, the first first.
	ScriptDirs []string
	// VifScript is the script of vifs that name none, with arguments.
	VifScript string
	// Prefix is what $XEND_PREFIX is for scripts; "" leaves it as it is.
	Prefix string
	// Program is this program, for which Main is called first; "" means os.Executable.
	Program string
	// Host is the network that vifs are in.
	Host *hostnet.Host
	// Cgroup is where cgroups of version 2 are mounted; "" means that it is found out.
	Cgroup string
	// CRIU is the command that saves and restores processes; "" means criu in $PATH, if it is there and the kernel can.
	CRIU string
	// Relocation says how domains come and go; nil: they don't.
	Relocation *Relocation
	// Guarded says that others than root may ask for domains: none may name a program, nor a script but one in ScriptDirs.
	Guarded bool
	// Log may be nil.
	Log *slog.Logger
	// Before, if set, is called before each step that changes something; its error is the step's. Tests fail or kill there.
	Before func(step string) error
}

// Toolstack is a domain.Toolstack.
type Toolstack struct {
	o       Options
	cgroups cgroups
	criu    criu
	creates sync.Mutex // held while an id is chosen

	mu       sync.Mutex
	domains  map[int]*guest
	watchers map[*watcher]bool
	closed   bool

	ctx  context.Context // ends with Close
	stop context.CancelFunc
	done sync.WaitGroup
}

var _ domain.Toolstack = (*Toolstack)(nil)

// guest is a domain that exists. Its operations take turns.
type guest struct {
	t           *Toolstack
	id, pid     int
	uuid, token string
	dir         string
	turn        chan struct{} // held by the one operation that goes on
	pidfd       int
	ended       chan struct{} // closed when the keeper is gone

	mu     sync.Mutex
	rec    record // changed with turn and mu held
	paused bool
	doomed bool // it is being destroyed
	// leaving is set from when it may run elsewhere until it is known that it does not; also while it is destroyed because it does.
	leaving bool
	exit    *Exit // set when it has ended
	gone    bool  // its pidfd is closed
}

// Open takes over the domains that an earlier xend left, and removes what it left half made.
func Open(o Options) (*Toolstack, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Before == nil {
		o.Before = func(string) error { return nil }
	}
	if o.Program == "" {
		exe, err := os.Executable()
		if err != nil {
			return nil, err
		}
		o.Program = exe
	}
	t := &Toolstack{o: o, criu: criu{command: o.CRIU}, domains: map[int]*guest{}, watchers: map[*watcher]bool{}}
	t.ctx, t.stop = context.WithCancel(context.Background())
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return nil, err
	}
	if err := t.linkTools(); err != nil {
		return nil, fmt.Errorf("xenstore tools: %w", err)
	}
	mount := o.Cgroup
	if mount == "" {
		mounts, _ := os.ReadFile("/proc/self/mounts")
		mount = findCgroups(mounts)
	}
	label := fmt.Sprintf("%x", sha256.Sum256([]byte(o.Dir)))[:8]
	var err error
	if t.cgroups, err = openCgroups(mount, label); err != nil {
		o.Log.Warn("domains are not limited in everything that their configurations say", "reason", err, "missing", strings.Join(t.cgroups.missing, " "))
	}
	if err := t.sweep(); err != nil {
		return nil, errors.Join(err, t.Close())
	}
	return t, nil
}

// Close lets go of the domains, which live on.
func (t *Toolstack) Close() error {
	t.mu.Lock()
	t.closed = true
	t.mu.Unlock()
	t.stop()
	t.done.Wait()
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, g := range t.domains {
		g.closeFD()
	}
	return nil
}

// Name is "lab".
func (t *Toolstack) Name() string { return "lab" }

func (t *Toolstack) dir(id int) string { return filepath.Join(t.o.Dir, strconv.Itoa(id)) }

func (t *Toolstack) xenstore() xenstore { return xenstore(filepath.Join(t.o.Dir, "xenstore")) }

// sweep finds what there is.
func (t *Toolstack) sweep() error {
	entries, err := os.ReadDir(t.o.Dir)
	if err != nil {
		return err
	}
	known := map[int]bool{}
	for _, e := range entries {
		id, err := strconv.Atoi(e.Name())
		if err != nil || !e.IsDir() {
			continue
		}
		known[id] = true
		if err := t.find(id); err != nil {
			t.o.Log.Error("a domain is left as it is", "domid", id, "error", err)
		}
	}
	t.cgroups.tidy()
	for _, id := range t.cgroups.ours() {
		if !known[id] {
			if err := t.cgroups.remove(id); err != nil {
				t.o.Log.Warn("a control group is left", "domid", id, "error", err)
			}
		}
	}
	return nil
}

// find takes over one domain, or removes it.
func (t *Toolstack) find(id int) error {
	dir := t.dir(id)
	rec, err := readRecord(dir)
	if err != nil { // it was never more than a directory; or somebody wrote to it
		t.o.Log.Warn("a domain's directory without a record is removed", "domid", id, "error", err)
		return t.clean(context.Background(), dir, &record{ID: id})
	}
	// Who was not told to be has never been acknowledged, and a doomed one was to go.
	started := marked(dir, startedFile)
	if !started || marked(dir, doomedFile) {
		if !started { // nor does it from here on, whatever its keeper may do before it is killed
			rec.Token = ""
		}
		t.o.Log.Info("the remains of a domain are removed", "domid", id, "name", rec.Name)
		if fd, err := findProcess(rec.PID, rec.Start); err == nil {
			err = end(fd)
			unix.Close(fd)
			if err != nil {
				return err
			}
		}
		return t.clean(context.Background(), dir, rec)
	}
	g := t.newGuest(rec)
	fd, err := findProcess(rec.PID, rec.Start)
	if err != nil {
		exit := readExit(dir)
		g.exit, g.gone = &exit, true
		close(g.ended)
		t.add(g)
		t.o.Log.Info("a domain has ended meanwhile", "domid", id, "name", rec.Name, "reason", exit.Reason)
		return nil
	}
	g.pidfd = fd
	g.leaving = marked(dir, leavingFile)
	g.paused = marked(dir, pausedFile) || g.leaving
	t.add(g)
	t.done.Go(g.watch)
	t.o.Log.Info("a domain goes on", "domid", id, "name", rec.Name, "pid", rec.PID)
	for _, v := range rec.Vifs {
		if v.Index == 0 { // one that was being attached
			if err := t.detach(context.Background(), g, v); err != nil {
				return err
			}
		}
	}
	if g.leaving {
		t.done.Go(func() { t.settleFarewell(g) })
		return nil
	}
	if !g.paused { // what a save or a migration did that was cut off, or a start
		return g.unpause(context.Background())
	}
	return nil
}

func (t *Toolstack) newGuest(rec *record) *guest {
	return &guest{t: t, id: rec.ID, pid: rec.PID, uuid: rec.UUID, token: rec.Token, dir: t.dir(rec.ID), rec: *rec, turn: make(chan struct{}, 1), ended: make(chan struct{}), pidfd: -1}
}

func (t *Toolstack) add(g *guest) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.domains[g.id] = g
}

// end kills the process behind a descriptor and waits for its end.
func end(pidfd int) error {
	if err := unix.PidfdSendSignal(pidfd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return os.NewSyscallError("pidfd_send_signal", err)
	}
	const patience = 10_000 // ms; a process in the kernel takes its time
	if !awaitEnd(pidfd, patience) {
		return errors.New("its process could not be killed within 10 s")
	}
	return nil
}

// watch waits for the domain's end.
func (g *guest) watch() {
	for !awaitEnd(g.pidfd, 200) {
		if g.t.ctx.Err() != nil {
			return
		}
	}
	// As its parent, if this is the xend that made it, so that no zombie is left.
	_, _ = unix.Wait4(g.pid, nil, unix.WNOHANG, nil)
	exit := readExit(g.dir)
	g.mu.Lock()
	g.exit = &exit
	g.mu.Unlock()
	close(g.ended)
	if !marked(g.dir, doomedFile) {
		g.t.o.Log.Info("a domain has ended", "domid", g.id, "name", g.name(), "reason", exit.Reason, "how", exit.Text)
		g.t.tell(g.event())
	}
}

func (g *guest) event() domain.Event {
	g.mu.Lock()
	defer g.mu.Unlock()
	e := domain.Event{ID: g.id, UUID: g.uuid}
	if g.exit != nil {
		e.Reason = domain.Reason(g.exit.Reason)
	}
	return e
}

func (g *guest) name() string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.rec.Name
}

func (g *guest) closeFD() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.gone {
		unix.Close(g.pidfd)
		g.gone = true
	}
}

// get finds a domain.
func (t *Toolstack) get(id int) (*guest, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	g := t.domains[id]
	if g == nil {
		return nil, &domain.NotFoundError{Name: strconv.Itoa(id)}
	}
	return g, nil
}

// take finds a domain and waits for its turn; release ends it.
func (t *Toolstack) take(ctx context.Context, id int) (g *guest, release func(), err error) {
	if g, err = t.get(id); err != nil {
		return nil, nil, err
	}
	select {
	case g.turn <- struct{}{}:
	case <-ctx.Done():
		return nil, nil, ctx.Err()
	}
	if again, err := t.get(id); err != nil || again != g { // destroyed meanwhile
		<-g.turn
		return nil, nil, &domain.NotFoundError{Name: strconv.Itoa(id)}
	}
	return g, func() { <-g.turn }, nil
}

// takeAlive is take for what a domain that has ended can't do.
func (t *Toolstack) takeAlive(ctx context.Context, id int) (*guest, func(), error) {
	g, release, err := t.take(ctx, id)
	if err != nil {
		return nil, nil, err
	}
	select {
	case <-g.ended:
		release()
		return nil, nil, fmt.Errorf("domain %s has shut down", g.rec.Name)
	default:
		return g, release, nil
	}
}

// update changes the record.
func (g *guest) update(change func(r *record)) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	next := g.rec
	next.Vifs = slices.Clone(g.rec.Vifs)
	next.Pins = slices.Clone(g.rec.Pins)
	change(&next)
	if err := next.write(g.dir); err != nil {
		return err
	}
	g.rec = next
	return nil
}

// List returns the domains of this toolstack.
func (t *Toolstack) List(context.Context) ([]domain.Status, error) {
	t.mu.Lock()
	ids := slices.Sorted(maps.Keys(t.domains))
	guests := make([]*guest, len(ids))
	for i, id := range ids {
		guests[i] = t.domains[id]
	}
	t.mu.Unlock()
	list := make([]domain.Status, len(guests))
	for i, g := range guests {
		list[i] = g.status()
	}
	return list, nil
}

func (g *guest) status() domain.Status {
	used := g.t.cgroups.cpuTime(g.id)
	g.mu.Lock()
	defer g.mu.Unlock()
	r := g.rec
	s := domain.Status{
		Leaving: g.leaving,
		ID:      r.ID, Name: r.Name, UUID: r.UUID, Memory: r.Limits.Memory, MaxMem: max(r.MaxMem, r.Limits.Memory),
		CPUTime: used, Started: r.Created, CPUWeight: r.Limits.Weight, CPUCap: r.Limits.Cap, Config: domain.Config(r.Config),
	}
	running := !g.paused && g.exit == nil && len(r.Kernel) > 0
	switch {
	case g.doomed: // what its end looks like does not count
		s.Flags = "-----d"
	case g.exit != nil && g.exit.Reason == Crash:
		s.Flags, s.Reason = "----c-", domain.Crash
	case g.exit != nil:
		s.Flags, s.Reason = "---s--", domain.Reason(g.exit.Reason)
	case g.paused:
		s.Flags = "--p---"
	case running:
		s.Flags = "r-----"
	default: // a sleeper
		s.Flags = "-b----"
	}
	for i := range max(1, len(r.Pins)) {
		v := domain.VCPU{Online: i < r.Limits.VCPUs, Running: running && i == 0, CPU: -1}
		if i < len(r.Pins) {
			v.Affinity = r.Pins[i]
		}
		if i == 0 {
			v.CPUTime = used
		}
		s.VCPUs = append(s.VCPUs, v)
	}
	for _, v := range r.Vifs {
		params := append([]domain.Param{{Name: "backend-id", Value: "0"}, {Name: "handle", Value: strconv.Itoa(v.Number)}}, v.Params...)
		params = append(params, domain.Param{Name: "state", Value: "4"}, domain.Param{Name: "backend", Value: backendPath(r.ID, v.Number)})
		s.Devices = append(s.Devices, domain.Device{Kind: "vif", ID: v.Number, Params: params})
	}
	return s
}

// Info returns nil: there is no hypervisor.
func (t *Toolstack) Info(context.Context) (map[string]string, error) { return nil, nil }

// Dmesg is not there without a hypervisor.
func (t *Toolstack) Dmesg(context.Context, bool) ([]byte, error) {
	return nil, t.unsupported("dmesg", "dmesg")
}

func (t *Toolstack) unsupported(op, use string) error {
	return &domain.UnsupportedError{Toolstack: t.Name(), Op: op, Use: use}
}

// order gives the keeper an order and returns when it has obeyed.
func (g *guest) order(ctx context.Context, text string) error {
	return g.orderWithin(ctx, text, orderTimeout)
}

// orderWithin is order for what may take longer.
func (g *guest) orderWithin(ctx context.Context, text string, patience time.Duration) error {
	c, err := g.dial(ctx, ctlSocket)
	if err != nil {
		return err
	}
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	_ = c.SetDeadline(time.Now().Add(patience))
	if _, err := fmt.Fprintln(c, text); err != nil {
		return err
	}
	line, err := bufio.NewReader(io.LimitReader(c, 4096)).ReadString('\n')
	switch line = strings.TrimSpace(line); {
	case line == "ok":
		return nil
	case line != "":
		return errors.New(strings.TrimPrefix(line, "error "))
	default:
		return fmt.Errorf("domain %s does not answer: %w", g.rec.Name, err)
	}
}

// dial connects to a socket of the keeper's. Its path may be longer than the kernel takes; that of the directory's
// descriptor is not.
func (g *guest) dial(ctx context.Context, name string) (net.Conn, error) {
	dir, err := os.Open(g.dir)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	return (&net.Dialer{Timeout: orderTimeout}).DialContext(ctx, "unix", fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), name))
}

// Shutdown asks the domain's program to end, by SIGTERM; a sleeper ends at once.
func (t *Toolstack) Shutdown(ctx context.Context, id int, r domain.Reason) error {
	g, release, err := t.takeAlive(ctx, id)
	if err != nil {
		return err
	}
	defer release()
	switch r {
	case domain.Poweroff, domain.Halt:
		r = domain.Poweroff
	case domain.Reboot, domain.Crash:
	default:
		return t.unsupported("shutdown "+string(r), "xm save")
	}
	if g.paused {
		return fmt.Errorf("domain %s is paused, and does not hear of it; 'xm unpause %s' first, or 'xm destroy' it", g.rec.Name, g.rec.Name)
	}
	return g.order(ctx, "shutdown "+string(r))
}

// Pause stops the domain's processes, and what its kernel would say without them.
func (t *Toolstack) Pause(ctx context.Context, id int) error {
	g, release, err := t.takeAlive(ctx, id)
	if err != nil {
		return err
	}
	defer release()
	return g.pause()
}

func (g *guest) pause() error {
	if err := mark(g.dir, pausedFile); err != nil {
		return err
	}
	if err := errors.Join(g.silence(true), g.freeze(true)); err != nil {
		return errors.Join(err, g.freeze(false), g.silence(false), unmark(g.dir, pausedFile))
	}
	g.setPaused(true)
	return nil
}

func (g *guest) setLeaving(on bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.leaving = on
}

func (g *guest) setPaused(on bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.paused = on
}

// Unpause lets it go on. A domain that may have left for another host is the caller's responsibility then.
func (t *Toolstack) Unpause(ctx context.Context, id int) error {
	g, release, err := t.takeAlive(ctx, id)
	if err != nil {
		return err
	}
	defer release()
	if err := unmark(g.dir, leavingFile); err != nil {
		return err
	}
	g.setLeaving(false)
	if err := g.unpause(ctx); err != nil {
		return err
	}
	ns, err := g.network()
	if err != nil {
		return err
	}
	defer ns.Close()
	n, err := look(ns, nil)
	if err == nil {
		err = announce(ns, n)
	}
	if err != nil {
		t.o.Log.Warn("a domain could not tell its neighbours where it is", "domid", id, "error", err)
	}
	t.announceAgain(g, n)
	return nil
}

// announceAgain repeats what a domain told its neighbours: the first time may have been too early for a bridge on the way,
// or have been lost, and nobody asks before a second has passed.
func (t *Toolstack) announceAgain(g *guest, n network) {
	t.done.Go(func() {
		for _, d := range []time.Duration{50 * time.Millisecond, 150 * time.Millisecond, 400 * time.Millisecond} {
			pause(t.ctx, d)
			ns, err := g.network()
			if err != nil || t.ctx.Err() != nil {
				return // it has ended
			}
			_ = announce(ns, n)
			ns.Close()
		}
	})
}

func (g *guest) unpause(ctx context.Context) error {
	if err := g.freeze(false); err != nil {
		return err
	}
	patience := orderTimeout
	if _, err := os.Stat(filepath.Join(g.dir, processesDir)); err == nil {
		patience = criuTimeout // its processes are being restored
	}
	if err := g.orderWithin(ctx, "run", patience); err != nil { // one that was made paused has not begun
		return err
	}
	if err := g.silence(false); err != nil {
		return err
	}
	if err := unmark(g.dir, pausedFile); err != nil {
		return err
	}
	g.setPaused(false)
	return nil
}

// freeze stops or continues all processes of the domain.
func (g *guest) freeze(on bool) error {
	ok, err := g.t.cgroups.freeze(g.id, on)
	if ok || err != nil {
		return err
	}
	// Without a freezer, each by itself: those of its pid namespace.
	signal := unix.SIGCONT
	if on {
		signal = unix.SIGSTOP
	}
	ours, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", g.pid))
	if err != nil {
		return nil //nolint:nilerr // it has ended
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return err
	}
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil {
			if ns, err := os.Readlink("/proc/" + e.Name() + "/ns/pid"); err == nil && ns == ours {
				_ = unix.Kill(pid, signal)
			}
		}
	}
	return nil
}

// silence drops what comes from the domain, whose kernel answers even while all its processes are stopped.
func (g *guest) silence(on bool) error {
	var errs []error
	for _, v := range g.rec.Vifs {
		f := g.t.o.Host.PassIngress
		if on {
			f = g.t.o.Host.DropIngress
		}
		if err := f(v.Index); !errors.Is(err, hostnet.ErrNotFound) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// Rename gives the domain another name; the host name inside stays.
func (t *Toolstack) Rename(ctx context.Context, id int, name string) error {
	g, release, err := t.take(ctx, id)
	if err != nil {
		return err
	}
	defer release()
	return g.update(func(r *record) { r.Name, r.Config.Name = name, name })
}

// Console returns the domain's terminal. What it wrote lately comes first.
func (t *Toolstack) Console(ctx context.Context, id int) (io.ReadWriteCloser, error) {
	g, err := t.get(id)
	if err != nil {
		return nil, err
	}
	return g.dial(ctx, consoleName)
}

// Watch tells of domains that end or go.
func (t *Toolstack) Watch(ctx context.Context) <-chan domain.Event {
	w := &watcher{out: make(chan domain.Event), more: make(chan struct{}, 1), pending: map[int]domain.Event{}}
	t.mu.Lock()
	t.watchers[w] = true
	var ended []*guest
	for _, g := range t.domains {
		ended = append(ended, g)
	}
	t.mu.Unlock()
	for _, g := range ended {
		if e := g.event(); e.Reason != "" {
			w.put(e)
		}
	}
	go func() {
		w.run(ctx)
		t.mu.Lock()
		delete(t.watchers, w)
		t.mu.Unlock()
	}()
	return w.out
}

func (t *Toolstack) tell(e domain.Event) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for w := range t.watchers {
		w.put(e)
	}
}

// watcher hands events on. Of several about one domain the last counts.
type watcher struct {
	out  chan domain.Event
	more chan struct{}

	mu      sync.Mutex
	pending map[int]domain.Event
}

func (w *watcher) put(e domain.Event) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.pending[e.ID] = e
	select {
	case w.more <- struct{}{}:
	default:
	}
}

func (w *watcher) run(ctx context.Context) {
	defer close(w.out)
	for {
		select {
		case <-ctx.Done():
			return
		case <-w.more:
		}
		for {
			w.mu.Lock()
			ids := slices.Sorted(maps.Keys(w.pending))
			if len(ids) == 0 {
				w.mu.Unlock()
				break
			}
			e := w.pending[ids[0]]
			delete(w.pending, ids[0])
			w.mu.Unlock()
			select {
			case w.out <- e:
			case <-ctx.Done():
				return
			}
		}
	}
}
