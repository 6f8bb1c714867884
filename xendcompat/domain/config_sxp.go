package domain

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/xenvnet/xend/sxp"
)

// SXP returns the (vm …) form, as xm sends it. ParseForm of it is c again.
func (c Config) SXP() sxp.Value {
	return sxp.List(append([]sxp.Value{sxp.Atom("vm")}, c.fields()...)...)
}

// fields are the fields of the form.
func (c Config) fields() []sxp.Value {
	var f []sxp.Value
	text := func(name, value string) {
		if value != "" {
			f = append(f, sxp.Pair(name, value))
		}
	}
	num := func(name string, n int) {
		if n != 0 {
			f = append(f, number(name, n))
		}
	}
	text("name", c.Name)
	text("uuid", c.UUID)
	num("memory", c.Memory)
	num("maxmem", c.MaxMem)
	num("vcpus", c.VCPUs)
	if len(c.CPUs) == 1 {
		text("cpus", c.CPUs[0])
	} else if len(c.CPUs) > 1 {
		f = append(f, sxp.List(sxp.Atom("cpus"), atoms(c.CPUs)))
	}
	num("cpu_weight", c.CPUWeight)
	num("cpu_cap", c.CPUCap)
	text("on_poweroff", string(c.OnPoweroff))
	text("on_reboot", string(c.OnReboot))
	text("on_crash", string(c.OnCrash))
	text("on_xend_start", c.OnXendStart)
	text("on_xend_stop", c.OnXendStop)
	if c.Managed {
		text("managed", "1")
	}
	text("bootloader", c.Bootloader)
	if len(c.BootloaderArgs) > 0 {
		text("bootloader_args", strings.Join(c.BootloaderArgs, " "))
	}
	for _, s := range c.Other {
		if !s.Image {
			f = append(f, s.form())
		}
	}
	if image, ok := c.image(); ok {
		f = append(f, image)
	}
	return append(f, c.devices()...)
}

func (s Setting) form() sxp.Value { return sxp.List(sxp.Atom(s.Name), s.Value) }

// image returns (image (BUILDER (kernel …) …)), if there is anything to say.
func (c Config) image() (sxp.Value, bool) {
	items := []sxp.Value{sxp.Atom(cmp.Or(c.Builder, "linux"))}
	for _, p := range []Param{{"kernel", c.Kernel}, {"ramdisk", c.Ramdisk}, {"root", c.Root}, {"args", c.Extra}} {
		if p.Value != "" {
			items = append(items, sxp.Pair(p.Name, p.Value))
		}
	}
	for _, s := range c.Other {
		if s.Image {
			items = append(items, s.form())
		}
	}
	return sxp.List(sxp.Atom("image"), sxp.List(items...)), len(items) > 1 || c.Builder != ""
}

// AllDevices returns the devices of all kinds as they stand in forms, in the order vif, vbd, vfb, pci, others.
func (c Config) AllDevices() []DeviceConfig {
	var all []DeviceConfig
	for _, v := range c.Vifs {
		all = append(all, v.Device())
	}
	for _, d := range c.Disks {
		all = append(all, d.Device())
	}
	for _, v := range c.VFBs {
		all = append(all, DeviceConfig{"vfb", v})
	}
	for _, p := range c.PCI {
		all = append(all, DeviceConfig{"pci", []Param{{"dev", p}}})
	}
	return append(all, c.Devices...)
}

func (c Config) devices() []sxp.Value {
	var f []sxp.Value
	for _, d := range c.AllDevices() {
		f = append(f, sxp.List(sxp.Atom("device"), d.SXP()))
	}
	return f
}

// SXP returns (KIND (name value)…).
func (d DeviceConfig) SXP() sxp.Value {
	items := []sxp.Value{sxp.Atom(d.Kind)}
	for _, p := range d.Params {
		items = append(items, sxp.Pair(p.Name, p.Value))
	}
	return sxp.List(items...)
}

