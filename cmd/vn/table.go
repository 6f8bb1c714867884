package main

import "github.com/xenvnet/xend/internal/cli"

// commands is the table of what vn can do.
func (a *app) commands() *cli.Table {
	const (
		vnets = "Vnets"
		hosts = "Addresses and hosts"
		keys  = "Keys of vnets with security"
		host  = "This host"
		help  = "Help"
	)
	long := func(text string) cli.Option { return cli.Option{Short: 'l', Long: "long", Help: text} }
	vnetID := "In ID, groups of zeros on the left may be left out. "
	asJSON := cli.Option{Long: "json", Help: "as JSON"}
	oneVnet := cli.Option{Long: "vnet", Arg: "ID", Help: "only those of that vnet"}
	oneHost := cli.Option{Long: "host", Arg: "ADDR", Help: "only those of that host"}
	device := cli.Option{Short: 'i', Long: "interface", Help: "VMAC is the name of an interface; its MAC is meant"}
	return &cli.Table{
		Program: "vn",
		Commands: []*cli.Command{
			{
				Name: "vnets", Group: vnets, Args: "[ID|IF...]", Max: -1, Run: a.vnets,
				Kinds:   []cli.Kind{cli.Vnet},
				Summary: "print the vnets, or those whose id or interface is given",
				Details: []string{vnetID + "Those that do not exist are told, and skipped."},
				Options: []cli.Option{
					{Short: 'a', Long: "all", Help: "with the interface, the local addresses and the addresses of other hosts"},
					long("with the interface"),
					asJSON,
				},
			},
			{
				Name: "vnifs", Group: vnets, Args: "[ID|IF...]", Max: -1, Run: a.vnifs,
				Kinds:   []cli.Kind{cli.Vnet},
				Summary: "print the interfaces of the vnets, or of those given, in the layout of ifconfig",
				Details: []string{vnetID + "Those that do not exist are told, and skipped."},
				Options: []cli.Option{asJSON},
			},
			{
				Name: "vnet-create", Group: vnets, Args: "ID", Min: 1, Max: 1, Run: a.vnetCreate,
				Summary: "create a vnet until the daemon restarts",
				Details: []string{
					vnetID + "The interface gets the MAC of eth0 (or of eth1, or of eth2), and is brought up. 'xm vnet-create' makes vnets that last. Vnets 2, 3 and 4 are there already.",
				},
				Options: []cli.Option{
					{Short: 's', Long: "security", Arg: "LEVEL", Help: "none (the default), auth or conf"},
					{Short: 'b', Long: "bridge", Arg: "BRIDGE", Help: "put the interface on this bridge, and make it if need be"},
					{Short: 'v', Long: "vnetif", Arg: "VNETIF", Help: "name of the interface, by default vnif and the id"},
				},
			},
			{
				Name: "vnet-delete", Group: vnets, Args: "ID|IF", Min: 1, Max: 1, Run: a.vnetDelete,
				Kinds:   []cli.Kind{cli.Vnet},
				Summary: "delete a vnet that vnet-create made",
				Details: []string{"It is named by its id or by its interface. " + vnetID},
				Options: []cli.Option{
					{Short: 'b', Long: "bridge", Help: "delete the bridge that its interface was on, too, if nothing else is on it"},
				},
			},

			{
				Name: "vifs", Group: hosts, Run: a.printList("vif.list"),
				Summary: "print the addresses that live on this host",
				Options: []cli.Option{oneVnet, asJSON},
			},
			{
				Name: "vif-add", Group: hosts, Args: "VNET VMAC", Min: 2, Max: 2, Run: a.vif("vif.add"),
				Kinds:   []cli.Kind{cli.Vnet, cli.Device},
				Summary: "say that MAC VMAC of vnet VNET lives on this host",
				Details: []string{"Addresses are learned from traffic, so this is rarely needed. One that is added stays until it is deleted or the daemon restarts."},
				Options: []cli.Option{device},
			},
			{
				Name: "vif-delete", Group: hosts, Args: "VNET VMAC", Min: 2, Max: 2, Run: a.vif("vif.del"),
				Kinds:   []cli.Kind{cli.Vnet, cli.Device},
				Summary: "forget MAC VMAC of vnet VNET",
				Options: []cli.Option{device},
			},
			{
				Name: "varp", Group: hosts, Run: a.printList("varp.list"),
				Summary: "print the settings of the data plane, and which address lives on which other host",
				Options: []cli.Option{oneVnet, oneHost, asJSON},
			},
			{
				Name: "varp-flush", Group: hosts, Run: a.varpFlush,
				Summary: "forget which address lives on which other host",
			},
			{
				Name: "peers", Group: hosts, Run: a.printList("peer.list"),
				Summary: "print the hosts to which group packets are forwarded",
				Options: []cli.Option{oneHost, asJSON},
			},
			{
				Name: "peer-add", Group: hosts, Args: "HOST", Min: 1, Max: 1, Run: a.peerAdd,
				Summary: "forward group packets to HOST until the daemon restarts",
				Details: []string{"HOST is a name or an address. It must have this host as a peer, too. Peers that last stand in vnet.toml(5)."},
				Options: []cli.Option{{Short: 'p', Long: "port", Arg: "PORT", Help: "its UDP port, by default 1798"}},
			},
			{
				Name: "peer-delete", Group: hosts, Args: "HOST", Min: 1, Max: 1, Run: a.peerDelete,
				Kinds:   []cli.Kind{cli.Peer},
				Summary: "no longer forward group packets to HOST",
			},

			{
				Name: "bridges", Group: host, Args: "[BRIDGE|PORT...]", Max: -1, Run: a.bridges,
				Kinds:   []cli.Kind{cli.Device},
				Summary: "print the bridges of this host and their ports, or only those given, or those with the ports given",
				Details: []string{"Those that do not exist are told, and skipped."},
				Options: []cli.Option{long("with bridge ids, as brctl show prints them"), asJSON},
			},
			{
				Name: "stats", Group: host, Run: a.stats,
				Summary: "print what vnets and hosts sent and received, where the packets went, and what was dropped, and why",
				Options: []cli.Option{
					{Short: 'a', Long: "all", Help: "also idle vnets, and the reasons that did not occur"},
					{Long: "vnet", Arg: "ID", Help: "only what went to and fro in that vnet"},
					{Long: "host", Arg: "ADDR", Help: "only what went to and fro between this host and that one"},
					asJSON,
					long("drops and the fast path as an S-expression"),
				},
			},
			{
				Name: "check", Group: host, Run: a.check,
				Summary: "ask all other hosts, look at this one, and say what is wrong and how to mend it",
				Details: []string{
					"It asks every host that is known, and every one that answers, by UDP 1798 itself, by the group and by unicast; it takes some seconds.",
					"The exit status is 0 where all is well, 1 with warnings, and 2 where something is cut off. Each finding's name is explained on the page docs/troubleshooting.md. A check that could not be made says why.",
				},
				Options: []cli.Option{
					{Short: 'v', Long: "verbose", Help: "also what is well, and what each host answered"},
					asJSON,
				},
			},
			{
				Name: "trace", Group: host, Args: "MAC|ADDR|DOMAIN", Min: 1, Max: 1, Run: a.trace,
				Summary: "say where something is, who says so, and which way frames to it go, with a probe",
				Details: []string{
					"ADDR is an IPv4 address, which is asked for by ARP in each vnet; DOMAIN is a domain of this host.",
					"The exit status is 1 if nothing is found, or the host that it is behind does not answer.",
				},
				Options: []cli.Option{asJSON},
			},
			{
				Name: "events", Group: host, Run: a.events,
				Summary: "print what an operator must know, the newest last",
				Details: []string{"These are the lines of the daemon's log from INFO on, in its words: the last 1024, and of those that ask for something the last 512, since the daemon was started."},
				Options: []cli.Option{
					{Short: 'f', Long: "follow", Help: "go on, until ctrl-C, as more comes"},
					{Short: 'w', Long: "warnings", Help: "only those that ask for something"},
					{Short: 'g', Long: "grep", Arg: "TEXT", Help: "only those that contain TEXT, in whatever case"},
					{Short: 'n', Long: "lines", Arg: "N", Help: "the last N only"},
					asJSON,
				},
			},
			{
				Name: "topology", Group: host, Args: "[ID|IF...]", Max: -1, Run: a.topology,
				Summary: "draw this host's vnets, or those that are named, their domains, and the other hosts",
				Details: []string{"FORMAT is text (the default), dot (for Graphviz), mermaid, svg or json."},
				Options: []cli.Option{
					{Short: 'f', Long: "format", Arg: "FORMAT", Help: "draw it so"},
					{Long: "json", Help: "the same as --format json"},
				},
			},
			{
				Name: "top", Group: host, Run: a.top,
				Summary: "show live what vnets and hosts send and receive, and what is dropped, the busiest first",
				Details: []string{
					"It goes on until ctrl-C.",
					"Nothing is counted by MAC, which would cost every frame something. With --macs, one frame in 64 is looked at, at the ports of the vnets' bridges, and multiplied: what MACs of this host send and receive, without what is for many. Bulk TCP comes in frames of up to 64 KiB there. What the bypass hands straight to a domain is not seen at its port: of that, only what the domain sends is told. What is dropped is told by vnet, host and reason.",
				},
				Options: []cli.Option{
					{Short: 'm', Long: "macs", Help: "also the MACs of this host, estimated from a sample"},
					{Long: "sample", Arg: "N", Help: "look at one frame in N for that, by default 64"},
					{Short: 'd', Long: "delay", Arg: "SECONDS", Help: "the time between two looks, by default 1"},
					{Short: 'n', Long: "rounds", Arg: "N", Help: "end after N looks"},
					{Short: 's', Long: "sort", Arg: "KEY", Help: "by bytes (the default), packets or name"},
					{Long: "vnet", Arg: "ID", Help: "only that vnet"},
					{Long: "host", Arg: "ADDR", Help: "only that host"},
					{Long: "json", Help: "as JSON, what was counted between two looks"},
				},
			},
			{
				Name: "capture", Group: host, Args: "ID|IF", Min: 1, Max: 1, Run: a.capture,
				Kinds:   []cli.Kind{cli.Vnet},
				Summary: "capture a vnet's frames on its interface and on the underlay device together, and say what became of each",
				Details: []string{
					vnetID + "Each frame is told with the packet that carries it, the way that took, and how long; of what was not seen on the other side it is told what the daemon dropped meanwhile. What is sealed is opened, where the vnet's key is on this host and the sender's KEY message has come since the capture began.",
					"It goes on until ctrl-C. Full frames travel in fragments, and bulk TCP in other pieces than on the interface: these are shown, and not matched. What the kernel's fast path sends is seen on the underlay device only, and what passes the bridge by, too.",
					"With --read it shows, of a capture file, what carries the vnet's frames, and opens what is sealed with the keys in the key folder: it asks no daemon. KEY messages come every 20 seconds, so a file should span that.",
				},
				Options: []cli.Option{
					{Short: 'r', Long: "read", Arg: "FILE", Help: "read a pcap or pcapng file that was captured on an underlay device, tcpdump's for instance"},
					{Short: 'w', Long: "write", Arg: "FILE", Help: "write a pcapng file, with comments, for Wireshark (- is the standard output)"},
					{Short: 'c', Long: "count", Arg: "N", Help: "end after N packets"},
				},
			},
			{
				Name: "key-generate", Group: keys, Args: "[ID]", Max: 1, Run: a.keyGenerate,
				Summary: "make the key of vnet ID, or the one for all vnets that have none of their own",
				Details: []string{"Vnets with security auth or conf need one, the same on all hosts. A key that is there is never overwritten. " + vnetID},
			},
			{
				Name: "key-status", Group: keys, Run: a.keyStatus,
				Summary: "print with which keys vnets are protected, and which hosts take part",
				Options: []cli.Option{oneVnet, oneHost, long("as an S-expression"), asJSON},
			},
			{
				Name: "key-rotate", Group: keys, Args: "STEP [ID]", Min: 1, Max: 2, Run: a.keyRotate,
				Kinds:   []cli.Kind{cli.Keyword},
				Words:   []string{"add", "use", "remove"},
				Summary: "change a key without loss, in the steps add, use and remove",
				Details: []string{"Each step is done on all hosts before the next: it changes the key file of vnet ID, or the default one, and says what to do then, and which hosts have which key, as they say of themselves."},
				Options: []cli.Option{{Short: 'f', Long: "force", Help: "use a key although hosts do not have it, or remove one although hosts still send with it"}},
			},
			{
				Name: "mtu", Group: host, Run: a.mtu,
				Summary: "print how large a packet may be, to the group and to each host",
				Options: []cli.Option{oneHost, long("as an S-expression"), asJSON},
			},
			{
				Name: "insmod", Group: host, Args: "[varp_mcaddr=ADDR]", Max: 1, Run: a.insmod,
				Kinds:   []cli.Kind{cli.Keyword},
				Words:   []string{"varp_mcaddr="},
				Summary: "make sure that the data plane runs, with group ADDR if given",
				Details: []string{"The original loaded its kernel module with this; there is none to load any more. The group stays until the daemon restarts; one that lasts stands in vnet.toml(5)."},
			},

			{
				Name: "help", Group: help, Args: "[COMMAND]", Max: 1, Run: a.help,
				Kinds:   []cli.Kind{cli.Name},
				Summary: "print the commands, or all about one",
				Options: []cli.Option{long("with options")},
			},
		},
	}
}
