package main

import (
	"context"

	"github.com/xenvnet/xend/internal/cli"
)

// commands is the table of everything that xm of any release could do. What has no Run is not
// supported.
func (a *app) commands() *cli.Table {
	const (
		vnets   = "Virtual networks"
		domains = "Domains"
		host    = "The host"
		help    = "Help"
	)
	t := &cli.Table{
		Program: "xm",
		Commands: []*cli.Command{
			{
				Name: "vnet-create", Group: vnets, Args: "CONFIG", Min: 1, Max: 1, Run: a.vnetCreate,
				Kinds:   []cli.Kind{cli.File},
				Summary: "create a vnet as described in file CONFIG",
				Details: []string{
					"The file holds one (vnet ...) form, see vnet.sxp(5). The vnet's bridge and interface are there when the command ends. The vnet is there again after a restart of the daemon or of the machine, until it is deleted.",
				},
			},
			{
				Name: "vnet-list", Group: vnets, Args: "[ID...]", Max: -1, Run: a.vnetList,
				Kinds:   []cli.Kind{cli.Vnet},
				Summary: "list the vnets",
				Details: []string{
					"Without arguments it prints the ids, one a line. With ids it prints the configuration of these vnets. For an id that does not exist it prints the id and the error on standard error, and goes on.",
				},
				Options: []cli.Option{{Short: 'l', Long: "long", Help: "print configurations, not ids"}},
			},
			{
				Name: "vnet-delete", Group: vnets, Args: "ID", Min: 1, Max: 1, Run: a.vnetDelete,
				Kinds:   []cli.Kind{cli.Vnet},
				Summary: "delete vnet ID",
				Details: []string{
					"The vnet's interface goes, and its bridge, too, if the daemon made it and nothing else is attached. Domains on a bridge that stays can still talk to each other, no more to other hosts.",
				},
			},

			{
				Name: "create", Group: domains, Args: "[FILE] [NAME=VALUE...]", Max: -1, Run: a.create,
				Kinds:   []cli.Kind{cli.File},
				Summary: "start a domain from its configuration",
				Details: []string{
					"The file is one of xm's or xl's in Python's form, or a (vm ...) form; nothing in it is executed. It is looked for in the working directory, then in /etc/xen. A setting NAME=VALUE wins over the file's, and the file may refer to it; one that is given several times is a list. Of a directory, every file *.cfg and *.sxp is started, in the order of their names.",
					"A domain that was started so is forgotten when it ends; 'xm new' makes one that is kept.",
				},
				Options: []cli.Option{
					{Short: 'f', Long: "defconfig", Arg: "FILE", Help: "the configuration, a file or a directory"},
					{Short: 'F', Long: "config", Arg: "FILE", Help: "the configuration as a form"},
					{Short: 'n', Long: "dryrun", Help: "print the configuration as a form, and start nothing"},
					{Short: 'p', Long: "paused", Help: "leave the domain paused"},
					{Short: 'c', Long: "console", Help: "attach to the console then"},
					{Short: 'q', Long: "quiet", Help: "print nothing"},
					{Short: 's', Long: "skipdtd", Help: "without a meaning here, as there is no DTD"},
				},
			},
			{
				Name: "list", Group: domains, Args: "[DOMAIN...]", Max: -1, Run: a.list,
				Kinds:   []cli.Kind{cli.Domain},
				Summary: "list the domains, or those named",
				Details: []string{
					"The columns are name, id, memory in MiB, number of virtual processors, state and processor time in seconds. The letters of the state are r (running), b (blocked), p (paused), s (shut down), c (crashed) and d (dying). A managed domain that does not run has no id.",
				},
				Options: []cli.Option{
					{Short: 'l', Long: "long", Help: "print all that is known, as S-expressions"},
					{Long: "state", Arg: "STATE", Help: "only those that are running, or halted; all is the default"},
				},
			},
			{
				Name: "destroy", Group: domains, Args: "DOMAIN", Min: 1, Max: 1, Run: a.does("destroy"),
				Kinds: []cli.Kind{cli.Domain}, Summary: "end a domain at once",
			},
			{
				Name: "shutdown", Group: domains, Args: "[DOMAIN...]", Max: -1, Run: a.shutdown,
				Kinds: []cli.Kind{cli.Domain}, Summary: "ask a domain to shut down",
				Options: []cli.Option{
					{Short: 'a', Long: "all", Help: "all domains but Domain-0"},
					{Short: 'w', Long: "wait", Help: "wait until they have ended"},
					{Short: 'H', Long: "halt", Help: "halt, without power-off"},
					{Short: 'R', Long: "reboot", Help: "restart instead"},
				},
			},
			{
				Name: "reboot", Group: domains, Args: "[DOMAIN...]", Max: -1, Run: a.shutdown,
				Kinds: []cli.Kind{cli.Domain}, Summary: "ask a domain to restart",
				Options: []cli.Option{
					{Short: 'a', Long: "all", Help: "all domains but Domain-0"},
					{Short: 'w', Long: "wait", Help: "wait until they have ended, and are about to start again"},
				},
			},
			{
				Name: "pause", Group: domains, Args: "DOMAIN", Min: 1, Max: 1, Run: a.does("pause"),
				Kinds: []cli.Kind{cli.Domain}, Summary: "stop a domain's processors",
			},
			{
				Name: "unpause", Group: domains, Args: "DOMAIN", Min: 1, Max: 1, Run: a.does("unpause"),
				Kinds: []cli.Kind{cli.Domain}, Summary: "let a paused domain go on",
			},
			{
				Name: "rename", Group: domains, Args: "DOMAIN NAME", Min: 2, Max: 2, Run: a.sets("rename", "name"),
				Kinds: []cli.Kind{cli.Domain, cli.None}, Summary: "give a domain another name",
			},
			{
				Name: "console", Group: domains, Args: "DOMAIN", Min: 1, Max: 1, Run: a.console,
				Kinds: []cli.Kind{cli.Domain}, Summary: "attach to a domain's console",
				Details: []string{"Ctrl-] leaves it; the domain goes on."},
			},
			{
				Name: "save", Group: domains, Args: "DOMAIN FILE", Min: 2, Max: 2, Run: a.save,
				Kinds: []cli.Kind{cli.Domain, cli.File}, Summary: "save a domain's state to a file, and end it",
			},
			{
				Name: "restore", Group: domains, Args: "FILE", Min: 1, Max: 1, Run: a.restore,
				Kinds: []cli.Kind{cli.File}, Summary: "start a domain from a saved state",
				Options: []cli.Option{{Short: 'p', Long: "paused", Help: "leave the domain paused"}},
			},
			{
				Name: "migrate", Group: domains, Args: "DOMAIN HOST", Min: 2, Max: 2, Run: a.migrate,
				Kinds: []cli.Kind{cli.Domain, cli.None}, Summary: "move a domain to another host",
				Options: []cli.Option{
					{Short: 'l', Long: "live", Help: "let the domain run while it moves"},
					{Short: 'p', Long: "port", Arg: "PORT", Help: "the port of the other host's relocation server, 8002 by default"},
					{Short: 's', Long: "ssl", Help: "use TLS, where the toolstack does not anyway"},
				},
			},
			{
				Name: "domid", Group: domains, Args: "DOMAIN", Min: 1, Max: 1, Run: a.domid,
				Kinds: []cli.Kind{cli.Domain}, Summary: "turn a domain's name into its id",
			},
			{
				Name: "domname", Group: domains, Args: "ID", Min: 1, Max: 1, Run: a.domname,
				Summary: "turn a domain's id into its name",
			},
			{
				Name: "mem-set", Group: domains, Args: "DOMAIN MIB", Min: 2, Max: 2, Run: a.memory("mem_target_set", "target"),
				Kinds: []cli.Kind{cli.Domain, cli.None}, Summary: "set a domain's memory",
			},
			{
				Name: "mem-max", Group: domains, Args: "DOMAIN MIB", Min: 2, Max: 2, Run: a.memory("maxmem_set", "memory"),
				Kinds: []cli.Kind{cli.Domain, cli.None}, Summary: "set the limit of a domain's memory",
			},
			{
				Name: "vcpu-list", Group: domains, Args: "[DOMAIN...]", Max: -1, Run: a.vcpuList,
				Kinds: []cli.Kind{cli.Domain}, Summary: "list virtual processors",
			},
			{
				Name: "vcpu-pin", Group: domains, Args: "DOMAIN VCPU CPUS", Min: 3, Max: 3, Run: a.sets("pincpu", "vcpu", "cpumap"),
				Kinds: []cli.Kind{cli.Domain, cli.None}, Summary: "choose the processors that a virtual one runs on",
				Details: []string{"VCPU is a number, or all. CPUS are a list such as 0-3,^1, or all."},
			},
			{
				Name: "vcpu-set", Group: domains, Args: "DOMAIN NUMBER", Min: 2, Max: 2, Run: a.sets("set_vcpus", "vcpus"),
				Kinds: []cli.Kind{cli.Domain, cli.None}, Summary: "set the number of a domain's processors",
			},
			{
				Name: "sysrq", Group: domains, Args: "DOMAIN LETTER", Min: 2, Max: 2, Run: a.sets("sysrq", "key"),
				Kinds: []cli.Kind{cli.Domain, cli.None}, Summary: "send a magic key to a domain",
			},
			{
				Name: "dump-core", Group: domains, Args: "DOMAIN [FILE]", Min: 1, Max: 2, Run: a.dumpCore,
				Kinds: []cli.Kind{cli.Domain, cli.File}, Summary: "write a domain's memory to a file",
				Options: []cli.Option{
					{Short: 'L', Long: "live", Help: "do not pause the domain meanwhile"},
					{Short: 'C', Long: "crash", Help: "end the domain then"},
				},
			},
			{
				Name: "top", Group: domains, Run: a.top,
				Summary: "watch domains",
				Options: []cli.Option{
					{Short: 'd', Long: "delay", Arg: "SECONDS", Help: "how long to wait in between, 3 by default"},
					{Short: 'n', Long: "iterations", Arg: "NUMBER", Help: "how often; for ever by default"},
					{Short: 'b', Long: "batch", Help: "clear no screen in between"},
				},
			},
			{
				Name: "block-attach", Group: domains, Args: "DOMAIN BACKDEV FRONTDEV MODE [BACKDOMAIN]", Min: 4, Max: 5, Run: a.blockAttach,
				Kinds: []cli.Kind{cli.Domain, cli.None}, Summary: "attach a block device to a domain",
				Details: []string{"BACKDEV is what is behind it, phy:/dev/vg/data or file:/srv/data.img; FRONTDEV the name that the domain sees, xvdb; MODE r or w."},
			},
			{
				Name: "block-detach", Group: domains, Args: "DOMAIN DEVICE", Min: 2, Max: 2, Run: a.detach("vbd"),
				Kinds: []cli.Kind{cli.Domain, cli.None}, Summary: "detach a block device from a domain",
				Options: []cli.Option{{Short: 'f', Long: "force", Help: "do not wait for the domain"}},
			},
			{
				Name: "block-list", Group: domains, Args: "DOMAIN", Min: 1, Max: 1, Run: a.blockList,
				Kinds: []cli.Kind{cli.Domain}, Summary: "list a domain's block devices",
				Options: []cli.Option{{Short: 'l', Long: "long", Help: "print all that is known, as S-expressions"}},
			},
			{
				Name: "network-attach", Group: domains, Args: "DOMAIN [KEY=VALUE...]", Min: 1, Max: -1, Run: a.networkAttach,
				Kinds: []cli.Kind{cli.Domain, cli.None}, Summary: "attach a network interface to a domain",
				Details: []string{"Keys are those of vif in configurations: mac, bridge, ip, script, vifname, rate, model, type, backend, mtu."},
			},
			{
				Name: "network-detach", Group: domains, Args: "DOMAIN DEVICE", Min: 2, Max: 2, Run: a.detach("vif"),
				Kinds: []cli.Kind{cli.Domain, cli.None}, Summary: "detach a network interface from a domain",
				Details: []string{"DEVICE is its number in network-list, or its MAC."},
				Options: []cli.Option{{Short: 'f', Long: "force", Help: "do not wait for the domain"}},
			},
			{
				Name: "network-list", Group: domains, Args: "DOMAIN", Min: 1, Max: 1, Run: a.networkList,
				Kinds: []cli.Kind{cli.Domain}, Summary: "list a domain's network interfaces",
				Details: []string{"An interface on a vnet shows its id at the end."},
				Options: []cli.Option{{Short: 'l', Long: "long", Help: "print all that is known, as S-expressions"}},
			},
			{
				Name: "new", Later: true, Group: domains, Args: "[FILE] [NAME=VALUE...]", Max: -1, Run: a.define,
				Kinds: []cli.Kind{cli.File}, Summary: "add a domain to the managed ones",
				Details: []string{"It is known until 'xm delete', whether it runs or not; on_xend_start = 'start' in its file starts it with the daemon. What is known already by that name is described anew, from its next start on."},
				Options: []cli.Option{
					{Short: 'f', Long: "defconfig", Arg: "FILE", Help: "the configuration, a file or a directory"},
					{Short: 'F', Long: "config", Arg: "FILE", Help: "the configuration as a form"},
					{Short: 'n', Long: "dryrun", Help: "print the configuration as a form, and change nothing"},
					{Short: 'q', Long: "quiet", Help: "print nothing"},
				},
			},
			{
				Name: "start", Later: true, Group: domains, Args: "DOMAIN", Min: 1, Max: 1, Run: a.start,
				Kinds: []cli.Kind{cli.Domain}, Summary: "start a managed domain",
				Options: []cli.Option{
					{Short: 'p', Long: "paused", Help: "leave the domain paused"},
					{Short: 'c', Long: "console", Help: "attach to the console then"},
				},
			},
			{
				Name: "delete", Later: true, Group: domains, Args: "DOMAIN", Min: 1, Max: 1, Run: a.does("delete"),
				Kinds: []cli.Kind{cli.Domain}, Summary: "remove a managed domain",
			},
			{
				Name: "suspend", Later: true, Group: domains, Args: "DOMAIN", Min: 1, Max: 1, Run: a.does("suspend"),
				Kinds: []cli.Kind{cli.Domain}, Summary: "save a managed domain's state",
			},
			{
				Name: "resume", Later: true, Group: domains, Args: "DOMAIN", Min: 1, Max: 1,
				Run: func(ctx context.Context, in cli.Invocation) error {
					return a.domainOp(ctx, in.Args[0], "resume", pausedParam(in)...)
				},
				Kinds: []cli.Kind{cli.Domain}, Summary: "let a suspended domain go on",
				Options: []cli.Option{{Short: 'p', Long: "paused", Help: "leave the domain paused"}},
			},
			{
				Name: "trigger", Later: true, Group: domains, Args: "DOMAIN TRIGGER [VCPU]", Min: 2, Max: 3, Run: a.sets("send_trigger", "trigger", "vcpu"),
				Kinds: []cli.Kind{cli.Domain, cli.None}, Summary: "send an event to a domain",
				Details: []string{"TRIGGER is nmi, reset, init, power, sleep or s3resume."},
			},
			{
				Name: "uptime", Later: true, Group: domains, Args: "[DOMAIN...]", Max: -1, Run: a.uptime,
				Kinds: []cli.Kind{cli.Domain}, Summary: "print how long domains have run",
				Options: []cli.Option{{Short: 's', Long: "short", Help: "a line as uptime(1) prints it"}},
			},
			{
				Name: "sched-credit", Later: true, Group: domains, Run: a.schedCredit,
				Summary: "print or set parameters of the credit scheduler",
				Options: []cli.Option{
					{Short: 'd', Long: "domain", Arg: "DOMAIN", Help: "which domain"},
					{Short: 'w', Long: "weight", Arg: "WEIGHT", Help: "its share: one with 512 gets twice as much as one with 256"},
					{Short: 'c', Long: "cap", Arg: "CAP", Help: "its limit in percent of a processor; 0 for none"},
				},
			},

			{
				Name: "info", Group: host, Run: a.info,
				Summary: "print facts about this host and its hypervisor",
			},
			{
				Name: "log", Group: host, Run: a.log,
				Summary: "print the daemon's log",
			},
			{
				Name: "dmesg", Group: host, Run: a.dmesg,
				Summary: "print the hypervisor's messages",
				Options: []cli.Option{{Short: 'c', Long: "clear", Help: "empty the hypervisor's buffer; print nothing"}},
			},

			{
				Name: "help", Group: help, Args: "[SUBCOMMAND]", Max: 1, Run: a.help,
				Kinds:   []cli.Kind{cli.Name},
				Summary: "print the sub-commands, or all about one",
				Options: []cli.Option{{Short: 'l', Long: "long", Help: "with options, and with the original's commands that are not supported"}},
			},
		},
	}

	known := func(later bool, group string, commands ...[2]string) {
		for _, c := range commands {
			t.Commands = append(t.Commands, &cli.Command{Name: c[0], Group: group, Summary: c[1], Max: -1, Later: later})
		}
	}
	known(false, domains, [][2]string{
		{"sched-bvt", "set parameters of the BVT scheduler"},
		{"sched-bvt-ctxallow", "set the context switch allowance of the BVT scheduler"},
		{"sched-sedf", "set parameters of the SEDF scheduler"},
	}...)
	known(true, domains, [][2]string{
		{"reset", "reset a domain"},
		{"sched-credit2", "set parameters of the second credit scheduler"},
		{"block-configure", "change a block device of a domain"},
		{"network2-attach", "attach a second-version network interface"},
		{"network2-detach", "detach a second-version network interface"},
		{"network2-list", "list second-version network interfaces"},
		{"vtpm-list", "list a domain's virtual TPMs"},
		{"pci-attach", "pass a PCI device to a domain"},
		{"pci-detach", "take a PCI device from a domain"},
		{"pci-list", "list a domain's PCI devices"},
		{"scsi-attach", "pass a SCSI device to a domain"},
		{"scsi-detach", "take a SCSI device from a domain"},
		{"scsi-list", "list a domain's SCSI devices"},
		{"usb-add", "pass a USB device to a fully virtualised domain"},
		{"usb-del", "take a USB device from a fully virtualised domain"},
		{"usb-attach", "pass a USB device to a domain"},
		{"usb-detach", "take a USB device from a domain"},
		{"usb-list", "list a domain's USB devices"},
		{"usb-hc-create", "create a virtual USB host controller"},
		{"usb-hc-destroy", "remove a virtual USB host controller"},
		{"change-vnc-passwd", "change the password of a domain's VNC console"},
		{"snapshot-create", "make a snapshot of a domain's disks"},
		{"snapshot-apply", "go back to a snapshot"},
		{"snapshot-delete", "delete a snapshot"},
		{"snapshot-list", "list snapshots"},
	}...)
	known(true, host, [][2]string{
		{"debug-keys", "send keys to the hypervisor"},
		{"serve", "answer the management protocol on standard input"},
		{"shell", "read sub-commands from a prompt"},
		{"pci-list-assignable-devices", "list PCI devices that domains may have"},
		{"usb-list-assignable-devices", "list USB devices that domains may have"},
		{"cpupool-create", "create a processor pool"},
		{"cpupool-new", "add a processor pool to the managed ones"},
		{"cpupool-start", "start a managed processor pool"},
		{"cpupool-list", "list processor pools"},
		{"cpupool-destroy", "stop a processor pool"},
		{"cpupool-delete", "remove a managed processor pool"},
		{"cpupool-cpu-add", "add a processor to a pool"},
		{"cpupool-cpu-remove", "take a processor from a pool"},
		{"cpupool-migrate", "move a domain to another processor pool"},
		{"tmem-list", "list transcendent memory pools"},
		{"tmem-thaw", "thaw transcendent memory pools"},
		{"tmem-freeze", "freeze transcendent memory pools"},
		{"tmem-destroy", "destroy transcendent memory pools"},
		{"tmem-set", "set parameters of transcendent memory"},
		{"tmem-shared-auth", "allow shared transcendent memory"},
		{"labels", "list the labels of the security policy"},
		{"addlabel", "label a domain or a resource"},
		{"rmlabel", "remove a label"},
		{"getlabel", "print a label"},
		{"dry-run", "test whether a labelled domain may start"},
		{"resources", "list labelled resources"},
		{"makepolicy", "make a security policy"},
		{"loadpolicy", "load a security policy"},
		{"cfgbootpolicy", "set the security policy for the next boot"},
		{"dumppolicy", "print the security policy"},
		{"setpolicy", "set the security policy"},
		{"getpolicy", "print which security policy is in force"},
		{"resetpolicy", "set the default security policy"},
		{"activatepolicy", "put a security policy in force"},
	}...)
	t.Find("mem-set").Aliases = []string{"balloon"} // its name in the first releases
	return t
}