// Device returns the interface as a device.
func (v Vif) Device() DeviceConfig {
	mtu := ""
	if v.MTU != 0 {
		mtu = strconv.Itoa(v.MTU)
	}
	return DeviceConfig{"vif", given(v.Other, Param{"mac", v.MAC}, Param{"bridge", v.Bridge}, Param{"ip", strings.Join(v.IP, " ")},
		Param{"script", v.Script}, Param{"vifname", v.Name}, Param{"rate", v.Rate}, Param{"model", v.Model}, Param{"type", v.Type},
		Param{"backend", v.Backend}, Param{"mtu", mtu})}
}

// Device returns the disk as a device.
func (d Disk) Device() DeviceConfig {
	return DeviceConfig{"vbd", given(d.Other, Param{"uname", d.URI}, Param{"dev", d.Dev}, Param{"mode", d.Mode}, Param{"backend", d.Backend})}
}

// given returns the parameters that have a value, and the others.
func given(others []Param, params ...Param) []Param {
	params = slices.DeleteFunc(params, func(p Param) bool { return p.Value == "" })
	return append(params, others...)
}

func atoms(list []string) sxp.Value {
	items := make([]sxp.Value, 0, len(list))
	for _, s := range list {
		items = append(items, sxp.Atom(s))
	}
	return sxp.List(items...)
}

// FormError says what is wrong with a form of the API.
type FormError struct{ Text string }

func (e *FormError) Error() string { return e.Text }

func badForm(format string, args ...any) error { return &FormError{fmt.Sprintf(format, args...)} }

// runtimeKeys are those of (domain …) forms that tell what was, not what should be.
var runtimeKeys = map[string]bool{
	"domid": true, "state": true, "status": true, "shutdown_reason": true, "cpu_time": true, "online_vcpus": true, "vcpu_avail": true,
	"up_time": true, "start_time": true, "store_mfn": true, "console_mfn": true, "ssidref": true, "shadow_memory": true, "vnets": true,
}

// ParseForm reads the (vm …) form that clients send, or a (domain …) form, whose run-time keys count for nothing.
// Errors are a *FormError, and name the key.
func ParseForm(v sxp.Value) (Config, error) {
	var c Config
	if v.Name() != "vm" && v.Name() != "domain" {
		return c, badForm("expected a (vm …) or (domain …) form, got %s", short(v))
	}
	for _, f := range v.Children() {
		name := f.Name()
		switch {
		case f.IsAtom() || name == "":
			return c, badForm("expected (KEY VALUE) in the %s form, got %s", v.Name(), short(f))
		case runtimeKeys[name]:
		case name == "image":
			if err := c.readImage(f); err != nil {
				return c, err
			}
		case name == "device" || name == "dev":
			if err := c.readDevice(f); err != nil {
				return c, err
			}
		default:
			if err := c.readField(f); err != nil {
				return c, err
			}
		}
	}
	return c, nil
}

// readField reads (KEY VALUE).
func (c *Config) readField(f sxp.Value) error {
	name, values := f.Name(), f.Children()
	if len(values) == 0 {
		return nil // nothing is said
	}
	value := values[0]
	if len(values) > 1 {
		value = sxp.List(values...)
	}
	set, known := scalars[name]
	if !known {
		c.Other = append(c.Other, Setting{Name: name, Value: value})
		return nil
	}
	return set(c, name, value)
}

// scalars are the known keys that are the same in both kinds of configuration.
var scalars = map[string]func(c *Config, name string, v sxp.Value) error{
	"name":            textInto(func(c *Config) *string { return &c.Name }),
	"uuid":            setUUID,
	"memory":          intInto(func(c *Config) *int { return &c.Memory }, 1<<30),
	"maxmem":          intInto(func(c *Config) *int { return &c.MaxMem }, 1<<30),
	"vcpus":           intInto(func(c *Config) *int { return &c.VCPUs }, maxVCPUs),
	"cpus":            setCPUs,
	"cpu_weight":      intInto(func(c *Config) *int { return &c.CPUWeight }, 65535),
	"cpu_cap":         intInto(func(c *Config) *int { return &c.CPUCap }, 100*maxVCPUs),
	"on_poweroff":     actionInto(func(c *Config) *Action { return &c.OnPoweroff }),
	"on_reboot":       actionInto(func(c *Config) *Action { return &c.OnReboot }),
	"on_crash":        actionInto(func(c *Config) *Action { return &c.OnCrash }),
	"on_xend_start":   setOnXendStart,
	"on_xend_stop":    textInto(func(c *Config) *string { return &c.OnXendStop }),
	"managed":         setManaged,
	"bootloader":      textInto(func(c *Config) *string { return &c.Bootloader }),
	"bootloader_args": setBootloaderArgs,
}

