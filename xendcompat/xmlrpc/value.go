package xmlrpc

import "github.com/xenvnet/xend/xendcompat/xmlrpc/codec"

// Fault is an answer that says no.
type Fault = codec.Fault

// Which fields had numbers in xend; all others had strings.
var (
	nodeKinds = codec.Numbers{}.With(codec.Integer,
		"nr_cpus", "nr_nodes", "sockets_per_node", "cores_per_socket", "threads_per_core", "cpu_mhz",
		"total_memory", "free_memory", "free_cpus", "max_free_memory", "max_para_memory", "max_hvm_memory",
		"xen_major", "xen_minor", "xend_config_format")
	domainKinds = codec.Numbers{}.With(codec.Integer,
		"domid", "vcpus", "maxmem", "memory", "shadow_memory", "online_vcpus", "cpu_weight", "cpu_cap",
		"store_mfn", "console_mfn", "videoram", "tsc_mode", "nomigrate", "ssidref",
		"vcpu_count", "number", "online", "blocked", "running", "cpu",
		"backend-id", "handle").With(codec.Double, "cpu_time", "up_time")
)
