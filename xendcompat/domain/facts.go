package domain

import (
	"cmp"
	"fmt"
	"math/big"
	"strconv"
	"strings"
	"time"

	"github.com/xenvnet/xend/sxp"
)

// facts is what is known of a running domain, whoever told it.
type facts struct {
	id             int
	name, uuid     string
	memory, maxmem int // MiB
	vcpus, online  int
	weight, cap    int
	state          string // flags: r-----
	cpuTime        time.Duration
	// onPoweroff, onReboot and onCrash are empty where the domain was given none.
	onPoweroff, onReboot, onCrash string
	upTime                        time.Duration // 0 if unknown
	image                         string        // "linux" or "hvm"; "" for Domain-0
	kernel, ramdisk, cmdline      string
	vcpu                          []vcpu
	vifs                          []vif
}

type vcpu struct {
	cpu     int // the processor that it runs on; -1 if none
	online  bool
	running bool
	cpuTime time.Duration
	cpumap  []int
}

// vif is a virtual interface; its fields are empty where unknown.
type vif struct {
	id                              int
	backend                         int
	mac, bridge, ip, script, ifname string
}

const dom0UUID = "00000000-0000-0000-0000-000000000000"

func number[T ~int](name string, n T) sxp.Value { return sxp.Pair(name, strconv.Itoa(int(n))) }

func seconds(d time.Duration) string { return strconv.FormatFloat(d.Seconds(), 'f', 6, 64) }

// domain writes the forms. now is the moment that the facts are of.
func (f facts) domain(now time.Time) Domain {
	if f.uuid == "" && f.id == 0 {
		f.uuid = dom0UUID
	}
	d := Domain{ID: f.id, Name: f.name, UUID: strings.ToLower(f.uuid)}
	fields := []sxp.Value{
		number("domid", f.id),
		sxp.Pair("uuid", d.UUID),
		sxp.Pair("ssidref", "0"),
		number("vcpus", f.vcpus),
		sxp.Pair("vcpu_avail", mask(f.online)),
		number("cpu_weight", f.weight),
		number("cpu_cap", f.cap),
		number("memory", f.memory),
		number("maxmem", f.maxmem),
		sxp.Pair("name", f.name),
		sxp.Pair("on_reboot", cmp.Or(f.onReboot, "restart")),
		sxp.Pair("on_poweroff", cmp.Or(f.onPoweroff, "destroy")),
		sxp.Pair("on_crash", cmp.Or(f.onCrash, "restart")),
		sxp.Pair("on_xend_start", "ignore"),
		sxp.Pair("state", f.state),
		sxp.Pair("cpu_time", seconds(f.cpuTime)),
		number("online_vcpus", f.online),
	}
	if f.upTime > 0 {
		fields = append(fields,
			sxp.Pair("up_time", seconds(f.upTime)),
			sxp.Pair("start_time", fmt.Sprintf("%.2f", float64(now.Add(-f.upTime).UnixMilli())/1000)))
	}
	if f.image != "" {
		fields = append(fields, sxp.List(sxp.Atom("image"), sxp.List(sxp.Atom(f.image),
			sxp.Pair("kernel", f.kernel), sxp.Pair("ramdisk", f.ramdisk), sxp.Pair("args", f.cmdline))))
	}
	for _, v := range f.vifs {
		values := v.fields()
		if d.devices == nil {
			d.devices = map[string][]sxp.Value{}
		}
		d.devices["vif"] = append(d.devices["vif"], sxp.List(sxp.Atom(strconv.Itoa(v.id)), sxp.List(values...)))
		fields = append(fields, sxp.List(sxp.Atom("device"), sxp.List(append([]sxp.Value{sxp.Atom("vif")}, values...)...)))
	}
	d.Form = form("domain", fields, maxNode)
	for i, c := range f.vcpu {
		d.VCPUs = append(d.VCPUs, c.form(i))
	}
	return d
}

func (v vif) fields() []sxp.Value {
	fields := []sxp.Value{number("backend-id", v.backend)}
	for _, p := range []struct{ name, value string }{
		{"mac", v.mac}, {"bridge", v.bridge}, {"ip", v.ip}, {"script", v.script}, {"vifname", v.ifname},
	} {
		if p.value != "" {
			fields = append(fields, sxp.Pair(p.name, p.value))
		}
	}
	return fields
}

func (c vcpu) form(n int) sxp.Value {
	var cpus []sxp.Value
	for _, cpu := range c.cpumap {
		cpus = append(cpus, sxp.Atom(strconv.Itoa(cpu)))
	}
	return sxp.List(sxp.Atom("vcpu"),
		number("number", n),
		sxp.Pair("online", bit(c.online)),
		sxp.Pair("running", bit(c.running)),
		sxp.Pair("blocked", bit(c.online && !c.running)),
		sxp.Pair("cpu_time", seconds(c.cpuTime)),
		number("cpu", c.cpu),
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
func (m *Manager) dom0() facts {
	machine := m.machine()
	cpus := parseList(read(m.o.Sys, "devices/system/cpu/online"))
	total, _ := machine.memory()
	f := facts{
		name:   "Domain-0",
		memory: total, maxmem: total,
		vcpus: max(1, len(cpus)), online: max(1, len(cpus)),
		weight: 256,
		state:  "r-----",
		upTime: machine.uptime(),
	}
	times := machine.cpuTimes()
	if len(times) > 0 {
		f.cpuTime = times[0]
	}
	for i, cpu := range cpus {
		v := vcpu{cpu: cpu, online: true, running: true, cpumap: []int{cpu}}
		if i+1 < len(times) {
			v.cpuTime = times[i+1]
		}
		f.vcpu = append(f.vcpu, v)
	}
	return f
}
