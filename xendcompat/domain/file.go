package domain

import (
	"bytes"
	"cmp"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/xenvnet/xend/sxp"
	"github.com/xenvnet/xend/xendcompat/domain/pyfile"
)

// MaxFile bounds a domain's configuration, in bytes.
const MaxFile = pyfile.MaxSize

// FileError says what is wrong with a configuration file: which, where, why, and what to write instead.
type FileError struct {
	File string
	Line int // from 1; 0 if it is about the file as a whole
	Text string
}

func (e *FileError) Error() string {
	if e.Line == 0 {
		return e.File + ": " + e.Text
	}
	return fmt.Sprintf("%s: line %d: %s", e.File, e.Line, e.Text)
}

// ReadFile reads a domain's configuration from a regular file, see ParseFile.
func ReadFile(path string, given ...Given) (Config, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0) // of a pipe, opening it would wait for a writer
	if err != nil {
		return Config{}, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return Config{}, err
	}
	if !info.Mode().IsRegular() {
		return Config{}, &FileError{File: path, Text: "it is not a regular file"}
	}
	b, err := io.ReadAll(io.LimitReader(f, MaxFile+1))
	if err != nil {
		return Config{}, err
	}
	return ParseFile(path, b, given...)
}

// Given is a setting that wins over the file's, as xm create FILE NAME=VALUE gives it. Several of one name are a list.
type Given struct{ Name, Value string }

// ParseFile reads a domain's configuration: a file in Python's form, as xm and xl read it, or one (vm …) or (domain …)
// form. Nothing in it is executed. Errors are *FileError; the name is for them, and names a domain whose file doesn't.
func ParseFile(file string, b []byte, given ...Given) (Config, error) {
	if len(b) > MaxFile {
		return Config{}, &FileError{File: file, Text: fmt.Sprintf("it has %d bytes or more, and the limit is %d", len(b), MaxFile)}
	}
	if isForm(b) {
		return parseFormFile(file, b, given)
	}
	vars, err := pyfile.Parse(file, b, pyfile.Options{Given: variables(given), Machine: machineName()})
	if err != nil {
		if e, ok := err.(*pyfile.Error); ok { //nolint:errorlint // it is not wrapped
			err = (*FileError)(e)
		}
		return Config{}, err
	}
	// What the command line says counts, whatever the file assigns later.
	for _, g := range variables(given) {
		i := slices.IndexFunc(vars, func(v pyfile.Variable) bool { return v.Name == g.Name })
		vars[i] = g
	}
	r := reader{file: file}
	for _, v := range vars {
		if err := r.set(v); err != nil {
			return Config{}, &FileError{File: file, Line: v.Line, Text: err.Error()}
		}
	}
	r.finish()
	return r.c, nil
}

// isForm tells whether the first character that counts is a bracket.
func isForm(b []byte) bool {
	for line := range bytes.Lines(b) {
		line, _, _ = bytes.Cut(line, []byte("#"))
		if line = bytes.TrimSpace(line); len(line) > 0 {
			return line[0] == '('
		}
	}
	return false
}

func parseFormFile(file string, b []byte, given []Given) (Config, error) {
	fail := func(err error) (Config, error) { return Config{}, &FileError{File: file, Text: err.Error()} }
	forms, err := sxp.Parse(b, sxp.Xend)
	if err != nil {
		return fail(err)
	}
	if len(forms) != 1 {
		return fail(fmt.Errorf("it holds %d forms instead of one", len(forms)))
	}
	c, err := ParseForm(forms[0])
	if err != nil {
		return fail(err)
	}
	r := reader{file: file, c: c}
	for _, v := range variables(given) {
		if err := r.set(v); err != nil {
			return fail(err)
		}
	}
	r.finish()
	return r.c, nil
}

// variables are given settings as the file has them.
func variables(given []Given) []pyfile.Variable {
	var vars []pyfile.Variable
	for _, g := range given {
		i := slices.IndexFunc(vars, func(v pyfile.Variable) bool { return v.Name == g.Name })
		if i < 0 {
			vars = append(vars, pyfile.Variable{Name: g.Name, Value: g.Value})
			continue
		}
		list, ok := vars[i].Value.(pyfile.List)
		if !ok {
			list = pyfile.List{vars[i].Value}
		}
		vars[i].Value = append(list, g.Value)
	}
	return vars
}

// machineName is what uname(1) -m says of machines that this program was built for.
func machineName() string {
	switch runtime.GOARCH {
	case "amd64":
		return "x86_64"
	case "arm64":
		return "aarch64"
	case "386":
		return "i686"
	}
	return runtime.GOARCH
}

