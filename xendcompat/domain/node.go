package domain

import (
	"context"
	"maps"
	"strconv"
	"strings"

	"github.com/xenvnet/xend/sxp"
)

// maxNode bounds the form that Node returns, in bytes: early libvirt reads 4 KiB with its headers.
const maxNode = 3500

// Without Xen there is no version to tell, and clients want numbers: these are of the last Xen that
// had a xend, whose API this is.
const (
	apiMajor, apiMinor = "4", "4"
	noHypervisor       = "-no-hypervisor"
	configFormat       = "4"
)

// Node returns the (node (key value)…) form that describes this machine, less than 4,000 bytes long:
// from uname(2), /proc and /sys, and where Xen runs, from what the hypervisor tells.
func (m *Manager) Node(ctx context.Context) (sxp.Value, error) {
	u, err := getUname()
	if err != nil {
		return sxp.Value{}, err
	}
	var fields []sxp.Value
	add := func(name, value string) { fields = append(fields, sxp.Pair(name, value)) }
	add("system", u.system)
	add("host", u.host)
	add("release", u.release)
	add("version", u.version)
	add("machine", u.machine)
	var info map[string]string
	if m.tool != nil {
		if info, err = m.known.info.ask(ctx); err != nil {
			return sxp.Value{}, err
		}
	}
	if info == nil {
		m.addMachine(add)
	} else {
		addXen(add, maps.Clone(info))
	}
	return form("node", fields, maxNode), nil
}

// addMachine adds what Xen would tell, of a machine without it.
func (m *Manager) addMachine(add func(name, value string)) {
	machine := m.machine()
	t := machine.topology()
	total, available := machine.memory()
	for _, f := range []struct {
		name  string
		value int
	}{
		{"nr_cpus", t.cpus},
		{"nr_nodes", t.nodes},
		{"sockets_per_node", t.socketsPerNode()},
		{"cores_per_socket", t.coresPerSocket()},
		{"threads_per_core", t.threadsPerCore()},
		{"cpu_mhz", machine.megahertz()},
	} {
		add(f.name, strconv.Itoa(f.value))
	}
	add("hw_caps", hwCaps())
	add("total_memory", strconv.Itoa(total))
	add("free_memory", strconv.Itoa(available))
	add("xen_major", apiMajor)
	add("xen_minor", apiMinor)
	add("xen_extra", noHypervisor)
	for _, name := range []string{"xen_caps", "xen_scheduler", "platform_params", "xen_changeset", "cc_compiler", "cc_compile_by", "cc_compile_domain", "cc_compile_date"} {
		add(name, map[string]string{"xen_scheduler": "credit"}[name])
	}
	add("xend_config_format", configFormat)
	if len(t.nodeCPUs) > 0 {
		add("node_to_cpu", strings.Join(t.nodeCPUs, "; "))
	}
}

// xenKeys are the keys of xl info that clients know, in xend's order.
var xenKeys = []string{
	"nr_cpus", "nr_nodes", "sockets_per_node", "cores_per_socket", "threads_per_core", "cpu_mhz", "hw_caps", "virt_caps",
	"total_memory", "free_memory", "xen_major", "xen_minor", "xen_extra", "xen_caps", "xen_scheduler", "xen_pagesize",
	"platform_params", "xen_changeset", "cc_compiler", "cc_compile_by", "cc_compile_domain", "cc_compile_date",
}

// addXen adds what the hypervisor tells.
func addXen(add func(name, value string), info map[string]string) {
	number := func(key string) int {
		n, _ := strconv.Atoi(info[key])
		return max(1, n)
	}
	cpus, nodes := number("nr_cpus"), number("nr_nodes")
	if info["sockets_per_node"] == "" { // xl does not tell, xend did
		info["sockets_per_node"] = strconv.Itoa(max(1, cpus/(nodes*number("cores_per_socket")*number("threads_per_core"))))
	}
	for _, key := range xenKeys {
		value, known := info[key]
		if key == "cpu_mhz" {
			value, _, _ = strings.Cut(value, ".") // libvirt reads an integer
		}
		if known || key != "virt_caps" {
			add(key, value)
		}
	}
	add("xend_config_format", configFormat)
	if nodes == 1 {
		add("node_to_cpu", "node0:0-"+strconv.Itoa(cpus-1))
	}
}

// form returns (name field…) with as many of the fields, from the first, as fit into limit bytes.
func form(name string, fields []sxp.Value, limit int) sxp.Value {
	items := []sxp.Value{sxp.Atom(name)}
	size := len("()") + len(name)
	for _, f := range fields {
		// Everything else about a machine is short: only what does not fit is left out.
		if size += len(" ") + len(f.String()); size > limit {
			size -= len(" ") + len(f.String())
			continue
		}
		items = append(items, f)
	}
	return sxp.List(items...)
}
