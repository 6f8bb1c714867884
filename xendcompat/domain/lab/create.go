package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/xenvnet/xend/internal/hostnet"
	"github.com/xenvnet/xend/xendcompat/domain"
)

// Create starts a domain.
func (t *Toolstack) Create(ctx context.Context, c domain.Config, o domain.CreateOptions) (int, error) {
	n, err := networkOf(c)
	if err != nil {
		return 0, err
	}
	e, err := t.prepare(ctx, c, n, "", "")
	if err != nil {
		return 0, err
	}
	return t.bringUp(ctx, e, o.Paused)
}

// bringUp makes an embryo a domain.
func (t *Toolstack) bringUp(ctx context.Context, e *embryo, paused bool) (int, error) {
	if err := e.connect(ctx, paused); err != nil {
		return 0, errors.Join(err, e.abort())
	}
	g, err := e.commit(paused)
	if err != nil {
		return 0, errors.Join(err, e.abort())
	}
	if !paused {
		if err := e.begin(ctx, g); err != nil {
			return 0, errors.Join(err, t.destroy(context.WithoutCancel(ctx), g))
		}
	}
	return g.id, nil
}

// embryo is a domain that is not yet: its keeper waits for the word, and ends with xend if it does not come.
type embryo struct {
	t      *Toolstack
	rec    record
	dir    string
	order  order
	cmd    *exec.Cmd
	orders *os.File // to the keeper
	net    *hostnet.Host
}

// prepare makes everything of a domain that others don't see: namespaces, keeper, devices. revive is the criu that restores its
// program, or "". After an error nothing is left.
func (t *Toolstack) prepare(ctx context.Context, c domain.Config, n network, token, revive string) (*embryo, error) {
	rec, err := t.plan(c, n)
	if err != nil {
		return nil, err
	}
	rec.Token = token
	e := &embryo{t: t, rec: *rec, order: order{Revive: revive}}
	if err := e.make(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("domain %s: %w", c.Name, err), e.abort())
	}
	return e, nil
}

// plan checks everything that can be checked without making anything.
func (t *Toolstack) plan(c domain.Config, n network) (*record, error) {
	_, args, err := parameters(c.Cmdline())
	if err != nil {
		return nil, err
	}
	kernel, err := program(c.Kernel, "")
	if err != nil {
		return nil, err
	}
	if len(kernel) > 0 {
		if t.o.Guarded {
			return nil, fmt.Errorf("kernel %s: no programs are run while a server on TCP lets others than root ask for them (xend-http-server, xend-tcp-xmlrpc-server)", c.Kernel)
		}
		kernel = append(kernel, args...)
	}
	if len(c.Vifs) > maxVifs {
		return nil, fmt.Errorf("%d vifs: a domain has at most %d here", len(c.Vifs), maxVifs)
	}
	if c.Name == "" || len(c.Name) > 64 || strings.ContainsRune(c.Name, 0) {
		return nil, fmt.Errorf("name %q: it becomes the domain's host name, which has 1 to 64 bytes", c.Name)
	}
	for i, v := range c.Vifs {
		if err := t.checkVif(v); err != nil {
			return nil, fmt.Errorf("vif %d: %w", i, err)
		}
	}
	vcpus := max(1, c.VCPUs)
	rec := &record{
		UUID: c.UUID, Name: c.Name, Config: configText(c), Created: time.Now(), Kernel: kernel, Network: n,
		MaxMem: max(c.MaxMem, c.Memory),
		Limits: limits{Memory: c.Memory, VCPUs: vcpus, Weight: c.CPUWeight, Cap: c.CPUCap},
	}
	if rec.Limits.Weight == 0 {
		rec.Limits.Weight = 256
	}
	for i := range vcpus {
		var pins []int
		switch {
		case len(c.CPUs) == 1:
			pins, err = parseCPUs(c.CPUs[0])
		case i < len(c.CPUs):
			pins, err = parseCPUs(c.CPUs[i])
		}
		if err != nil {
			return nil, err
		}
		rec.Pins = append(rec.Pins, pins)
	}
	rec.Limits.CPUs = union(rec.Pins)
	return rec, nil
}