// reader makes a Config of variables.
type reader struct {
	c    Config
	file string
	nics int
	net  map[string]string // of ip=…, what the kernel configures itself with
}

// imageSettings are settings of files that stand in the form of the image.
var imageSettings = func() map[string]bool {
	m := map[string]bool{}
	for _, name := range strings.Fields(`device_model device_model_override device_model_version boot fda fdb localtime serial stdvga usb usbdevice vnc
		vncdisplay vncconsole vncunused vncviewer vnclisten vncpasswd sdl opengl display xauthority keymap rtc_timeoffset apic acpi pae hap
		nx cpuid cpuid_check timer_mode pci_msitranslate pci_power_mgmt isa nographic soundhw monitor hpet viridian videoram vhpt
		xen_platform_pci tsc_mode nomigrate guest_os_type loader bios spice spicehost spiceport vga`) {
		m[name] = true
	}
	return m
}()

// netSettings are what xm made the kernel's ip= of.
var netSettings = []string{"ip", "nfs_server", "gateway", "netmask", "hostname", "interface", "dhcp"}

func (r *reader) set(v pyfile.Variable) error {
	value := valueOf(v.Value)
	switch v.Name {
	case "vif":
		return r.vifs(v.Value)
	case "disk":
		return r.disks(v.Value)
	case "device", "dev": // they stand in the form, for each of the lists
		return fmt.Errorf("%s is no setting of a file: vif, disk, vfb and pci are", v.Name)
	case "vfb":
		return r.each(v, func(s string, params []Param) error {
			if params == nil {
				params = splitParams(s)
			}
			r.c.VFBs = append(r.c.VFBs, params)
			return nil
		}, func() { r.c.VFBs = nil })
	case "pci":
		return r.each(v, func(s string, _ []Param) error {
			if s = strings.TrimSpace(s); strings.ContainsAny(s, "/\n") {
				return fmt.Errorf("pci: %s is no address of a device", short(sxp.Atom(s)))
			}
			r.c.PCI = append(r.c.PCI, s)
			return nil
		}, func() { r.c.PCI = nil })
	case "nics":
		n, err := strconv.Atoi(pyfile.Text(v.Value))
		if err != nil || n < 0 || n > maxDevices {
			return fmt.Errorf("nics must be a number from 0 to %d, not %s", maxDevices, clip(pyfile.Text(v.Value)))
		}
		r.nics = n
		return nil
	case "cpu":
		if pyfile.Text(v.Value) == "-1" { // Xen may choose
			return nil
		}
		return setCPUs(&r.c, v.Name, sxp.List(value))
	case "builder", "type":
		return r.builder(v.Name, pyfile.Text(v.Value))
	case "kernel":
		return textInto(func(c *Config) *string { return &c.Kernel })(&r.c, v.Name, value)
	case "ramdisk":
		return textInto(func(c *Config) *string { return &c.Ramdisk })(&r.c, v.Name, value)
	case "root":
		return textInto(func(c *Config) *string { return &c.Root })(&r.c, v.Name, value)
	case "extra", "cmdline":
		return textInto(func(c *Config) *string { return &c.Extra })(&r.c, v.Name, value)
	case "bootargs":
		return setBootloaderArgs(&r.c, v.Name, value)
	case "cap":
		return scalars["cpu_cap"](&r.c, v.Name, value)
	case "restart":
		return r.restart(pyfile.Text(v.Value))
	}
	if slices.Contains(netSettings, v.Name) {
		if r.net == nil {
			r.net = map[string]string{}
		}
		if value.IsList() {
			return fmt.Errorf("%s must be one value, not a list", v.Name)
		}
		r.net[v.Name] = pyfile.Text(v.Value)
		return nil
	}
	if set, ok := scalars[v.Name]; ok {
		if v.Value == nil {
			return nil
		}
		return set(&r.c, v.Name, value)
	}
	i := slices.IndexFunc(r.c.Other, func(s Setting) bool { return s.Name == v.Name })
	if i < 0 {
		i = len(r.c.Other)
		r.c.Other = append(r.c.Other, Setting{Name: v.Name, Image: imageSettings[v.Name]})
	}
	r.c.Other[i].Value = value
	return nil
}

// builder reads what kind of domain it is: builder of xm, type of xl.
func (r *reader) builder(name, value string) error {
	switch strings.ToLower(value) {
	case "linux", "generic", "pv", "":
		r.c.Builder = "linux"
	case "hvm":
		r.c.Builder = "hvm"
	default:
		return fmt.Errorf("%s must be linux, generic, pv or hvm, not %s", name, clip(value))
	}
	return nil
}

