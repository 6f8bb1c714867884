package xl

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"github.com/xenvnet/xend/sxp"
	"github.com/xenvnet/xend/xendcompat/domain"
)

// file writes a domain's configuration for xl.
func (t *Toolstack) file(c domain.Config) (path string, remove func(), err error) {
	if script := t.o.VifScript; script != "" && script != "vif-bridge" && !strings.ContainsAny(script, " \t") {
		vifs := make([]domain.Vif, len(c.Vifs))
		for i, v := range c.Vifs {
			if v.Script == "" {
				v.Script = script
			}
			vifs[i] = v
		}
		c.Vifs = vifs
	}
	f, err := os.CreateTemp(t.o.Dir, "domain-*.cfg") // mode 0600
	if err != nil {
		return "", nil, err
	}
	remove = func() { os.Remove(f.Name()) }
	_, err = f.Write(c.XL())
	if err = errors.Join(err, f.Close()); err != nil {
		remove()
		return "", nil, err
	}
	return f.Name(), remove, nil
}

// Create starts a domain.
func (t *Toolstack) Create(ctx context.Context, c domain.Config, o domain.CreateOptions) (int, error) {
	path, remove, err := t.file(c)
	if err != nil {
		return 0, err
	}
	defer remove()
	// Paused in any case: its id is known before it can do anything.
	if _, err := t.run(ctx, doTimeout, "create", "-e", "-p", path); err != nil {
		return 0, err
	}
	return t.made(ctx, c, o.Paused)
}

// made finds a domain that xl has made, by its uuid, and lets it go.
func (t *Toolstack) made(ctx context.Context, c domain.Config, paused bool) (int, error) {
	ctx = context.WithoutCancel(ctx)
	id, err := t.find(ctx, c)
	if err != nil {
		return 0, err
	}
	if !paused {
		if err := t.do(ctx, id, "unpause"); err != nil {
			return 0, errors.Join(err, t.Destroy(ctx, id))
		}
	}
	return id, nil
}

func (t *Toolstack) find(ctx context.Context, c domain.Config) (int, error) {
	list, err := t.short(ctx)
	if err != nil {
		return 0, err
	}
	for _, s := range list {
		if s.UUID == c.UUID || (s.UUID == "" && s.Name == c.Name) {
			return s.ID, nil
		}
	}
	return 0, &domain.ToolstackError{Command: "xl create", Err: fmt.Errorf("domain %s ended at once", c.Name)}
}

// Destroy ends a domain at once.
func (t *Toolstack) Destroy(ctx context.Context, id int) error { return t.do(ctx, id, "destroy") }

// Shutdown asks it to end; an hvm domain without drivers by its power button.
func (t *Toolstack) Shutdown(ctx context.Context, id int, r domain.Reason) error {
	switch r {
	case domain.Poweroff, domain.Halt:
		_, err := t.on(ctx, doTimeout, id, "shutdown", []string{"-F"}, nil)
		return err
	case domain.Reboot:
		_, err := t.on(ctx, doTimeout, id, "reboot", []string{"-F"}, nil)
		return err
	case domain.Suspend, domain.Crash:
	}
	return t.unsupported("shutdown "+string(r), "xm save, xm sysrq c")
}

// Pause stops it.
func (t *Toolstack) Pause(ctx context.Context, id int) error { return t.do(ctx, id, "pause") }

// Unpause lets it go on.
func (t *Toolstack) Unpause(ctx context.Context, id int) error { return t.do(ctx, id, "unpause") }

// Rename gives it another name.
func (t *Toolstack) Rename(ctx context.Context, id int, name string) error {
	if strings.HasPrefix(name, "-") {
		return fmt.Errorf("name %q: xl would take it for an option", name)
	}
	return t.do(ctx, id, "rename", name)
}

// A file of Save is xl's, with our configuration behind it, its length in 8 bytes, and trailerMagic: xl restore reads
// no further than what it wrote.
const trailerMagic = "xend-configuration-1\n"

// maxTrailer bounds the configuration, in bytes.
const maxTrailer = 4 << 20