// maxVCPUs bounds the number of virtual processors.
const maxVCPUs = 512

func textInto(field func(*Config) *string) func(*Config, string, sxp.Value) error {
	return func(c *Config, name string, v sxp.Value) error {
		if v.IsList() && v.Len() > 0 {
			return badForm("%s must be one value, not %s", name, short(v))
		}
		*field(c) = v.Text()
		return nil
	}
}

func intInto(field func(*Config) *int, limit int) func(*Config, string, sxp.Value) error {
	return func(c *Config, name string, v sxp.Value) error {
		// xend's own forms had (cpu_weight 1.0), and the default of maxmem was ''.
		text, _, _ := strings.Cut(v.Text(), ".")
		if v.IsAtom() && text == "" {
			return nil
		}
		n, err := strconv.Atoi(text)
		if err != nil || n < 0 || n > limit {
			return badForm("%s must be a whole number from 0 to %d, not %s", name, limit, short(v))
		}
		*field(c) = n
		return nil
	}
}

func actionInto(field func(*Config) *Action) func(*Config, string, sxp.Value) error {
	return func(c *Config, name string, v sxp.Value) error {
		a := Action(strings.ReplaceAll(v.Text(), "_", "-"))
		if a != "" && !a.Valid() || v.IsList() {
			return badForm("%s must be destroy, restart, preserve, rename-restart, coredump-destroy or coredump-restart, not %s", name, short(v))
		}
		*field(c) = a
		return nil
	}
}

func setUUID(c *Config, name string, v sxp.Value) error {
	text := strings.ToLower(strings.ReplaceAll(v.Text(), "-", ""))
	if text == "" && v.IsAtom() {
		return nil
	}
	if len(text) != 32 || strings.Trim(text, "0123456789abcdef") != "" {
		return badForm("%s must be 32 hexadecimal digits, with dashes or without, not %s", name, short(v))
	}
	if strings.Trim(text, "0") == "" {
		return badForm("%s %s is Domain-0's", name, short(v))
	}
	c.UUID = strings.Join([]string{text[:8], text[8:12], text[12:16], text[16:20], text[20:]}, "-")
	return nil
}

func setCPUs(c *Config, name string, v sxp.Value) error {
	c.CPUs = nil
	if v.IsAtom() {
		if v.Text() != "" {
			c.CPUs = []string{v.Text()}
		}
		return nil
	}
	for _, e := range v.Items() {
		// (cpus ((0 1) (2))) is what xend tells: a list for each virtual processor.
		text := e.Text()
		if e.IsList() {
			var list []string
			for _, cpu := range e.Items() {
				list = append(list, cpu.Text())
			}
			text = strings.Join(list, ",")
		}
		if strings.Trim(text, "0123456789,-^ ") != "" && text != "all" {
			return badForm("%s must be lists of processors such as 0-3,^1, not %s", name, short(e))
		}
		if text != "" {
			c.CPUs = append(c.CPUs, text)
		}
	}
	return nil
}

func setOnXendStart(c *Config, name string, v sxp.Value) error {
	switch text := v.Text(); text {
	case "start", "ignore", "":
		c.OnXendStart = text
		return nil
	}
	return badForm("%s must be start or ignore, not %s", name, short(v))
}

func setManaged(c *Config, _ string, v sxp.Value) error {
	c.Managed = v.Text() == "1"
	return nil
}

func setBootloaderArgs(c *Config, _ string, v sxp.Value) error {
	c.BootloaderArgs = nil
	if v.IsAtom() {
		c.BootloaderArgs = strings.Fields(v.Text())
		return nil
	}
	for _, a := range v.Items() {
		c.BootloaderArgs = append(c.BootloaderArgs, a.Text())
	}
	return nil
}