// parseCPUs reads "0-3,^1"; "all" and "" are no choice.
func parseCPUs(text string) ([]int, error) {
	const most = 4096
	var list []int
	for part := range strings.SplitSeq(text, ",") {
		part = strings.TrimSpace(part)
		if part == "" || part == "all" {
			continue
		}
		not := strings.HasPrefix(part, "^")
		low, high, isRange := strings.Cut(strings.TrimPrefix(part, "^"), "-")
		if !isRange {
			high = low
		}
		a, errA := strconv.Atoi(low)
		b, errB := strconv.Atoi(high)
		if errA != nil || errB != nil || a < 0 || b < a || b > most {
			return nil, fmt.Errorf("cpus %q: expected a list like 0-3,^1", text)
		}
		for n := a; n <= b; n++ {
			if not {
				list = slices.DeleteFunc(list, func(m int) bool { return m == n })
			} else if !slices.Contains(list, n) {
				list = append(list, n)
			}
		}
	}
	slices.Sort(list)
	return list, nil
}

// union is the processors of all; none if any has no choice.
func union(pins [][]int) []int {
	var all []int
	for _, p := range pins {
		if len(p) == 0 {
			return nil
		}
		all = append(all, p...)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// checkVif finds out before anything starts what would fail later.
func (t *Toolstack) checkVif(v domain.Vif) error {
	if v.Backend != "" && v.Backend != "0" && v.Backend != "Domain-0" {
		return t.unsupported("vif backend="+v.Backend, "Domain-0's bridges")
	}
	mac, err := net.ParseMAC(v.MAC)
	if err != nil || len(mac) != 6 || mac[0]&1 != 0 {
		return fmt.Errorf("mac %q is not the address of one Ethernet card", v.MAC)
	}
	if len(v.Name) > hostnet.MaxName || strings.ContainsAny(v.Name, "/ \t\n\x00") || v.Name == "." || v.Name == ".." {
		return fmt.Errorf("vifname %q: a device's name has at most %d bytes, no slash and no blank", v.Name, hostnet.MaxName)
	}
	if v.Name != "" {
		if l, err := t.o.Host.LinkByName(v.Name); err == nil {
			return fmt.Errorf("vifname %s: there is a device of that name (%s)", v.Name, l)
		}
	}
	words := strings.Fields(t.scriptOf(v))
	if len(words) == 0 {
		return errors.New("there is no vif-script")
	}
	if t.o.Guarded && v.Script != "" && (len(words) > 1 || filepath.IsAbs(words[0])) {
		return fmt.Errorf("script %s: only the name of one of the host's, while a server on TCP lets others than root ask for it", v.Script)
	}
	_, err = t.findScript(words[0])
	return err
}

func (t *Toolstack) scriptOf(v domain.Vif) string {
	if v.Script != "" {
		return v.Script
	}
	return t.o.VifScript
}

// step announces a step of an operation.
func (t *Toolstack) step(format string, args ...any) error {
	return t.o.Before(fmt.Sprintf(format, args...))
}

func (e *embryo) make(ctx context.Context) error {
	t := e.t
	if err := t.step("directory"); err != nil {
		return err
	}
	if err := e.makeDir(); err != nil {
		return err
	}
	if err := t.step("keeper"); err != nil {
		return err
	}
	if err := e.startKeeper(); err != nil {
		return fmt.Errorf("start its keeper: %w", err)
	}
	if err := t.step("record"); err != nil {
		return err
	}
	if err := e.rec.write(e.dir); err != nil {
		return err
	}
	if err := e.awaitReady(ctx); err != nil {
		return err
	}
	if err := t.step("limits"); err != nil {
		return err
	}
	if err := t.cgroups.create(e.rec.ID, e.rec.PID); err != nil {
		return fmt.Errorf("control group: %w", err)
	}
	if err := t.cgroups.limit(e.rec.ID, e.rec.Limits); err != nil {
		return fmt.Errorf("limits: %w", err)
	}
	var err error
	if e.net, err = hostnet.At(fmt.Sprintf("/proc/%d/ns/net", e.rec.PID)); err != nil {
		return err
	}
	const loopback = 1
	if err := e.net.SetUp(loopback); err != nil {
		return err
	}
	for i, v := range e.rec.Config.Vifs {
		if err := t.step("device vif %d", i); err != nil {
			return err
		}
		r, err := t.makeVif(e.net, e.rec.ID, i, v)
		if err != nil {
			return err
		}
		e.rec.Vifs = append(e.rec.Vifs, r)
		if err := e.rec.write(e.dir); err != nil {
			return err
		}
	}
	return nil
}

// makeDir chooses the id.
func (e *embryo) makeDir() error {
	e.t.creates.Lock()
	defer e.t.creates.Unlock()
	id, err := e.t.nextID()
	if err != nil {
		return fmt.Errorf("choose an id: %w", err)
	}
	e.rec.ID, e.dir = id, e.t.dir(id)
	if err := os.Mkdir(e.dir, 0o700); err != nil {
		return err
	}
	return e.rec.write(e.dir)
}

// startKeeper starts the domain's first process, in namespaces and a session of its own.
func (e *embryo) startKeeper() error {
	ordersR, ordersW, err := os.Pipe()
	if err != nil {
		return err
	}
	defer ordersR.Close()
	readyR, readyW, err := os.Pipe()
	if err != nil {
		ordersW.Close()
		return err
	}
	defer readyW.Close()
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		ordersW.Close()
		readyR.Close()
		return err
	}
	defer null.Close()
	errs, err := os.OpenFile(e.dir+"/stderr", os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		ordersW.Close()
		readyR.Close()
		return err
	}
	defer errs.Close()
	e.cmd = &exec.Cmd{
		Path: e.t.o.Program, Args: []string{keeperName, e.rec.Name}, Dir: e.dir,
		// Its program gets none of it.
		Env:   append(os.Environ(), "GOMAXPROCS=2", "GOMEMLIMIT=32MiB"),
		Stdin: null, Stdout: errs, Stderr: errs,
		ExtraFiles: []*os.File{ordersR, readyW},
		SysProcAttr: &syscall.SysProcAttr{
			Setsid:     true,
			Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWPID | syscall.CLONE_NEWNS | syscall.CLONE_NEWUTS | syscall.CLONE_NEWIPC,
		},
	}
	// In the network of the vifs, whatever thread this is: sysfs shows the namespace of who mounts it.
	if err := e.t.o.Host.Do(e.cmd.Start); err != nil {
		ordersW.Close()
		readyR.Close()
		if errors.Is(err, fs.ErrPermission) {
			err = fmt.Errorf("%w (namespaces are forbidden here; under systemd, docs/labs.md has what allows them)", err)
		}
		return err
	}
	e.orders = ordersW
	e.rec.PID = e.cmd.Process.Pid
	p, err := identify(strconv.Itoa(e.rec.PID))
	if err != nil {
		readyR.Close()
		return errors.New("it ended at once")
	}
	e.rec.Start = p.start
	// For people who want to look inside: nsenter -a -t $(cat pid).
	if err := os.WriteFile(e.dir+"/pid", []byte(strconv.Itoa(e.rec.PID)+"\n"), 0o600); err != nil {
		readyR.Close()
		return err
	}
	e.cmd.ExtraFiles = []*os.File{readyR}
	return nil
}

// keeperPatience is how long a keeper may take, on a machine with much to do.
const keeperPatience = 30 * time.Second

func (e *embryo) awaitReady(ctx context.Context) error {
	ready := e.cmd.ExtraFiles[0]
	defer ready.Close()
	stop := context.AfterFunc(ctx, func() { _ = ready.SetReadDeadline(time.Now()) })
	defer stop()
	_ = ready.SetReadDeadline(time.Now().Add(keeperPatience))
	e.order.Name, e.order.Kernel, e.order.Paused = e.rec.Name, e.rec.Kernel, true
	b, err := json.Marshal(e.order)
	if err != nil {
		return err
	}
	if _, err := e.orders.Write(append(b, '\n')); err != nil {
		return fmt.Errorf("its keeper: %w", err)
	}
	said, err := io.ReadAll(ready)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil || string(said) != "ready" {
		text, _ := os.ReadFile(e.dir + "/stderr")
		return fmt.Errorf("its keeper did not begin: %s", strings.TrimSpace(string(text)))
	}
	return nil
}

// makeVif makes a pair whose other end is the domain's card, and tells xenstore of it.
func (t *Toolstack) makeVif(ns *hostnet.Host, id, number int, v domain.Vif) (vifRecord, error) {
	mac, err := net.ParseMAC(v.MAC)
	if err != nil {
		return vifRecord{}, err
	}
	r := vifRecord{Number: number, Device: vifName(id, number), MAC: mac.String(), Script: t.scriptOf(v)}
	add := func(name, value string) {
		if value != "" {
			r.Params = append(r.Params, domain.Param{Name: name, Value: value})
		}
	}
	add("mac", r.MAC)
	add("bridge", v.Bridge)
	add("ip", strings.Join(v.IP, " "))
	add("script", r.Script)
	add("vifname", v.Name)
	if v.MTU != 0 {
		add("mtu", strconv.Itoa(v.MTU))
	}
	add("rate", v.Rate)
	path := backendPath(id, number)
	xs := t.xenstore()
	nodes := append([]domain.Param{
		{Name: "frontend-id", Value: strconv.Itoa(id)}, {Name: "handle", Value: strconv.Itoa(number)}, {Name: "online", Value: "1"}, {Name: "state", Value: "2"},
	}, r.Params...)
	for _, p := range nodes {
		if err := xs.write(path+"/"+p.Name, p.Value); err != nil {
			return r, fmt.Errorf("xenstore: %w", err)
		}
	}
	err = t.o.Host.CreateVeth(hostnet.Veth{Name: r.Device, Partner: ethName(number), PartnerMAC: mac, PartnerHost: ns, MTU: v.MTU})
	if err != nil {
		return r, err
	}
	l, err := t.o.Host.LinkByName(r.Device)
	if err != nil {
		return r, err
	}
	r.Index = l.Index
	eth, err := ns.LinkByName(ethName(number))
	if err != nil {
		return r, err
	}
	return r, ns.SetUp(eth.Index)
}

// linkTimeout bounds what takes milliseconds.
const linkTimeout = 5 * time.Second

// connect runs the scripts, and configures the domain's network.
func (e *embryo) connect(ctx context.Context, silent bool) error {
	for i := range e.rec.Vifs {
		if err := e.t.connectVif(ctx, e.net, &e.rec, &e.rec.Vifs[i], silent); err != nil {
			return fmt.Errorf("domain %s: vif %d: %w", e.rec.Name, i, err)
		}
	}
	if err := e.t.step("network"); err != nil {
		return err
	}
	if err := e.rec.Network.apply(e.net); err != nil {
		return fmt.Errorf("domain %s: %w", e.rec.Name, err)
	}
	return nil
}

func (t *Toolstack) connectVif(ctx context.Context, ns *hostnet.Host, rec *record, v *vifRecord, silent bool) error {
	if err := t.step("script vif %d", v.Number); err != nil {
		return err
	}
	if silent {
		if err := t.o.Host.DropIngress(v.Index); err != nil {
			return err
		}
	}
	if err := t.runScript(ctx, rec, v, "online"); err != nil {
		return err
	}
	l, err := t.o.Host.LinkByIndex(v.Index)
	if err != nil {
		return err
	}
	eth, err := ns.LinkByName(ethName(v.Number))
	if err != nil {
		return err
	}
	if eth.MTU != l.MTU {
		if err := ns.SetMTU(eth.Index, l.MTU); err != nil {
			return err
		}
	}
	// The kernel starts the two ends, and lets the bridge forward, in the background; what is sent before, such as the first
	// ARP request, is lost, and repeated after a second. A vif whose script did not bring it up is not waited for.
	if l.Up() {
		wait, cancel := context.WithTimeout(ctx, linkTimeout)
		defer cancel()
		if err := errors.Join(t.o.Host.AwaitRunning(wait, v.Index), ns.AwaitRunning(wait, eth.Index)); err != nil && ctx.Err() != nil {
			return err
		}
	}
	return t.xenstore().write(backendPath(rec.ID, v.Number)+"/state", "4")
}

// commit gives the keeper the word: from now on the domain exists, whatever becomes of xend. It has not begun.
func (e *embryo) commit(paused bool) (*guest, error) {
	t := e.t
	if err := t.step("commit"); err != nil {
		return nil, err
	}
	g := t.newGuest(&e.rec)
	if paused {
		if err := mark(e.dir, pausedFile); err != nil {
			return nil, err
		}
	}
	fd, err := unix.PidfdOpen(e.rec.PID, 0)
	if err != nil {
		return nil, os.NewSyscallError("pidfd_open", err)
	}
	if _, err := e.orders.WriteString("go\n"); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("its keeper: %w", err)
	}
	// It closes its end once it exists, or has failed to.
	for deadline := time.Now().Add(keeperPatience); !marked(e.dir, startedFile); {
		if awaitEnd(fd, 1) || time.Now().After(deadline) {
			unix.Close(fd)
			return nil, errors.New("its keeper ended")
		}
	}
	e.orders.Close()
	_ = e.cmd.Process.Release()
	g.pidfd, g.paused = fd, true
	t.add(g)
	t.done.Go(g.watch)
	t.o.Log.Info("a domain exists", "domid", e.rec.ID, "name", e.rec.Name, "pid", e.rec.PID, "paused", paused)
	t.tell(domain.Event{ID: e.rec.ID, UUID: e.rec.UUID})
	if paused {
		e.net.Close()
	}
	return g, nil
}