// Save writes a domain to a file and ends it.
func (t *Toolstack) Save(ctx context.Context, id int, c domain.Config, file string) error {
	if _, err := os.Lstat(file); err == nil {
		return &os.PathError{Op: "save", Path: file, Err: os.ErrExist}
	}
	f, err := os.CreateTemp(filepath.Dir(file), ".save-*") // mode 0600
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := t.on(ctx, moveTimeout, id, "save", nil, []string{f.Name()}); err != nil {
		os.Remove(f.Name())
		return err
	}
	// The domain is no more: what comes now must not lose it.
	if err := finish(f.Name(), file, c); err != nil {
		return fmt.Errorf("domain %s is saved as %s, and could not be called %s: %w", c.Name, f.Name(), file, err)
	}
	return nil
}

// finish puts the configuration behind what xl wrote, and gives the file its name.
func finish(temporary, file string, c domain.Config) error {
	f, err := os.OpenFile(temporary, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return err
	}
	text := c.SXP().String()
	_, err = f.WriteString(text + string(binary.BigEndian.AppendUint64(nil, uint64(len(text)))) + trailerMagic)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Link(temporary, file); err != nil {
		return err
	}
	return os.Remove(temporary)
}

// readTrailer returns the configuration in a file of Save.
func readTrailer(r io.ReaderAt, size int64) (domain.Config, error) {
	none := errors.New("not a file that xm save wrote with xl; 'xl restore' may know it")
	tail := make([]byte, 8+len(trailerMagic))
	at := size - int64(len(tail))
	if at < 0 {
		return domain.Config{}, none
	}
	if _, err := r.ReadAt(tail, at); err != nil {
		return domain.Config{}, err
	}
	n := binary.BigEndian.Uint64(tail)
	if !bytes.HasSuffix(tail, []byte(trailerMagic)) || n > maxTrailer || int64(n) > at {
		return domain.Config{}, none
	}
	text := make([]byte, n)
	if _, err := r.ReadAt(text, at-int64(n)); err != nil {
		return domain.Config{}, err
	}
	forms, err := sxp.Parse(text, sxp.Xend)
	if err != nil {
		return domain.Config{}, err
	}
	if len(forms) != 1 {
		return domain.Config{}, none
	}
	return domain.ParseForm(forms[0])
}

// Restore starts the domain that Save wrote.
func (t *Toolstack) Restore(ctx context.Context, file string, o domain.CreateOptions, admit func(domain.Config) error) (int, domain.Config, error) {
	c, err := readConfig(file)
	if err != nil {
		return 0, c, fmt.Errorf("%s: %w", file, err)
	}
	if err := admit(c); err != nil {
		return 0, c, err
	}
	path, remove, err := t.file(c)
	if err != nil {
		return 0, c, err
	}
	defer remove()
	if _, err := t.run(ctx, moveTimeout, "restore", "-e", "-p", path, file); err != nil {
		return 0, c, err
	}
	id, err := t.made(ctx, c, o.Paused)
	return id, c, err
}

func readConfig(file string) (domain.Config, error) {
	f, err := os.Open(file)
	if err != nil {
		return domain.Config{}, errors.Unwrap(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return domain.Config{}, err
	}
	if !info.Mode().IsRegular() || !filepath.IsAbs(file) {
		return domain.Config{}, errors.New("not a regular file with an absolute path")
	}
	return readTrailer(f, info.Size())
}

// Migrate moves the domain with xl migrate, over ssh, to the xl of the other host.
func (t *Toolstack) Migrate(ctx context.Context, id int, _ domain.Config, o domain.MigrateOptions) error {
	if o.Port != 0 {
		return t.unsupported("migrate with a port", "a host of ssh's configuration")
	}
	if err := checkHost(o.Host); err != nil {
		return err
	}
	_, err := t.on(ctx, moveTimeout, id, "migrate", []string{"-e"}, []string{o.Host})
	return err
}

// checkHost lets through what neither xl nor ssh, which it starts by way of a shell, can take for anything but a host.
func checkHost(host string) error {
	if _, err := netip.ParseAddr(host); err == nil {
		return nil
	}
	for i, c := range []byte(host) {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '_', i > 0 && (c == '-' || c == '.'):
		default:
			return fmt.Errorf("%q is not the name of a host", host)
		}
	}
	if host == "" || len(host) > 253 {
		return fmt.Errorf("%q is not the name of a host", host)
	}
	return nil
}

