package domain

import (
	"math/big"
	"strconv"
	"time"

	"github.com/xenvnet/xend/sxp"
)

const dom0UUID = "00000000-0000-0000-0000-000000000000"

func number[T ~int](name string, n T) sxp.Value { return sxp.Pair(name, strconv.Itoa(int(n))) }

func seconds(d time.Duration) string { return strconv.FormatFloat(d.Seconds(), 'f', 6, 64) }

// form is the (vcpu …) form of the virtual processor with that number.
func (c VCPU) form(n int) sxp.Value {
	var cpus []sxp.Value
	for _, cpu := range c.Affinity {
		cpus = append(cpus, sxp.Atom(strconv.Itoa(cpu)))
	}
	return sxp.List(sxp.Atom("vcpu"),
		number("number", n),
		sxp.Pair("online", bit(c.Online)),
		sxp.Pair("running", bit(c.Running)),
		sxp.Pair("blocked", bit(c.Online && !c.Running)),
		sxp.Pair("cpu_time", seconds(c.CPUTime)),
		number("cpu", c.CPU),
		sxp.List(sxp.Atom("cpumap"), sxp.List(cpus...)))
}

func bit(b bool) string {
	if b {
		return "1"
	}
	return "0"
}

// mask is the decimal number with the n lowest bits set.
func mask(n int) string {
	one := big.NewInt(1)
	return new(big.Int).Sub(new(big.Int).Lsh(one, uint(max(0, n))), one).String()
}

func (m *Manager) machine() machine { return machine{m.o.Proc, m.o.Sys} }

// dom0 is this machine itself where no hypervisor is below it.
func (m *Manager) dom0() Status {
	machine := m.machine()
	cpus := ParseCPUs(read(m.o.Sys, "devices/system/cpu/online"))
	total, _ := machine.memory()
	s := Status{Name: "Domain-0", UUID: dom0UUID, Memory: total, MaxMem: total, CPUWeight: 256, Flags: "r-----"}
	if up := machine.uptime(); up > 0 {
		s.Started = time.Now().Add(-up)
	}
	times := machine.cpuTimes()
	if len(times) > 0 {
		s.CPUTime = times[0]
	}
	if len(cpus) == 0 { // no /sys: there is one at least
		cpus = []int{0}
	}
	for i, cpu := range cpus {
		v := VCPU{Online: true, Running: true, CPU: cpu, Affinity: []int{cpu}}
		if i+1 < len(times) {
			v.CPUTime = times[i+1]
		}
		s.VCPUs = append(s.VCPUs, v)
	}
	return s
}