// begin lets a new domain run.
func (e *embryo) begin(ctx context.Context, g *guest) error {
	defer e.net.Close()
	if err := e.t.step("begin"); err != nil {
		return err
	}
	if err := g.unpause(ctx); err != nil {
		return err
	}
	if err := announce(e.net, e.rec.Network); err != nil {
		e.t.o.Log.Warn("a domain could not tell its neighbours where it is", "domid", e.rec.ID, "error", err)
	}
	e.t.announceAgain(g, e.rec.Network)
	return nil
}

// abort removes everything. The keeper ends because its orders end, or is killed.
func (e *embryo) abort() error {
	if e.orders != nil {
		e.orders.Close()
	}
	if e.net != nil {
		e.net.Close()
	}
	if e.cmd != nil && e.cmd.Process != nil {
		_ = e.cmd.Process.Kill()
		_ = e.cmd.Wait()
	}
	if e.dir == "" {
		return nil
	}
	e.rec.Token = "" // it never came
	return e.t.clean(context.Background(), e.dir, &e.rec)
}

// Destroy ends a domain at once.
func (t *Toolstack) Destroy(ctx context.Context, id int) error {
	g, release, err := t.take(ctx, id)
	if err != nil {
		return err
	}
	defer release()
	return t.destroy(ctx, g)
}

