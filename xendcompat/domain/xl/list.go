package xl

import (
	"context"
	"encoding/json"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/xenvnet/xend/xendcompat/domain"
)

// Info returns what xl info says.
func (t *Toolstack) Info(ctx context.Context) (map[string]string, error) {
	b, err := t.run(ctx, askTimeout, "info")
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

// Dmesg returns the hypervisor's messages.
func (t *Toolstack) Dmesg(ctx context.Context, clear bool) ([]byte, error) {
	if clear {
		_, err := t.run(ctx, askTimeout, "dmesg", "-c")
		return nil, err
	}
	return t.run(ctx, askTimeout, "dmesg")
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
			MaxVCPUs int   `json:"max_vcpus"`
			MaxMemKB int64 `json:"max_memkb"`
			Sched    struct {
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
		Disks []struct {
			Backend int    `json:"backend_domid"`
			Path    string `json:"pdev_path"`
			VDev    string `json:"vdev"`
			// ReadWrite is 0 or 1, or left out.
			ReadWrite int `json:"readwrite"`
		} `json:"disks"`
		OnPoweroff string `json:"on_poweroff"`
		OnReboot   string `json:"on_reboot"`
		OnCrash    string `json:"on_crash"`
	} `json:"config"`
}

// List joins what three tables say. A domain that came or went in between is left out.
func (t *Toolstack) List(ctx context.Context) ([]domain.Status, error) {
	short, err := t.short(ctx)
	if err != nil {
		return nil, err
	}
	long, err := t.run(ctx, askTimeout, "list", "-l")
	if err != nil {
		return nil, err
	}
	processors, err := t.run(ctx, askTimeout, "vcpu-list")
	if err != nil {
		return nil, err
	}
	info, err := t.Info(ctx)
	if err != nil {
		return nil, err
	}
	var configs []config
	if err := json.Unmarshal(long, &configs); err != nil {
		return nil, &domain.ToolstackError{Command: "xl list -l", Err: err}
	}
	cpus, _ := strconv.Atoi(info["nr_cpus"])
	vcpus := parseVCPUs(processors, cpus)
	var list []domain.Status
	for _, s := range short {
		i := slices.IndexFunc(configs, func(c config) bool { return c.DomID == s.ID })
		if i < 0 {
			continue
		}
		configs[i].fill(&s)
		s.VCPUs = vcpus[s.ID]
		s.Config.VCPUs = max(len(s.VCPUs), configs[i].Config.BInfo.MaxVCPUs)
		list = append(list, s)
	}
	t.startTimes(ctx, list)
	return list, nil
}

// startTimes fills in when domains started, which is asked for once for each.
func (t *Toolstack) startTimes(ctx context.Context, list []domain.Status) {
	t.mu.Lock()
	known := t.started
	t.mu.Unlock()
	if slices.ContainsFunc(list, func(s domain.Status) bool { return known[s.ID].IsZero() }) {
		b, err := t.run(ctx, askTimeout, "uptime")
		if err == nil {
			now := time.Now()
			fresh := map[int]time.Time{}
			for id, up := range parseUptimes(b) {
				if fresh[id] = known[id]; fresh[id].IsZero() {
					fresh[id] = now.Add(-up)
				}
			}
			known = fresh
			t.mu.Lock()
			t.started = fresh
			t.mu.Unlock()
		}
	}
	for i := range list {
		list[i].Started = known[list[i].ID]
	}
}

// uptimeLine is a line of xl uptime: name, id, "1 day, 2:03:04".
var uptimeLine = regexp.MustCompile(`\s(\d+)\s+(?:(\d+) days?,\s*)?(\d+):(\d\d):(\d\d)\s*$`)

func parseUptimes(b []byte) map[int]time.Duration {
	all := map[int]time.Duration{}
	for line := range strings.Lines(string(b)) {
		m := uptimeLine.FindStringSubmatch(line)
		if m == nil {
			continue // the heading
		}
		var n [5]int
		for i, text := range m[1:] {
			n[i], _ = strconv.Atoi(text) // digits; no days are none
		}
		all[n[0]] = time.Duration(((n[1]*24+n[2])*60+n[3])*60+n[4]) * time.Second
	}
	return all
}

// short is what one command tells, which is enough to see who ended.
func (t *Toolstack) short(ctx context.Context) ([]domain.Status, error) {
	b, err := t.run(ctx, askTimeout, "list", "-v")
	if err != nil {
		return nil, err
	}
	return parseShort(b), nil
}

const dom0UUID = "00000000-0000-0000-0000-000000000000"

// fill adds what the configuration says.
func (c config) fill(s *domain.Status) {
	f, info := &s.Config, c.Config.BInfo
	if s.UUID == "" {
		s.UUID = strings.ToLower(c.Config.CInfo.UUID)
	}
	if s.UUID == "" && s.ID == 0 {
		s.UUID = dom0UUID
	}
	s.MaxMem = max(s.Memory, int(info.MaxMemKB>>10))
	s.CPUWeight, s.CPUCap = info.Sched.Weight, info.Sched.Cap
	f.Name, f.UUID, f.Memory, f.MaxMem = s.Name, s.UUID, s.Memory, s.MaxMem
	f.OnPoweroff, f.OnReboot, f.OnCrash = action(c.Config.OnPoweroff), action(c.Config.OnReboot), action(c.Config.OnCrash)
	if s.ID != 0 {
		f.Builder = "linux"
		if c.Config.CInfo.Type == "hvm" {
			f.Builder = "hvm"
		}
		f.Kernel, f.Ramdisk, f.Extra = info.Kernel, info.Ramdisk, info.Cmdline
	}
	for _, n := range c.Config.NICs {
		v := domain.Vif{MAC: n.MAC, Bridge: n.Bridge, Script: n.Script, Name: n.Ifname}
		if n.IP != "" {
			v.IP = strings.Fields(n.IP)
		}
		f.Vifs = append(f.Vifs, v)
		s.Devices = append(s.Devices, device("vif", n.DevID, n.Backend, s.ID, v.Device().Params))
	}
	for i, d := range c.Config.Disks {
		disk := domain.Disk{URI: "file:" + d.Path, Dev: d.VDev, Mode: "r"}
		if strings.HasPrefix(d.Path, "/dev/") {
			disk.URI = "phy:" + d.Path
		}
		if d.ReadWrite != 0 {
			disk.Mode = "w"
		}
		f.Disks = append(f.Disks, disk)
		number, ok := diskNumber(d.VDev)
		if !ok {
			number = i
		}
		s.Devices = append(s.Devices, device("vbd", number, d.Backend, s.ID, disk.Device().Params))
	}
}

// action reads libxl's name for what becomes of a domain, which has underscores.
func action(text string) domain.Action {
	a := domain.Action(strings.ReplaceAll(text, "_", "-"))
	if !a.Valid() {
		return ""
	}
	return a
}

func device(kind string, number, backend, id int, params []domain.Param) domain.Device {
	n := strconv.Itoa(number)
	return domain.Device{Kind: kind, ID: number, Params: append([]domain.Param{
		{Name: "backend-id", Value: strconv.Itoa(backend)}, {Name: "handle", Value: n}, {Name: "state", Value: "4"},
		{Name: "backend", Value: "/local/domain/" + strconv.Itoa(backend) + "/backend/" + kind + "/" + strconv.Itoa(id) + "/" + n},
	}, params...)}
}

// diskNumber is Linux's number of a disk of Xen's, xvda2; vbd-interface(7): 202<<8 | disk<<4 | partition, and for those
// beyond 1<<28 | disk<<8 | partition.
func diskNumber(vdev string) (int, bool) {
	rest, ok := strings.CutPrefix(vdev, "xvd")
	if !ok {
		return 0, false
	}
	disk := 0
	letters := strings.TrimRight(rest, "0123456789")
	for _, c := range letters {
		if c < 'a' || c > 'z' || disk > 1<<16 {
			return 0, false
		}
		disk = disk*26 + int(c-'a') + 1
	}
	part, _ := strconv.Atoi(rest[len(letters):])
	if disk--; disk < 0 {
		return 0, false
	}
	if disk < 16 && part < 16 {
		return 202<<8 | disk<<4 | part, true
	}
	return 1<<28 | disk<<8 | part, true
}

// reasons are libxl's numbers of why a domain shut down.
var reasons = map[string]domain.Reason{
	"0": domain.Poweroff, "1": domain.Reboot, "2": domain.Suspend, "3": domain.Crash, "4": domain.Crash, "5": domain.Reboot,
}

// parseShort reads the table of xl list, with or without -v: name, id, memory in MiB, vcpus, state, seconds, uuid, reason.
// A name may have blanks.
func parseShort(b []byte) []domain.Status {
	var list []domain.Status
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		// The state is the last word of six flags before the seconds.
		at := -1
		for i := len(f) - 2; i >= 4; i-- {
			if isFlags(f[i]) {
				at = i
				break
			}
		}
		if at < 0 {
			continue
		}
		id, err := strconv.Atoi(f[at-3])
		if err != nil { // the heading
			continue
		}
		s := domain.Status{ID: id, Name: strings.Join(f[:at-3], " "), Flags: domain.Flags(f[at]), CPUTime: parseSeconds(f[at+1])}
		s.Memory, _ = strconv.Atoi(f[at-2])
		rest := f[at+2:]
		if len(rest) > 0 && len(rest[0]) == len(dom0UUID) {
			s.UUID = strings.ToLower(rest[0])
			rest = rest[1:]
		}
		if f[at][3] == 's' {
			if s.Flags[4] != 'c' { // xm's flags know of crashes only
				s.Flags = s.Flags[:4] + "-" + s.Flags[5:]
			}
			s.Reason = domain.Poweroff
			if len(rest) > 0 && reasons[rest[0]] != "" {
				s.Reason = reasons[rest[0]]
			}
		}
		list = append(list, s)
	}
	slices.SortFunc(list, func(a, b domain.Status) int { return a.ID - b.ID })
	return list
}