// restart is how Xen 2 said what becomes of a domain that ends.
func (r *reader) restart(value string) error {
	actions := map[string][3]Action{
		"onreboot": {Destroy, Restart, Destroy},
		"always":   {Restart, Restart, Restart},
		"never":    {Destroy, Destroy, Destroy},
		"":         {},
	}
	a, ok := actions[value]
	if !ok {
		return fmt.Errorf("restart must be onreboot, always or never, not %s", clip(value))
	}
	r.c.OnPoweroff, r.c.OnReboot, r.c.OnCrash = a[0], a[1], a[2]
	return nil
}

// maxDevices bounds the devices of one kind.
const maxDevices = 255

// each calls f for each element of a list, or for the one string; clear before the first.
func (r *reader) each(v pyfile.Variable, f func(s string, params []Param) error, clear func()) error {
	clear()
	list, ok := v.Value.(pyfile.List)
	switch value := v.Value.(type) {
	case nil:
		return nil
	case string:
		// vif="bridge=vnet97" is one, disk="" is none.
		if list = (pyfile.List{value}); value == "" {
			return nil
		}
	default:
		if !ok {
			return fmt.Errorf("%s must be a list of strings: %s = ['…']", v.Name, v.Name)
		}
	}
	if len(list) > maxDevices {
		return fmt.Errorf("%s has %d elements, and the limit is %d", v.Name, len(list), maxDevices)
	}
	for _, e := range list {
		var err error
		switch e := e.(type) {
		case string:
			err = f(e, nil)
		case pyfile.Dict: // vfb = [dict(type='vnc')]
			params := []Param{}
			for _, item := range e {
				params = append(params, Param{item.Key, pyfile.Text(item.Value)})
			}
			err = f("", params)
		default:
			err = fmt.Errorf("an element of %s must be a string, not %s", v.Name, clip(pyfile.Text(e)))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (r *reader) vifs(v pyfile.Value) error {
	return r.each(pyfile.Variable{Name: "vif", Value: v}, func(s string, params []Param) error {
		if params == nil {
			params = splitParams(s)
		}
		for _, p := range params {
			if p.Name == "" {
				return fmt.Errorf("Invalid vif syntax: %s; write 'KEY=VALUE,KEY=VALUE'", clip(s))
			}
		}
		vif, err := ParseVif(params)
		r.c.Vifs = append(r.c.Vifs, vif)
		return err
	}, func() { r.c.Vifs = nil })
}

// splitParams reads KEY=VALUE,KEY=VALUE. An element without = is a Param without a name, a lone blank none at all.
func splitParams(s string) []Param {
	var params []Param
	if strings.TrimSpace(s) == "" {
		return nil
	}
	for part := range strings.SplitSeq(s, ",") {
		name, value, ok := strings.Cut(part, "=")
		if !ok {
			name, value = "", part
		}
		if !ok && strings.TrimSpace(part) == "" {
			continue
		}
		params = append(params, Param{strings.TrimSpace(name), strings.TrimSpace(value)})
	}
	return params
}

func (r *reader) disks(v pyfile.Value) error {
	return r.each(pyfile.Variable{Name: "disk", Value: v}, func(s string, params []Param) error {
		if params != nil {
			return fmt.Errorf("a disk must be a string: 'phy:/dev/vg/vm1,xvda1,w'")
		}
		d, err := parseDiskText(s)
		r.c.Disks = append(r.c.Disks, d)
		return err
	}, func() { r.c.Disks = nil })
}

// parseDiskText reads a disk as xm writes it, URI,DEV,MODE[,BACKEND[,PROTOCOL]], or as xl does,
// TARGET,FORMAT,VDEV,ACCESS and KEY=VALUE….
func parseDiskText(s string) (Disk, error) {
	bad := func() (Disk, error) {
		return Disk{}, fmt.Errorf("disk: %s is not 'URI,DEV,MODE', such as 'phy:/dev/vg/vm1,xvda1,w'", clip(s))
	}
	if strings.ContainsAny(s, "\n\x00") {
		return bad()
	}
	parts := strings.Split(s, ",")
	for i := range parts {
		parts[i] = strings.TrimSpace(parts[i])
	}
	part := func(i int) string {
		if i < len(parts) {
			return parts[i]
		}
		return ""
	}
	formats := []string{"raw", "qcow", "qcow2", "vhd", "qed", "phy", "empty"}
	var d Disk
	switch {
	case strings.Contains(part(0), "=") && !strings.Contains(part(0), ":") || strings.Contains(part(1), "=") || slices.Contains(formats, part(1)) || len(parts) > 2 && part(0) != "" && part(1) == "":
		return parseXLDisk(parts)
	case len(parts) < 3 || len(parts) > 5 || part(1) == "":
		return bad()
	}
	d = Disk{URI: part(0), Dev: part(1), Mode: part(2), Backend: part(3)}
	switch d.Mode {
	case "ro", "rw", "r", "w", "r!", "w!":
	default:
		return Disk{}, fmt.Errorf("disk: the mode %s is not r, w, r! or w!", clip(d.Mode))
	}
	if part(4) != "" {
		d.Other = append(d.Other, Param{"protocol", part(4)})
	}
	return d, nil
}

// parseXLDisk reads xl-disk-configuration(5).
func parseXLDisk(parts []string) (Disk, error) {
	var d Disk
	format := ""
	positional := []*string{&d.URI, &format, &d.Dev, &d.Mode}
	for i, p := range parts {
		name, value, ok := strings.Cut(p, "=")
		switch {
		case !ok && i < len(positional) && (p == "" || !slices.Contains([]string{"cdrom", "devtype"}, p)):
			*positional[i] = p
		case !ok && p == "cdrom":
			d.Dev = strings.TrimSuffix(d.Dev, ":cdrom") + ":cdrom"
		case name == "target":
			d.URI = strings.Join(append([]string{value}, parts[i+1:]...), ",") // the rest of the text
		case name == "format":
			format = value
		case name == "vdev":
			d.Dev = value
		case name == "access":
			d.Mode = value
		case name == "backend":
			d.Backend = value
		case name == "devtype" && value == "cdrom":
			d.Dev += ":cdrom"
		case ok && name != "":
			d.Other = append(d.Other, Param{name, value})
		default:
			return d, fmt.Errorf("disk: %s is not known", clip(p))
		}
		if name == "target" {
			break
		}
	}
	if d.Dev == "" {
		return d, fmt.Errorf("disk: the name of the device that the domain sees is missing (vdev)")
	}
	d.Mode = map[string]string{"": "w", "rw": "w", "w": "w", "ro": "r", "r": "r"}[d.Mode]
	switch {
	case d.URI == "" || strings.Contains(d.URI, ":"):
	case strings.HasPrefix(d.URI, "/dev/"):
		d.URI = "phy:" + d.URI
	case format == "" || format == "raw":
		d.URI = "file:" + d.URI
	default:
		d.URI = "tap:" + format + ":" + d.URI
	}
	return d, nil
}

// finish fills what depends on several settings.
func (r *reader) finish() {
	for len(r.c.Vifs) < r.nics {
		r.c.Vifs = append(r.c.Vifs, Vif{})
	}
	asked := false
	for _, name := range netSettings {
		v := r.net[name]
		asked = asked || v != "" && (name != "dhcp" || v != "off") && name != "nfs_server"
	}
	if asked {
		r.c.Other = append(r.c.Other, Setting{Name: "ip", Image: true, Value: sxp.Atom(r.cmdlineIP())})
	}
	if r.c.Name == "" {
		base := filepath.Base(r.file)
		r.c.Name = strings.TrimSuffix(base, filepath.Ext(base))
	}
	r.c.Builder = cmp.Or(r.c.Builder, "linux")
}

// cmdlineIP is the kernel's parameter ip (Documentation/admin-guide/nfs/nfsroot.rst):
// client:server:gateway:netmask:hostname:device:autoconf.
func (r *reader) cmdlineIP() string {
	on := r.net["dhcp"]
	if on == "" {
		on = "off"
	}
	return strings.Join([]string{r.net["ip"], r.net["nfs_server"], r.net["gateway"], r.net["netmask"], r.net["hostname"], cmp.Or(r.net["interface"], "eth0"), on}, ":")
}

// valueOf returns a value of the file as one of a form.
func valueOf(v pyfile.Value) sxp.Value {
	switch v := v.(type) {
	case nil:
		return sxp.Atom("")
	case bool:
		if v {
			return sxp.Atom("1")
		}
		return sxp.Atom("0")
	case pyfile.List:
		items := make([]sxp.Value, 0, len(v))
		for _, e := range v {
			items = append(items, valueOf(e))
		}
		return sxp.List(items...)
	case pyfile.Dict:
		items := make([]sxp.Value, 0, len(v))
		for _, p := range v {
			items = append(items, sxp.List(sxp.Atom(p.Key), valueOf(p.Value)))
		}
		return sxp.List(items...)
	}
	return sxp.Atom(pyfile.Text(v))
}
