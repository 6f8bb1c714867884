package lab

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// cgroups is where the domains' control groups are; cgroups(7), version 2.
type cgroups struct {
	dir   string // of all domains' groups; "": there is no such file system, or it can't be written
	label string // begins the names of ours: several xends may share a machine
	// missing are the controllers that this machine doesn't have there: "memory", "cpu", "cpuset".
	missing []string
}

// controllers are what limits need.
var controllers = []string{"memory", "cpu", "cpuset"}

// groupDir is the group of all domains of all xends of a machine.
const groupDir = "xend-lab"

// findCgroups looks where the file system is mounted.
func findCgroups(mounts []byte) string {
	for sc := bufio.NewScanner(bytes.NewReader(mounts)); sc.Scan(); {
		if f := strings.Fields(sc.Text()); len(f) > 2 && f[2] == "cgroup2" {
			return f[1]
		}
	}
	return ""
}

// openCgroups makes the common group and hands it what controllers there are.
func openCgroups(mount, label string) (cgroups, error) {
	c := cgroups{label: label, missing: controllers}
	if mount == "" {
		return c, errors.New("no cgroup file system of version 2 is mounted")
	}
	dir := filepath.Join(mount, groupDir)
	if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return c, err
	}
	c.dir, c.missing = dir, nil
	for _, name := range controllers {
		for _, d := range []string{mount, dir} {
			// Without the controller, and in the root group of a container, this fails.
			_ = os.WriteFile(filepath.Join(d, "cgroup.subtree_control"), []byte("+"+name), 0)
		}
		b, _ := os.ReadFile(filepath.Join(dir, "cgroup.subtree_control"))
		if !slices.Contains(strings.Fields(string(b)), name) {
			c.missing = append(c.missing, name)
		}
	}
	if len(c.missing) > 0 {
		return c, fmt.Errorf("%s offers no controller %s", mount, strings.Join(c.missing, ", "))
	}
	return c, nil
}

// group is that of a domain; "" where there is none.
func (c cgroups) group(id int) string {
	if c.dir == "" {
		return ""
	}
	return filepath.Join(c.dir, c.label+"."+strconv.Itoa(id))
}

// ours lists the domains that have a group.
func (c cgroups) ours() []int {
	entries, _ := os.ReadDir(c.dir)
	var ids []int
	for _, e := range entries {
		if rest, ok := strings.CutPrefix(e.Name(), c.label+"."); ok {
			if id, err := strconv.Atoi(rest); err == nil {
				ids = append(ids, id)
			}
		}
	}
	return ids
}

// tidyAge spares groups that another xend is about to put a process in.
const tidyAge = time.Minute

// tidy removes groups, whoever's, that no process is in: of domains that ended with nobody to see it.
func (c cgroups) tidy() {
	entries, _ := os.ReadDir(c.dir)
	for _, e := range entries {
		if info, err := e.Info(); err == nil && e.IsDir() && time.Since(info.ModTime()) > tidyAge {
			_ = os.Remove(filepath.Join(c.dir, e.Name())) // not while there is a process
		}
	}
}

func (c cgroups) create(id, pid int) error {
	dir := c.group(id)
	if dir == "" {
		return nil
	}
	if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0)
}

// remove succeeds once no process is left in the group.
func (c cgroups) remove(id int) error {
	dir := c.group(id)
	if dir == "" {
		return nil
	}
	_ = os.WriteFile(filepath.Join(dir, "cgroup.kill"), []byte("1"), 0) // since Linux 5.14
	var err error
	for range 100 {
		// The group empties a moment after its processes ended.
		if err = os.Remove(dir); err == nil || errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		time.Sleep(10 * time.Millisecond)
	}
	return err
}

// limits are what a domain gets.
type limits struct {
	Memory int   // MiB; 0: no limit
	VCPUs  int   // processors
	Weight int   // of the credit scheduler, 256 being one's fair share
	Cap    int   // percent of a processor; 0: none but VCPUs
	CPUs   []int // that it may run on; none: all
}

// cpuPeriod is in microseconds, the kernel's default.
const cpuPeriod = 100_000

// settings are the files of a group that say the same. A controller that is missing has none.
func (l limits) settings() map[string]string {
	memory := "max"
	if l.Memory > 0 {
		memory = strconv.Itoa(l.Memory << 20)
	}
	percent := max(1, l.VCPUs) * 100
	if l.Cap > 0 {
		percent = min(percent, l.Cap)
	}
	var cpus []string
	for _, n := range l.CPUs {
		cpus = append(cpus, strconv.Itoa(n))
	}
	weight := l.Weight
	if weight == 0 {
		weight = 256
	}
	return map[string]string{
		"memory.max":  memory,
		"cpu.max":     fmt.Sprintf("%d %d", percent*cpuPeriod/100, cpuPeriod),
		"cpu.weight":  strconv.Itoa(min(10000, max(1, weight*100/256))), // 100 is the fair share there
		"cpuset.cpus": strings.Join(cpus, ","),
	}
}

// limit sets what the machine's controllers can.
func (c cgroups) limit(id int, l limits) error {
	dir := c.group(id)
	if dir == "" {
		return nil
	}
	var errs []error
	for file, value := range l.settings() {
		controller, _, _ := strings.Cut(file, ".")
		if slices.Contains(c.missing, controller) {
			continue
		}
		if err := os.WriteFile(filepath.Join(dir, file), []byte(value+"\n"), 0); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// freeze stops all processes of a domain, or lets them go on; false where that is not possible.
func (c cgroups) freeze(id int, on bool) (bool, error) {
	dir := c.group(id)
	if dir == "" {
		return false, nil
	}
	value := "0"
	if on {
		value = "1"
	}
	err := os.WriteFile(filepath.Join(dir, "cgroup.freeze"), []byte(value), 0)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) { // before Linux 5.2
		return false, nil
	}
	return err == nil, err
}

// cpuTime is what the domain has used; 0 if unknown.
func (c cgroups) cpuTime(id int) time.Duration {
	dir := c.group(id)
	if dir == "" {
		return 0
	}
	b, _ := os.ReadFile(filepath.Join(dir, "cpu.stat"))
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, "usage_usec "); ok {
			n, _ := strconv.ParseInt(strings.TrimSpace(rest), 10, 64)
			return time.Duration(n) * time.Microsecond
		}
	}
	return 0
}