// readImage reads (image (BUILDER (kernel …) …)).
func (c *Config) readImage(f sxp.Value) error {
	values := f.Children()
	if len(values) == 0 {
		return nil
	}
	image := values[0]
	if len(values) > 1 || image.Name() == "" {
		return badForm("expected (image (linux …)), got %s", short(f))
	}
	switch c.Builder = image.Name(); c.Builder {
	case "linux", "hvm":
	default:
		return badForm("image must be linux or hvm, not %s", short(sxp.Atom(c.Builder)))
	}
	for _, s := range image.Children() {
		value := ""
		if values := s.Children(); len(values) == 1 {
			value = values[0].Text()
		}
		switch name := s.Name(); name {
		case "kernel", "loader":
			c.Kernel = value
		case "ramdisk":
			c.Ramdisk = value
		case "root":
			c.Root = value
		case "args":
			c.Extra = value
		case "":
			return badForm("expected (KEY VALUE) in the image form, got %s", short(s))
		default:
			values := s.Children()
			v := sxp.Atom("")
			switch {
			case len(values) == 1:
				v = values[0]
			case len(values) > 1:
				v = sxp.List(values...)
			}
			c.Other = append(c.Other, Setting{Name: name, Value: v, Image: true})
		}
	}
	return nil
}

// readDevice reads (device (KIND (key value)…)).
func (c *Config) readDevice(f sxp.Value) error {
	values := f.Children()
	if len(values) != 1 {
		return badForm("expected (device (KIND (KEY VALUE)…)), got %s", short(f))
	}
	d, err := ParseDevice(values[0])
	if err != nil {
		return err
	}
	return c.AddDevice(d)
}

// ParseDevice reads (KIND (key value)…), also inside (device …).
func ParseDevice(v sxp.Value) (DeviceConfig, error) {
	if name := v.Name(); (name == "device" || name == "dev") && v.Len() == 2 {
		v = v.Items()[1]
	}
	d := DeviceConfig{Kind: v.Name()}
	if d.Kind == "" {
		return d, badForm("expected (KIND (KEY VALUE)…) for a device, got %s", short(v))
	}
	for _, p := range v.Children() {
		switch values := p.Children(); {
		case p.Name() == "" || p.IsAtom():
			return d, badForm("expected (KEY VALUE) in the form of a %s, got %s", d.Kind, short(p))
		case d.Kind == "pci" && p.Name() == "dev" && len(values) > 0 && values[0].IsList():
			d.Params = append(d.Params, Param{"dev", pciAddress(p)})
		case len(values) == 0:
			d.Params = append(d.Params, Param{Name: p.Name()})
		case len(values) == 1 && values[0].IsAtom():
			d.Params = append(d.Params, Param{p.Name(), values[0].Text()})
		default:
			return d, badForm("%s of a %s must be one value, not %s", p.Name(), d.Kind, short(p))
		}
	}
	return d, nil
}

// pciAddress reads (dev (domain 0x0)(bus 0x8)(slot 0x0)(func 0x0)).
func pciAddress(p sxp.Value) string {
	part := func(name string) uint64 {
		n, _ := strconv.ParseUint(p.ChildValue(name, "0"), 0, 16)
		return n
	}
	return fmt.Sprintf("%04x:%02x:%02x.%x", part("domain"), part("bus"), part("slot"), part("func"))
}

// AddDevice adds a device of any kind to the configuration; an unknown vif parameter is an error.
func (c *Config) AddDevice(d DeviceConfig) error {
	switch d.Kind {
	case "vif":
		v, err := ParseVif(d.Params)
		if err != nil {
			return err
		}
		c.Vifs = append(c.Vifs, v)
	case "vbd", "tap", "tap2":
		disk, err := ParseDisk(d.Params)
		if err != nil {
			return err
		}
		c.Disks = append(c.Disks, disk)
	case "vfb":
		c.VFBs = append(c.VFBs, d.Params)
	case "pci":
		for _, p := range d.Params {
			if p.Name == "dev" {
				c.PCI = append(c.PCI, p.Value)
			}
		}
	default:
		c.Devices = append(c.Devices, d)
	}
	return nil
}

// vifAnnotations are parameters of vifs that mean nothing here and are passed on.
var vifAnnotations = map[string]bool{
	"uuid": true, "netmask": true, "gateway": true, "gatewaydev": true, "netdev": true, "accel": true, "policy": true, "label": true,
	"security_label": true, "vlan": true, "devid": true, "hostname": true, "be_mac": true, "security": true,
	"trusted": true,
}

