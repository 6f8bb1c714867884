package domain

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"
)

// xlTimeout bounds a command of the toolstack, which may wait for xenstored.
const xlTimeout = 10 * time.Second

// maxOutput bounds what is read of a command's output, in bytes.
const maxOutput = 16 << 20

// xl is Xen's toolstack as a command.
type xl struct{ command string }

// findToolstack returns nil where Xen does not run, this is no control domain, or xl is missing.
func findToolstack(o Options) toolstack {
	if o.XL != "" {
		return xl{o.XL}
	}
	if !strings.Contains(read(o.Proc, "xen/capabilities"), "control_d") {
		return nil
	}
	path, err := exec.LookPath("xl")
	if err != nil {
		o.Log.Warn("Xen runs, and its toolstack is not there: domains other than Domain-0 are not shown", "error", err)
		return nil
	}
	return xl{path}
}

// run returns the standard output of a command.
func (x xl) run(ctx context.Context, args ...string) ([]byte, error) {
	fail := func(err error) ([]byte, error) {
		return nil, &ToolstackError{Command: "xl " + strings.Join(args, " "), Err: err}
	}
	ctx, cancel := context.WithTimeout(ctx, xlTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, x.command, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	cmd.WaitDelay = time.Second // for a grandchild that keeps the pipe
	var out, stderr limited
	cmd.Stdout, cmd.Stderr = &out, &stderr
	err := cmd.Run()
	switch {
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return fail(fmt.Errorf("no answer within %s", xlTimeout))
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case err != nil:
		if text := bytes.TrimSpace(stderr.b); len(text) > 0 {
			err = errors.New(string(text[:min(len(text), 500)]))
		}
		return fail(err)
	case out.cut:
		return fail(fmt.Errorf("its output is longer than %d bytes", maxOutput))
	}
	return out.b, nil
}

// limited keeps the beginning of what is written to it.
type limited struct {
	b   []byte
	cut bool
}

func (l *limited) Write(p []byte) (int, error) {
	n := min(len(p), maxOutput-len(l.b))
	l.b = append(l.b, p[:n]...)
	l.cut = l.cut || n < len(p)
	return len(p), nil
}

func (x xl) info(ctx context.Context) (map[string]string, error) {
	b, err := x.run(ctx, "info")
	if err != nil {
		return nil, err
	}
	info := map[string]string{}
	for line := range strings.Lines(string(b)) {
		if name, value, ok := strings.Cut(line, ":"); ok {
			info[strings.TrimSpace(name)] = strings.TrimSpace(value)
		}
	}
	return info, nil
}

func (x xl) dmesg(ctx context.Context, clear bool) ([]byte, error) {
	if clear {
		return x.run(ctx, "dmesg", "-c")
	}
	return x.run(ctx, "dmesg")
}

// config is a domain in the output of xl list -l, in libxl's words.
type config struct {
	DomID  int `json:"domid"`
	Config struct {
		CInfo struct {
			Type string `json:"type"`
			Name string `json:"name"`
			UUID string `json:"uuid"`
		} `json:"c_info"`
		BInfo struct {
			MaxVCPUs   int   `json:"max_vcpus"`
			AvailVCPUs []int `json:"avail_vcpus"`
			MaxMemKB   int64 `json:"max_memkb"`
			Sched      struct {
				Weight int `json:"weight"`
				Cap    int `json:"cap"`
			} `json:"sched_params"`
			Kernel  string `json:"kernel"`
			Ramdisk string `json:"ramdisk"`
			Cmdline string `json:"cmdline"`
		} `json:"b_info"`
		NICs []struct {
			DevID   int    `json:"devid"`
			Backend int    `json:"backend_domid"`
			MAC     string `json:"mac"`
			IP      string `json:"ip"`
			Bridge  string `json:"bridge"`
			Ifname  string `json:"ifname"`
			Script  string `json:"script"`
		} `json:"nics"`
		OnPoweroff string `json:"on_poweroff"`
		OnReboot   string `json:"on_reboot"`
		OnCrash    string `json:"on_crash"`
	} `json:"config"`
}

// domains joins what three tables say. A domain that came or went in between is left out.
func (x xl) domains(ctx context.Context) ([]Domain, error) {
	short, err := x.run(ctx, "list")
	if err != nil {
		return nil, err
	}
	long, err := x.run(ctx, "list", "-l")
	if err != nil {
		return nil, err
	}
	processors, err := x.run(ctx, "vcpu-list")
	if err != nil {
		return nil, err
	}
	info, err := x.info(ctx)
	if err != nil {
		return nil, err
	}
	var configs []config
	if err := json.Unmarshal(long, &configs); err != nil {
		return nil, &ToolstackError{Command: "xl list -l", Err: err}
	}
	cpus, _ := strconv.Atoi(info["nr_cpus"])
	vcpus := parseVCPUs(processors, cpus)
	now := time.Now()
	var list []Domain
	for _, f := range parseShort(short) {
		i := slices.IndexFunc(configs, func(c config) bool { return c.DomID == f.id })
		if i < 0 {
			continue
		}
		f.vcpu = vcpus[f.id]
		configs[i].fill(&f)
		list = append(list, f.domain(now))
	}
	return list, nil
}

// fill adds what the configuration says.
func (c config) fill(f *facts) {
	info := c.Config.BInfo
	f.uuid = c.Config.CInfo.UUID
	f.maxmem = max(f.memory, int(info.MaxMemKB>>10))
	f.weight, f.cap = info.Sched.Weight, info.Sched.Cap
	f.vcpus = max(f.vcpus, info.MaxVCPUs)
	f.onPoweroff, f.onReboot, f.onCrash = c.Config.OnPoweroff, c.Config.OnReboot, c.Config.OnCrash
	if f.id != 0 {
		f.image = "linux"
		if c.Config.CInfo.Type == "hvm" {
			f.image = "hvm"
		}
		f.kernel, f.ramdisk, f.cmdline = info.Kernel, info.Ramdisk, info.Cmdline
	}
	for _, n := range c.Config.NICs {
		f.vifs = append(f.vifs, vif{id: n.DevID, backend: n.Backend, mac: n.MAC, bridge: n.Bridge, ip: n.IP, script: n.Script, ifname: n.Ifname})
	}
}

// parseShort reads the table of xl list: name, id, memory in MiB, vcpus, state, seconds.
func parseShort(b []byte) []facts {
	var list []facts
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		n := len(f)
		if n < 6 {
			continue
		}
		id, err := strconv.Atoi(f[n-5])
		if err != nil { // the heading
			continue
		}
		d := facts{id: id, name: strings.Join(f[:n-5], " "), state: f[n-2], cpuTime: parseSeconds(f[n-1])}
		d.memory, _ = strconv.Atoi(f[n-4])
		d.vcpus, _ = strconv.Atoi(f[n-3])
		d.online = d.vcpus
		list = append(list, d)
	}
	return list
}

