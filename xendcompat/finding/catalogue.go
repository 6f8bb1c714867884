package finding

// Kind is something that may be found.
type Kind struct {
	Name string
	// What says it in general.
	What string
	// Cure is what to do, in general.
	Cure string
}

// Catalogue is all that `vn check` may find, in the order in which it is looked for. docs/troubleshooting.md has the
// same as a table.
var Catalogue = []Kind{
	{"xend-down", "No daemon answers on this host", "`xend start`; `vn events` and the log say why it ended"},
	{"config-mistake", "The configuration has a mistake: the next start would fail", "the text names file and key; `xend reload` when it is mended"},
	{"no-underlay", "This host has no device or address by which it reaches others", "`ip -br addr`, `ip route`; name the device in vnet.toml (`device`)"},
	{"vnet-down", "A vnet's devices are missing, down or on the wrong bridge", "`ip link set DEVICE up`; `vn events -g vnet=ID`"},
	{"group-not-joined", "The kernel has no membership of the group on the underlay device", "`ip maddr show dev DEVICE`; `xend restart` joins again"},
	{"port-filtered", "A firewall of this host drops what vnets need: UDP 1798, UDP 4500, IP protocol 97 or 50", "the text has the command; the machine's own rules (/etc/nftables.conf) need it, too, or it is gone after a reboot"},
	{"bridge-filtered", "br_netfilter hands what a vnet's bridge forwards to a firewall that drops it", "the text has the command; or `accept_bridges = true`"},
	{"rp-filter", "Strict reverse path filtering, and a host is routed by another device than it is heard by", "`sysctl net.ipv4.conf.DEVICE.rp_filter=2`"},
	{"blocked-unicast", "A host hears this one by the group, and not by unicast UDP 1798; or it sends, and answers nothing that it should", "`vn check` there names the rule and the command that lets it through; on an original host `iptables-save`: a rule, or a policy that drops all"},
	{"dead-group", "Hosts answer by unicast, and not by the group, or are not heard by it", "IGMP snooping without a querier? `bridge mdb show`; a firewall? else `replicate` in vnet.toml"},
	{"host-silent", "A host that was heard lately answers nothing: cut off just now, or an original one of which no MAC is known to ask for", "`ping HOST`; `tcpdump -ni DEVICE host HOST and udp port 1798` while `vn check` runs: do its answers come?"},
	{"host-gone", "A host that the configuration names answers nothing and is not heard", "`ping HOST`; does xend run there? else take it out of vnet.toml"},
	{"host-unresolved", "A name in vnet.toml has no address", "`getent hosts NAME`"},
	{"path-mtu", "Less fits into a packet on the way to a host, or from it, than this device's MTU", "raise it on the way, or lower the domains' MTU to what the text says"},
	{"no-fragments", "Fragments do not arrive: full frames of domains are lost", "let fragments pass on the way, raise the MTU there to 1564, or `mtu_mode = \"pmtu\"` in vnet.toml"},
	{"one-sided", "A vnet of this host is on no other host that answered", "there: `xm vnet-list -l`, `xm vnet-create`"},
	{"wrong-id", "Two hosts have one vnet each that the other lacks: most likely one vnet under two ids", "`xm vnet-list -l` on both; ids are hexadecimal"},
	{"doubled-mac", "A MAC is on two hosts, or moves to and fro", "`vn trace MAC` on both; give one domain another MAC"},
	{"key-missing", "A vnet with security has no key here", "`vn key-generate`, or copy the other hosts' file"},
	{"key-mismatch", "Other hosts protect a vnet with a key that this one does not have", "`vn key-status` on both; copy the file"},
	{"level-mismatch", "A host has a vnet at another security level", "`xm vnet-list -l` on both"},
	{"stranger", "Packets for vnets come by a device that does not lead to other hosts", "asymmetric routing: `devices = [...]` in vnet.toml; else a domain attacks"},
	{"clock", "This host's clock is not kept right, or differs from another's", "`timedatectl`; `chronyc tracking`"},
	{"gro-off", "The underlay device coalesces nothing: each packet is handled singly", "`ethtool -K DEVICE gro on`"},
	{"file-limit", "The daemon may soon have no file descriptors left", "`LimitNOFILE=` of the unit"},
	{"state-full", "The state directory has little room left", "`df -h`, `df -i` of the directory that the text names"},
	{"file-set-aside", "A file in the state directory could not be read", "mend it and restart, or delete it; the log says why"},
	{"fast-path", "The fast path could not be used where it was asked for", "the text says why"},
}

// Of returns the catalogue's entry of that name; false if there is none.
func Of(name string) (Kind, bool) {
	for _, k := range Catalogue {
		if k.Name == name {
			return k, true
		}
	}
	return Kind{}, false
}
