package main

// xlCommands are the commands of xl(1) that do what xm's of these names did, where this program does not.
var xlCommands = map[string]string{
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
