package domain

import (
	"cmp"
	"crypto/rand"
	"fmt"
	"net"
	"strings"

	"github.com/xenvnet/xend/sxp"
)

// Config describes a domain that should run, whatever it was read from: a Python-like file (ParseFile), the
// (vm …) or (domain …) form of the API (ParseForm). A field's zero value means that nothing was said of it.
type Config struct {
	Name string
	// UUID is lower-case, with dashes.
	UUID string
	// Builder is "linux" for a paravirtualised domain, "hvm" for a fully virtualised one; "" means linux.
	Builder        string
	Memory, MaxMem int // MiB
	VCPUs          int
	// CPUs are the processors that it may run on: one list for all its virtual processors, or one for each:
	// "0-3,^1".
	CPUs              []string
	CPUWeight, CPUCap int // of the credit scheduler; a weight of 0 is its default, 256; a cap of 0 is none, 50 half a processor

	// Kernel and Ramdisk are paths on this machine; Kernel of an hvm domain is its firmware. Root and Extra make
	// the kernel's line: root=ROOT EXTRA.
	Kernel, Ramdisk, Root, Extra string
	// Bootloader is a program that finds the kernel in the domain's disk.
	Bootloader     string
	BootloaderArgs []string

	Vifs  []Vif
	Disks []Disk
	// VFBs are framebuffers: the parameters of each.
	VFBs [][]Param
	// PCI are devices of this machine, "0000:08:00.0", options behind a comma as given.
	PCI []string
	// Devices are those of other kinds (vkbd, vtpm, console, vscsi, …).
	Devices []DeviceConfig

	// OnPoweroff, OnReboot and OnCrash are what becomes of it when it ends; "" is the default, see Policy.
	OnPoweroff, OnReboot, OnCrash Action
	// OnXendStart is "start" for a managed domain that the daemon starts at its own start, else "ignore" or "".
	OnXendStart string
	// OnXendStop is kept and told; the daemon's end is no reason for a domain to end.
	OnXendStop string

	// Managed is a domain that is known while it does not run, as xm new makes it; others end with their last run.
	Managed bool

	// Other are settings that mean nothing here, for toolstacks that know them: device_model, boot, vnc, serial, ….
	Other []Setting
}

// Param is a parameter of a device: (bridge vnet97).
type Param struct{ Name, Value string }

// Setting is a setting of any shape: an atom, or a list of atoms or of lists.
type Setting struct {
	Name  string
	Value sxp.Value
	// Image says that it stands in the form of the image, (image (hvm (NAME VALUE))), as an emulator's settings do.
	Image bool
}

// DeviceConfig is a device of any kind.
type DeviceConfig struct {
	Kind   string // "vif", "vbd", "vkbd", …
	Params []Param
}

// Vif describes a network interface. Empty fields are the toolstack's defaults.
type Vif struct {
	MAC    string // lower-case, with colons; "" where none was chosen yet, see Config.Complete
	Bridge string
	IP     []string // annotation, or what vif-bridge lets through
	Script string   // a name below /etc/xen/scripts, or a path
	Name   string   // vifname
	Rate   string   // "10Mb/s@20ms"
	Model  string   // "rtl8139"; of hvm domains
	Type   string   // "vif", "ioemu", "netfront"
	// Backend is the domain that has the bridge; "" is Domain-0.
	Backend string
	MTU     int
	// Other are parameters that xend passed on and that mean nothing here: uuid, netmask, gateway, accel, ….
	Other []Param
}

// Disk describes a block device.
type Disk struct {
	// URI is what is behind it: "phy:/dev/vg/vm1", "file:/img/vm1", "tap:qcow2:/img/vm1"; "" for an empty drive.
	URI string
	// Dev is what the domain sees: "xvda1", "hdc:cdrom".
	Dev     string
	Mode    string // "r", "w", "w!"
	Backend string
	Other   []Param
}

// Action is what becomes of a domain that ends.
type Action string

// The actions.
const (
	Destroy         Action = "destroy"
	Restart         Action = "restart"
	Preserve        Action = "preserve"
	RenameRestart   Action = "rename-restart"
	CoredumpDestroy Action = "coredump-destroy"
	CoredumpRestart Action = "coredump-restart"
)

// Valid tells whether there is such an action.
func (a Action) Valid() bool {
	switch a {
	case Destroy, Restart, Preserve, RenameRestart, CoredumpDestroy, CoredumpRestart:
		return true
	}
	return false
}

// Policy returns what becomes of the domain when it ends for that reason. A reason that is unknown is a power-off.
func (c Config) Policy(r Reason) Action {
	a, def := c.OnPoweroff, Destroy
	switch r {
	case Reboot:
		a, def = c.OnReboot, Restart
	case Crash:
		a, def = c.OnCrash, Restart
	case Suspend:
		return Destroy
	}
	if a == "" {
		return def
	}
	return a
}

