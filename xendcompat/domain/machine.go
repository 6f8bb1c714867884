package domain

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// machine is what the kernel tells about this machine, in proc(5) and sysfs.
type machine struct {
	proc, sys string
}

// read returns the trimmed contents of a file, "" if it cannot be read: what the kernel does not tell
// is left out.
func read(elem ...string) string {
	b, err := os.ReadFile(filepath.Join(elem...))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

// uname is what uname(2) tells.
type uname struct{ system, host, release, version, machine string }

func getUname() (uname, error) {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return uname{}, fmt.Errorf("uname: %w", err)
	}
	text := unix.ByteSliceToString
	return uname{text(u.Sysname[:]), text(u.Nodename[:]), text(u.Release[:]), text(u.Version[:]), text(u.Machine[:])}, nil
}

// topology counts processors.
type topology struct {
	cpus, nodes, sockets, cores int // cores: of the machine
	nodeCPUs                    []string
}

// coresPerSocket, socketsPerNode and threadsPerCore are 1 at least.
func (t topology) coresPerSocket() int { return max(1, t.cores/max(1, t.sockets)) }
func (t topology) socketsPerNode() int { return max(1, t.sockets/max(1, t.nodes)) }
func (t topology) threadsPerCore() int { return max(1, t.cpus/max(1, t.cores)) }

func (m machine) topology() topology {
	var t topology
	sockets, cores := map[string]bool{}, map[string]bool{}
	for _, n := range ParseCPUs(read(m.sys, "devices/system/cpu/online")) {
		t.cpus++
		dir := filepath.Join(m.sys, "devices/system/cpu/cpu"+strconv.Itoa(n), "topology")
		socket := read(dir, "physical_package_id")
		sockets[socket] = true
		// Siblings name a core wherever core_id repeats, as it does over dies.
		core := read(dir, "thread_siblings_list")
		if core == "" {
			core = strconv.Itoa(n)
		}
		cores[core] = true
	}
	for _, n := range ParseCPUs(read(m.sys, "devices/system/node/online")) {
		t.nodes++
		t.nodeCPUs = append(t.nodeCPUs, fmt.Sprintf("node%d:%s", n, read(m.sys, "devices/system/node/node"+strconv.Itoa(n), "cpulist")))
	}
	t.cpus, t.nodes = max(1, t.cpus), max(1, t.nodes)
	t.sockets, t.cores = max(1, len(sockets)), max(1, len(cores))
	return t
}

// ParseCPUs reads a list of processors or nodes, as the kernel and xl print it: "0-3,5". Parts that are none are left
// out.
func ParseCPUs(s string) []int {
	const limit = 1 << 16
	var list []int
	for part := range strings.SplitSeq(s, ",") {
		low, high, isRange := strings.Cut(part, "-")
		a, err := strconv.Atoi(low)
		if err != nil {
			continue
		}
		b := a
		if isRange {
			if b, err = strconv.Atoi(high); err != nil || b > limit {
				continue
			}
		}
		for n := a; n <= b; n++ {
			list = append(list, n)
		}
	}
	return list
}

// megahertz is the clock of the first processor, 0 if unknown.
func (m machine) megahertz() int {
	for line := range strings.Lines(read(m.proc, "cpuinfo")) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "cpu MHz" {
			f, _ := strconv.ParseFloat(strings.TrimSpace(value), 64)
			return int(f)
		}
	}
	khz, _ := strconv.Atoi(read(m.sys, "devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq"))
	return khz / 1000
}

// memory returns the total and the available memory in MiB.
func (m machine) memory() (total, available int) {
	for line := range strings.Lines(read(m.proc, "meminfo")) {
		name, value, _ := strings.Cut(line, ":")
		kib, _ := strconv.Atoi(strings.TrimSuffix(strings.TrimSpace(value), " kB"))
		switch name {
		case "MemTotal":
			total = kib >> 10
		case "MemAvailable":
			available = kib >> 10
		}
	}
	return total, available
}

// userHZ is the unit of times in /proc/stat, which is 1/100 s on every architecture of ours; time(7).
const userHZ = 100

// cpuTimes returns for how long each processor has worked since boot; the first is the sum.
func (m machine) cpuTimes() []time.Duration {
	b, err := os.ReadFile(filepath.Join(m.proc, "stat"))
	if err != nil {
		return nil
	}
	var times []time.Duration
	for sc := bufio.NewScanner(bytes.NewReader(b)); sc.Scan(); {
		f := strings.Fields(sc.Text())
		if len(f) < 5 || !strings.HasPrefix(f[0], "cpu") {
			break
		}
		var ticks int64
		for i, s := range f[1:] {
			// Of idle and iowait, fields 4 and 5, it did nothing; guest times, from 9, are in user.
			if n, err := strconv.ParseInt(s, 10, 64); err == nil && i != 3 && i != 4 && i < 8 {
				ticks += n
			}
		}
		times = append(times, time.Duration(ticks)*time.Second/userHZ)
	}
	return times
}

// uptime is the time since boot.
func (m machine) uptime() time.Duration {
	first, _, _ := strings.Cut(read(m.proc, "uptime"), " ")
	f, _ := strconv.ParseFloat(first, 64)
	return time.Duration(f * float64(time.Second))
}
