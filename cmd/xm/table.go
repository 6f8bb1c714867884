package main

import "github.com/xenvnet/xend/internal/cli"

// commands is the table of everything that xm of any release could do. What has no Run waits for
// its issue.
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
				Name: "list", Group: domains, Args: "[DOMAIN...]", Max: -1, Run: a.list,
				Kinds:   []cli.Kind{cli.Domain},
				Summary: "list the domains, or those named",
				Details: []string{
					"The columns are name, id, memory in MiB, number of virtual processors, state and processor time in seconds. The letters of the state are r (running), b (blocked), p (paused), s (shut down), c (crashed) and d (dying).",
				},
				Options: []cli.Option{{Short: 'l', Long: "long", Help: "print all that is known, as S-expressions"}},
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
		{"create", "start a domain from its configuration"},
		{"console", "attach to a domain's console"},
		{"destroy", "end a domain at once"},
		{"domid", "turn a domain's name into its id"},
		{"domname", "turn a domain's id into its name"},
		{"dump-core", "write a domain's memory to a file"},
		{"mem-max", "set the limit of a domain's memory"},
		{"mem-set", "set a domain's memory"},
		{"migrate", "move a domain to another host"},
		{"pause", "stop a domain's processors"},
		{"reboot", "make a domain restart"},
		{"rename", "give a domain another name"},
		{"restore", "start a domain from a saved state"},
		{"save", "save a domain's state and end it"},
		{"shutdown", "make a domain shut down"},
		{"sysrq", "send a magic key to a domain"},
		{"top", "watch domains"},
		{"unpause", "let a paused domain go on"},
		{"vcpu-list", "list virtual processors"},
		{"vcpu-pin", "choose the processors that a virtual one runs on"},
		{"vcpu-set", "set the number of a domain's processors"},
		{"sched-bvt", "set parameters of the BVT scheduler"},
		{"sched-bvt-ctxallow", "set the context switch allowance of the BVT scheduler"},
		{"sched-sedf", "set parameters of the SEDF scheduler"},
		{"block-attach", "attach a block device to a domain"},
		{"block-detach", "detach a block device from a domain"},
		{"block-list", "list a domain's block devices"},
		{"network-attach", "attach a network interface to a domain"},
		{"network-detach", "detach a network interface from a domain"},
		{"network-list", "list a domain's network interfaces"},
	}...)
	known(true, domains, [][2]string{
		{"new", "add a domain to the managed ones"},
		{"delete", "remove a managed domain"},
		{"start", "start a managed domain"},
		{"suspend", "save a managed domain's state"},
		{"resume", "let a suspended domain go on"},
		{"reset", "reset a domain"},
		{"trigger", "send an event to a domain"},
		{"uptime", "print how long domains have run"},
		{"sched-credit", "set parameters of the credit scheduler"},
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
