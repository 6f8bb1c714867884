package main

// xlCommands are the commands of xl(1) that do what xm's of these names did, where this program does not.
var xlCommands = map[string]string{
	"create":                      "create",
	"console":                     "console",
	"destroy":                     "destroy",
	"domid":                       "domid",
	"domname":                     "domname",
	"dump-core":                   "dump-core",
	"mem-max":                     "mem-max",
	"mem-set":                     "mem-set",
	"migrate":                     "migrate",
	"pause":                       "pause",
	"reboot":                      "reboot",
	"rename":                      "rename",
	"restore":                     "restore",
	"save":                        "save",
	"shutdown":                    "shutdown",
	"sysrq":                       "sysrq",
	"top":                         "top",
	"unpause":                     "unpause",
	"vcpu-list":                   "vcpu-list",
	"vcpu-pin":                    "vcpu-pin",
	"vcpu-set":                    "vcpu-set",
	"block-attach":                "block-attach",
	"block-detach":                "block-detach",
	"block-list":                  "block-list",
	"network-attach":              "network-attach",
	"network-detach":              "network-detach",
	"network-list":                "network-list",
	"start":                       "create",
	"suspend":                     "save",
	"resume":                      "restore",
	"trigger":                     "trigger",
	"uptime":                      "uptime",
	"sched-credit":                "sched-credit",
	"sched-credit2":               "sched-credit2",
	"vtpm-list":                   "vtpm-list",
	"pci-attach":                  "pci-attach",
	"pci-detach":                  "pci-detach",
	"pci-list":                    "pci-list",
	"pci-list-assignable-devices": "pci-assignable-list",
	"usb-attach":                  "usbdev-attach",
	"usb-detach":                  "usbdev-detach",
	"usb-list":                    "usb-list",
	"usb-hc-create":               "usbctrl-attach",
	"usb-hc-destroy":              "usbctrl-detach",
	"debug-keys":                  "debug-keys",
	"cpupool-create":              "cpupool-create",
	"cpupool-start":               "cpupool-create",
	"cpupool-list":                "cpupool-list",
	"cpupool-destroy":             "cpupool-destroy",
	"cpupool-cpu-add":             "cpupool-cpu-add",
	"cpupool-cpu-remove":          "cpupool-cpu-remove",
	"cpupool-migrate":             "cpupool-migrate",
}

// instead says what to call instead of a command that this program does not have.
func instead(name string) string {
	if xl, ok := xlCommands[name]; ok {
		return "use 'xl " + xl + "'"
	}
	return "xl has no such command either"
}