// Cmdline is the kernel's line: root=ROOT EXTRA, with ip=… before them where the image's setting ip asks for it.
func (c Config) Cmdline() string {
	var words []string
	for _, s := range c.Other {
		if s.Image && s.Name == "ip" && s.Value.Text() != "" {
			words = append(words, "ip="+s.Value.Text())
		}
	}
	if c.Root != "" {
		words = append(words, "root="+c.Root)
	}
	if c.Extra != "" {
		words = append(words, c.Extra)
	}
	return strings.Join(words, " ")
}

// Complete chooses what must be chosen once, so that it stays what it is when the domain is started again: the
// uuid, the memory (128 MiB), one virtual processor, and the MAC of each vif that has none (00:16:3e, the next bit zero).
func (c *Config) Complete() {
	c.Memory = cmp.Or(c.Memory, 128)
	c.VCPUs = max(1, c.VCPUs)
	if c.UUID == "" {
		c.UUID = NewUUID()
	}
	for i := range c.Vifs {
		if c.Vifs[i].MAC == "" {
			c.Vifs[i].MAC = NewMAC()
		}
	}
}

// maxName bounds the name of a domain, in bytes.
const maxName = 128

// CheckName refuses what can't be a domain's name: xend allowed letters, digits and . _ + : -.
func CheckName(name string) error {
	switch {
	case name == "":
		return badForm("the domain has no name: write name = 'vm1', or (name vm1)")
	case len(name) > maxName:
		return badForm("the name %s has more than %d characters", clip(name), maxName)
	case strings.Trim(name, ".") == "":
		return badForm("the name %s consists of dots only", short(sxp.Atom(name)))
	}
	for i := range len(name) {
		switch c := name[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', strings.IndexByte("._+:-", c) >= 0:
		default:
			return badForm("the name %s has a character other than letters, digits and . _ + : -", short(sxp.Atom(name)))
		}
	}
	return nil
}

// Validate tells what is wrong with a configuration, whatever runs it.
func (c Config) Validate() error {
	if err := CheckName(c.Name); err != nil {
		return err
	}
	if c.MaxMem != 0 && c.MaxMem < c.Memory {
		return badForm("maxmem (%d MiB) is less than memory (%d MiB)", c.MaxMem, c.Memory)
	}
	for _, p := range []Param{{"kernel", c.Kernel}, {"ramdisk", c.Ramdisk}, {"bootloader", c.Bootloader}} {
		if strings.ContainsAny(p.Value, "\n\x00") {
			return badForm("%s: %s is no path", p.Name, short(sxp.Atom(p.Value)))
		}
	}
	macs, devs := map[string]bool{}, map[string]bool{}
	for _, v := range c.Vifs {
		if v.MAC != "" && macs[v.MAC] {
			return badForm("two vifs have the MAC %s", v.MAC)
		}
		macs[v.MAC] = true
		for _, p := range v.Device().Params {
			if strings.ContainsAny(p.Value, ",\n\x00") {
				return badForm("%s of a vif: %s has a comma or the end of a line", clip(p.Name), short(sxp.Atom(p.Value)))
			}
		}
		for part := range strings.SplitSeq(v.Script, "/") {
			if part == ".." {
				return badForm("script of a vif: %s leads out of the scripts' directory", short(sxp.Atom(v.Script)))
			}
		}
	}
	for _, d := range c.Disks {
		for _, s := range []string{d.URI, d.Dev, d.Mode, d.Backend} {
			if strings.ContainsAny(s, ",\n\x00") {
				return badForm("disk: %s has a comma or the end of a line", short(sxp.Atom(s)))
			}
		}
		if dev, _, _ := strings.Cut(d.Dev, ":"); strings.Contains(dev, "..") || strings.HasPrefix(dev, "/") && !strings.HasPrefix(dev, "/dev/") {
			return badForm("disk: %s is no name of a device", short(sxp.Atom(d.Dev)))
		} else if devs[dev] {
			return badForm("two disks are %s", dev)
		} else {
			devs[dev] = true
		}
	}
	if n := len(c.Vifs); n > maxDevices {
		return badForm("%d vifs are more than %d", n, maxDevices)
	}
	if n := len(c.Disks); n > maxDevices {
		return badForm("%d disks are more than %d", n, maxDevices)
	}
	return nil
}

// NewMAC returns a random address of Xen's range, 00:16:3e, whose next bit is zero.
func NewMAC() string {
	mac := net.HardwareAddr{0x00, 0x16, 0x3e, 0, 0, 0}
	rand.Read(mac[3:]) // never fails, says its documentation
	mac[3] &= 0x7f
	return mac.String()
}

// NewUUID returns a random uuid (RFC 9562, version 4).
func NewUUID() string {
	var b [16]byte
	rand.Read(b[:]) // never fails, says its documentation
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}
