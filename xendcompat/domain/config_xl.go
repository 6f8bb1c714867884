package domain

import (
	"strconv"
	"strings"

	"github.com/xenvnet/xend/sxp"
)

// XL returns the configuration as a file for xl (xl.cfg(5)).
func (c Config) XL() []byte {
	var b strings.Builder
	set := func(name, value string) { b.WriteString(name + " = " + value + "\n") }
	text := func(name, value string) {
		if value != "" {
			set(name, xlString(value))
		}
	}
	num := func(name string, n int) {
		if n != 0 {
			set(name, strconv.Itoa(n))
		}
	}
	list := func(name string, values []string) {
		if len(values) > 0 {
			set(name, xlList(values))
		}
	}
	text("name", c.Name)
	text("uuid", c.UUID)
	if c.Builder == "hvm" {
		set("type", `"hvm"`)
		// What xend called the kernel of an hvm domain is the firmware that xl brings itself.
	} else {
		text("kernel", c.Kernel)
		text("ramdisk", c.Ramdisk)
		text("extra", c.Cmdline())
	}
	num("memory", c.Memory)
	num("maxmem", c.MaxMem)
	num("vcpus", c.VCPUs)
	if len(c.CPUs) == 1 {
		text("cpus", c.CPUs[0])
	} else {
		list("cpus", c.CPUs)
	}
	num("cpu_weight", c.CPUWeight)
	num("cap", c.CPUCap)
	text("bootloader", c.Bootloader)
	list("bootloader_args", c.BootloaderArgs)
	var vifs, disks, vfbs []string
	for _, v := range c.Vifs {
		vifs = append(vifs, v.XL())
	}
	for _, d := range c.Disks {
		disks = append(disks, d.XL())
	}
	for _, v := range c.VFBs {
		vfbs = append(vfbs, joinParams(v))
	}
	list("vif", vifs)
	list("disk", disks)
	list("vfb", vfbs)
	list("pci", c.PCI)
	text("on_poweroff", string(c.OnPoweroff))
	text("on_reboot", string(c.OnReboot))
	text("on_crash", string(c.OnCrash))
	for _, s := range c.Other {
		if xlName(s.Name) && !notXL[s.Name] {
			set(s.Name, xlValue(s.Value))
		}
	}
	return []byte(b.String())
}

// notXL are settings of xend that xl does not know or understands otherwise.
var notXL = map[string]bool{
	"device_model": true, "on_xend_start": true, "on_xend_stop": true, "oos": true, "s3_integrity": true,
	"description": true, "features": true, "builder": true, "type": true, "cap": true, "ip": true,
}

// XL returns the interface as an element of vif (xl-network-configuration(5)).
func (v Vif) XL() string {
	return joinParams(given(nil, Param{"mac", v.MAC}, Param{"bridge", v.Bridge}, Param{"ip", strings.Join(v.IP, " ")}, Param{"script", v.Script},
		Param{"vifname", v.Name}, Param{"rate", v.Rate}, Param{"model", v.Model}, Param{"type", xlVifType(v.Type)}, Param{"backend", v.Backend}))
}

func xlVifType(t string) string {
	if t == "netfront" {
		return "vif"
	}
	return t
}

// XL returns the disk in xl's old form, which both know (xl-disk-configuration(5)).
func (d Disk) XL() string {
	mode := d.Mode
	if mode == "" {
		mode = "w"
	}
	return d.URI + "," + strings.TrimPrefix(d.Dev, "ioemu:") + "," + mode
}

func joinParams(params []Param) string {
	all := make([]string, 0, len(params))
	for _, p := range params {
		all = append(all, p.Name+"="+p.Value)
	}
	return strings.Join(all, ",")
}

// xlName tells whether it can stand on the left of an equals sign.
func xlName(s string) bool {
	for i := range len(s) {
		switch c := s[i]; {
		case c == '_', 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', i > 0 && '0' <= c && c <= '9':
		default:
			return false
		}
	}
	return s != ""
}

func xlValue(v sxp.Value) string {
	if v.IsList() {
		var parts []string
		for _, e := range v.Items() {
			parts = append(parts, xlValue(e))
		}
		return "[" + strings.Join(parts, ", ") + "]"
	}
	if n, err := strconv.Atoi(v.Text()); err == nil && strconv.Itoa(n) == v.Text() {
		return v.Text()
	}
	return xlString(v.Text())
}

func xlList(values []string) string {
	parts := make([]string, 0, len(values))
	for _, v := range values {
		parts = append(parts, xlString(v))
	}
	return "[" + strings.Join(parts, ", ") + "]"
}

// xlString quotes a string. xl knows the escapes \n, \r, \t, \\, \', \", \xNN and octal ones.
func xlString(s string) string {
	const digits = "0123456789abcdef"
	var b strings.Builder
	b.WriteByte('"')
	for i := range len(s) {
		switch c := s[i]; {
		case c == '"' || c == '\\':
			b.WriteByte('\\')
			b.WriteByte(c)
		case c == '\n':
			b.WriteString(`\n`)
		case c == '\r':
			b.WriteString(`\r`)
		case c == '\t':
			b.WriteString(`\t`)
		case c < 0x20 || c == 0x7f:
			b.WriteString(`\x`)
			b.WriteByte(digits[c>>4])
			b.WriteByte(digits[c&15])
		default:
			b.WriteByte(c)
		}
	}
	b.WriteByte('"')
	return b.String()
}