// parseVCPUs reads the table of xl vcpu-list: name, id, number, processor, state, seconds, affinity
// "0-3,5 / all". The machine has cpus processors.
func parseVCPUs(b []byte, cpus int) map[int][]vcpu {
	all := map[int][]vcpu{}
	for line := range strings.Lines(string(b)) {
		left, _, _ := strings.Cut(line, " / ")
		f := strings.Fields(left)
		n := len(f)
		if n < 7 {
			continue
		}
		id, err := strconv.Atoi(f[n-6])
		if err != nil { // the heading
			continue
		}
		v := vcpu{cpu: -1, cpuTime: parseSeconds(f[n-2]), cpumap: parseList(f[n-1])}
		if cpu, err := strconv.Atoi(f[n-4]); err == nil {
			v.cpu, v.online = cpu, true
		}
		v.running = strings.HasPrefix(f[n-3], "r")
		if f[n-1] == "all" && cpus > 0 {
			v.cpumap = parseList("0-" + strconv.Itoa(cpus-1))
		}
		all[id] = append(all[id], v)
	}
	return all
}

func parseSeconds(s string) time.Duration {
	f, err := strconv.ParseFloat(s, 64)
	if err != nil || f < 0 || f > 1e9 {
		return 0
	}
	return time.Duration(f * float64(time.Second))
}