// vifRuntime are those that xend tells of a vif that runs, and that a form read back may have.
var vifRuntime = map[string]bool{
	"backend-id": true, "handle": true, "state": true, "event-channel": true, "tx-ring-ref": true, "rx-ring-ref": true,
	"vnet": true,
}

// ParseVif reads the parameters of a network interface. A key that is unknown is the error "Invalid vif option: KEY".
func ParseVif(params []Param) (Vif, error) {
	var v Vif
	for _, p := range params {
		switch p.Name {
		case "mac":
			if p.Value == "" || p.Value == "random" {
				continue
			}
			mac, err := parseMAC(p.Value)
			if err != nil {
				return v, err
			}
			v.MAC = mac
		case "bridge":
			v.Bridge = p.Value
		case "ip":
			v.IP = strings.Fields(strings.ReplaceAll(p.Value, ",", " "))
		case "script":
			v.Script = p.Value
		case "vifname":
			v.Name = p.Value
		case "rate":
			v.Rate = p.Value
		case "model":
			v.Model = p.Value
		case "type":
			v.Type = p.Value
		case "backend":
			// A path is that of a device that runs.
			if !strings.HasPrefix(p.Value, "/") {
				v.Backend = p.Value
			}
		case "mtu":
			n, err := strconv.Atoi(p.Value)
			if p.Value != "" && (err != nil || n < 68 || n > 65535) { // RFC 791
				return v, badForm("mtu of a vif must be a number from 68 to 65535, not %s", short(sxp.Atom(p.Value)))
			}
			v.MTU = n
		default:
			switch {
			case vifAnnotations[p.Name]:
				v.Other = append(v.Other, p)
			case !vifRuntime[p.Name]:
				return v, badForm("Invalid vif option: %s", clip(p.Name))
			}
		}
	}
	for _, name := range []struct{ key, value string }{{"bridge", v.Bridge}, {"vifname", v.Name}} {
		if err := checkDevice(name.key, name.value); err != nil {
			return v, err
		}
	}
	return v, nil
}

// checkDevice refuses what can't be the name of a network device of Linux.
func checkDevice(key, name string) error {
	if len(name) > 15 || name == "." || name == ".." || strings.ContainsAny(name, "/ \t\r\n\v\f\x00") {
		return badForm("%s of a vif: %s is no name of a network device (at most 15 characters, no slash, no blank)", key, short(sxp.Atom(name)))
	}
	return nil
}

func parseMAC(s string) (string, error) {
	groups := strings.Split(strings.ReplaceAll(strings.ToLower(s), "-", ":"), ":")
	for i, g := range groups {
		if len(g) == 1 {
			groups[i] = "0" + g
		}
		if len(groups[i]) != 2 || strings.Trim(g, "0123456789abcdef") != "" {
			groups = nil
			break
		}
	}
	mac := strings.Join(groups, ":")
	if len(groups) != 6 {
		return "", badForm("mac of a vif: %s is no MAC address", short(sxp.Atom(s)))
	}
	if first, _ := strconv.ParseUint(mac[:2], 16, 8); first&1 != 0 || mac == "00:00:00:00:00:00" {
		return "", badForm("mac of a vif: %s is no address of one interface", short(sxp.Atom(s)))
	}
	return mac, nil
}

// ParseDisk reads the parameters of a block device.
func ParseDisk(params []Param) (Disk, error) {
	var d Disk
	for _, p := range params {
		switch p.Name {
		case "uname":
			d.URI = p.Value
		case "dev":
			d.Dev = p.Value
		case "mode":
			d.Mode = p.Value
		case "backend":
			d.Backend = p.Value
		default:
			d.Other = append(d.Other, p)
		}
	}
	if d.Dev == "" {
		return d, badForm("a disk needs the name of the device that the domain sees (dev)")
	}
	return d, nil
}

// short returns the beginning of a value as text, for errors.
func short(v sxp.Value) string { return clip(v.String()) }

func clip(s string) string {
	const most = 60
	if len(s) > most {
		return s[:most] + "…"
	}
	return s
}