// isFlags recognises what xl shows of a state: xm's six flags, whose fifth tells why a domain has shut down: c crash, r
// reboot, s suspend, w watchdog.
func isFlags(s string) bool {
	const which = "rbps?d"
	if len(s) != len(which) {
		return false
	}
	for i, c := range []byte(s) {
		if i == 4 {
			if !strings.ContainsRune("-crsw", rune(c)) {
				return false
			}
		} else if c != '-' && c != which[i] {
			return false
		}
	}
	return true
}

// parseVCPUs reads the table of xl vcpu-list: name, id, number, processor, state, seconds, affinity
// "0-3,5 / all". The machine has cpus processors.
func parseVCPUs(b []byte, cpus int) map[int][]domain.VCPU {
	all := map[int][]domain.VCPU{}
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
		v := domain.VCPU{CPU: -1, CPUTime: parseSeconds(f[n-2]), Affinity: domain.ParseCPUs(f[n-1])}
		if cpu, err := strconv.Atoi(f[n-4]); err == nil {
			v.CPU, v.Online = cpu, true
		}
		v.Running = strings.HasPrefix(f[n-3], "r")
		if f[n-1] == "all" && cpus > 0 {
			v.Affinity = domain.ParseCPUs("0-" + strconv.Itoa(cpus-1))
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