// VcpuSet sets how many virtual processors are online.
func (t *Toolstack) VcpuSet(ctx context.Context, id, n int) error {
	return t.do(ctx, id, "vcpu-set", strconv.Itoa(n))
}

// VcpuPin sets where they run.
func (t *Toolstack) VcpuPin(ctx context.Context, id, vcpu int, cpus []int) error {
	which, where := "all", make([]string, len(cpus))
	if vcpu >= 0 {
		which = strconv.Itoa(vcpu)
	}
	for i, n := range cpus {
		where[i] = strconv.Itoa(n)
	}
	if len(cpus) == 0 {
		where = []string{"all"}
	}
	return t.do(ctx, id, "vcpu-pin", which, strings.Join(where, ","))
}

// MemSet asks it to have so much memory.
func (t *Toolstack) MemSet(ctx context.Context, id, mib int) error {
	return t.do(ctx, id, "mem-set", strconv.Itoa(mib)+"m")
}

// MemMax sets what it can have.
func (t *Toolstack) MemMax(ctx context.Context, id, mib int) error {
	return t.do(ctx, id, "mem-max", strconv.Itoa(mib)+"m")
}

// SchedCredit returns what the scheduler gives it.
func (t *Toolstack) SchedCredit(ctx context.Context, id int) (weight, limit int, err error) {
	verb, err := t.scheduler(ctx)
	if err != nil {
		return 0, 0, err
	}
	out, err := t.on(ctx, askTimeout, id, verb, []string{"-d"}, nil)
	if err != nil {
		return 0, 0, err
	}
	// Name, id, weight, cap; in older releases of credit2 no cap.
	for line := range strings.Lines(string(out)) {
		f := strings.Fields(line)
		for i := 1; i+1 < len(f); i++ {
			if f[i] != strconv.Itoa(id) {
				continue
			}
			if weight, err = strconv.Atoi(f[i+1]); err != nil {
				break
			}
			if i+2 < len(f) {
				limit, _ = strconv.Atoi(f[i+2])
			}
			return weight, limit, nil
		}
	}
	return 0, 0, &domain.ToolstackError{Command: "xl " + verb, Err: errors.New("its answer has no line for the domain")}
}

// SetSchedCredit sets it.
func (t *Toolstack) SetSchedCredit(ctx context.Context, id, weight, limit int) error {
	verb, err := t.scheduler(ctx)
	if err != nil {
		return err
	}
	_, err = t.on(ctx, doTimeout, id, verb, []string{"-d"}, []string{"-w", strconv.Itoa(weight), "-c", strconv.Itoa(limit)})
	return err
}

// scheduler is the command for the one that Xen runs with.
func (t *Toolstack) scheduler(ctx context.Context) (string, error) {
	info, err := t.Info(ctx)
	switch {
	case err != nil:
		return "", err
	case info["xen_scheduler"] == "credit2":
		return "sched-credit2", nil
	case info["xen_scheduler"] == "credit", info["xen_scheduler"] == "":
		return "sched-credit", nil
	}
	return "", t.unsupported("sched-credit with the scheduler "+info["xen_scheduler"], "xl sched-"+info["xen_scheduler"])
}