// destroy is for who has the turn. What it began goes on at the next start.
func (t *Toolstack) destroy(ctx context.Context, g *guest) error {
	if err := t.step("doom"); err != nil {
		return err
	}
	if err := mark(g.dir, doomedFile); err != nil && !errors.Is(err, fs.ErrNotExist) { // without its directory it is doomed anyway
		return err
	}
	if err := t.step("kill"); err != nil {
		return err
	}
	g.mu.Lock()
	g.doomed = true
	gone := g.gone
	g.mu.Unlock()
	if !gone {
		if err := end(g.pidfd); err != nil {
			return fmt.Errorf("domain %s: %w", g.rec.Name, err)
		}
		<-g.ended
	}
	if err := t.clean(context.WithoutCancel(ctx), g.dir, &g.rec); err != nil {
		return fmt.Errorf("domain %s: %w", g.rec.Name, err)
	}
	g.closeFD()
	t.mu.Lock()
	delete(t.domains, g.id)
	t.mu.Unlock()
	t.o.Log.Info("a domain is gone", "domid", g.id, "name", g.rec.Name)
	t.tell(domain.Event{ID: g.id, UUID: g.uuid})
	return nil
}

// clean removes what is left of a domain whose keeper has ended. It may have been begun before.
func (t *Toolstack) clean(ctx context.Context, dir string, rec *record) error {
	var errs []error
	for i := range rec.Vifs {
		if err := t.step("offline vif %d", i); err != nil {
			return err
		}
		errs = append(errs, t.removeVif(ctx, rec, &rec.Vifs[i]))
	}
	if err := t.step("remove"); err != nil {
		return err
	}
	if err := t.keepToken(dir, rec); err != nil {
		return err
	}
	errs = append(errs, t.cgroups.remove(rec.ID), t.xenstore().remove(fmt.Sprintf("%s/backend/vif/%d", home, rec.ID)))
	if err := errors.Join(errs...); err != nil {
		t.o.Log.Warn("something of a domain is left", "domid", rec.ID, "error", err)
	}
	// The record goes last: as long as it is there, all of this is tried again.
	return os.RemoveAll(dir)
}

func (t *Toolstack) removeVif(ctx context.Context, rec *record, v *vifRecord) error {
	err := t.runScript(ctx, rec, v, "offline")
	if v.Index == 0 { // xend was killed while it made it
		if l, errLink := t.o.Host.LinkByName(v.Device); errLink == nil && l.Kind == "veth" {
			return errors.Join(err, t.o.Host.Delete(l.Index))
		}
		return err
	}
	// With the namespace it would go by itself, a moment later.
	l, errLink := t.o.Host.LinkByIndex(v.Index)
	if errLink != nil || l.Kind != "veth" {
		return err
	}
	return errors.Join(err, t.o.Host.Delete(v.Index))
}