// DeviceAttach adds a device.
func (t *Toolstack) DeviceAttach(ctx context.Context, id int, d domain.DeviceConfig) (int, error) {
	switch d.Kind {
	case "vif":
		v, err := domain.ParseVif(d.Params)
		if err != nil {
			return 0, err
		}
		if v.MAC == "" {
			v.MAC = domain.NewMAC()
		}
		// A word for each parameter.
		if err := t.do(ctx, id, "network-attach", strings.Split(v.XL(), ",")...); err != nil {
			return 0, err
		}
		n, err := t.number(ctx, id, "vif", func(dev domain.Device) bool { return dev.Param("mac") == v.MAC })
		if err != nil { // it is told that it was not attached, and so it must be
			err = errors.Join(err, t.do(context.WithoutCancel(ctx), id, "network-detach", v.MAC))
		}
		return n, err
	case "vbd":
		disk, err := domain.ParseDisk(d.Params)
		if err != nil {
			return 0, err
		}
		if err := t.do(ctx, id, "block-attach", disk.XL()); err != nil {
			return 0, err
		}
		vdev, _, _ := strings.Cut(disk.Dev, ":")
		n, err := t.number(ctx, id, "vbd", func(dev domain.Device) bool { return dev.Param("dev") == vdev })
		if err != nil {
			err = errors.Join(err, t.do(context.WithoutCancel(ctx), id, "block-detach", vdev))
		}
		return n, err
	case "pci":
		return 0, t.do(ctx, id, "pci-attach", d.Param("dev"))
	}
	return 0, t.unsupported("device_create "+d.Kind, "vif, vbd or pci")
}

// number finds the number of a device that was attached.
func (t *Toolstack) number(ctx context.Context, id int, kind string, is func(domain.Device) bool) (int, error) {
	list, err := t.List(context.WithoutCancel(ctx))
	if err != nil {
		return 0, err
	}
	for _, s := range list {
		if s.ID != id {
			continue
		}
		for _, d := range s.Devices {
			if d.Kind == kind && is(d) {
				return d.ID, nil
			}
		}
	}
	return 0, &domain.ToolstackError{Command: "xl list -l", Err: fmt.Errorf("domain %d has no such %s", id, kind)}
}

// DeviceDetach takes a device away.
func (t *Toolstack) DeviceDetach(ctx context.Context, id int, kind string, dev int, force bool) error {
	switch kind {
	case "vif":
		return t.do(ctx, id, "network-detach", strconv.Itoa(dev))
	case "vbd":
		args := []string{strconv.Itoa(dev)}
		if force {
			args = append(args, "--force")
		}
		return t.do(ctx, id, "block-detach", args...)
	}
	return t.unsupported("device_destroy "+kind, "xl "+kind+"-detach")
}

// Sysrq sends a magic key.
func (t *Toolstack) Sysrq(ctx context.Context, id int, key byte) error {
	if key <= ' ' || key > '~' || key == '-' {
		return fmt.Errorf("sysrq: %q is not a key", key)
	}
	return t.do(ctx, id, "sysrq", string(rune(key)))
}

// triggers are those of xl(1).
var triggers = map[string]bool{"nmi": true, "reset": true, "init": true, "power": true, "sleep": true, "s3resume": true}

// Trigger sends an event to a virtual processor.
func (t *Toolstack) Trigger(ctx context.Context, id int, trigger string, vcpu int) error {
	if !triggers[trigger] {
		return t.unsupported("trigger "+trigger, "nmi, reset, init, power, sleep or s3resume")
	}
	return t.do(ctx, id, "trigger", trigger, strconv.Itoa(max(0, vcpu)))
}

// DumpCore writes the domain's memory to a file.
func (t *Toolstack) DumpCore(ctx context.Context, id int, file string, _, crash bool) error {
	if !filepath.IsAbs(file) {
		return fmt.Errorf("%s: not an absolute path", file)
	}
	if _, err := t.on(ctx, moveTimeout, id, "dump-core", nil, []string{file}); err != nil {
		return err
	}
	if crash {
		return t.Destroy(ctx, id)
	}
	return nil
}

// Console is xl console, a process.
func (t *Toolstack) Console(_ context.Context, id int) (io.ReadWriteCloser, error) {
	cmd := exec.Command(t.o.Command, "console", strconv.Itoa(id))
	cmd.Dir = "/"
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, &domain.ToolstackError{Command: "xl console", Err: err}
	}
	return &console{cmd: cmd, Writer: in, Reader: out}, nil
}

type console struct {
	io.Reader
	io.Writer
	cmd  *exec.Cmd
	once sync.Once
}

// Close ends the process.
func (c *console) Close() error {
	c.once.Do(func() {
		_ = c.cmd.Process.Kill()
		_ = c.cmd.Wait() // closes both pipes
	})
	return nil
}
