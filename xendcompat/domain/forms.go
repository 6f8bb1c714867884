package domain

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/xenvnet/xend/sxp"
)

// running describes what the toolstack has, Domain-0 first.
func (m *Manager) running(ctx context.Context) ([]Domain, error) {
	statuses, err := m.known.statuses.ask(ctx)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	var list []Domain
	if len(statuses) == 0 || statuses[0].ID != 0 {
		list = append(list, m.describe(m.dom0(), now))
	}
	for _, s := range statuses {
		list = append(list, m.describe(s, now))
	}
	return list, nil
}

// halted describes the managed domains that are not among those that run.
func (m *Manager) halted(running []Domain) []Domain {
	if m.store == nil {
		return nil
	}
	var list []Domain
	for _, r := range m.store.list() {
		runs := slices.ContainsFunc(running, func(d Domain) bool { return d.UUID == r.UUID })
		if !runs && r.Managed {
			list = append(list, m.describeHalted(r.Config))
		}
	}
	return list
}

// config returns what a domain that runs should be: what is known here, or for other people's, what the toolstack knows.
func (m *Manager) config(s Status) Config {
	if m.store != nil {
		if r, ok := m.store.get(s.UUID); ok {
			return r.Config
		}
	}
	c := s.Config
	c.Name, c.UUID = s.Name, s.UUID
	return c
}

// describe writes the forms of a domain that runs.
func (m *Manager) describe(s Status, now time.Time) Domain {
	if s.UUID == "" && s.ID == 0 {
		s.UUID = dom0UUID
	}
	d := Domain{ID: s.ID, Name: s.Name, UUID: s.UUID, devices: map[string][]sxp.Value{}}
	online := 0
	for _, v := range s.VCPUs {
		if v.Online {
			online++
		}
	}
	c := m.config(s)
	fields := []sxp.Value{
		number("domid", s.ID),
		sxp.Pair("uuid", d.UUID),
		sxp.Pair("ssidref", "0"),
		number("vcpus", max(1, len(s.VCPUs))),
		sxp.Pair("vcpu_avail", mask(online)),
		number("cpu_weight", cmp.Or(s.CPUWeight, 256)),
		number("cpu_cap", s.CPUCap),
		number("memory", s.Memory),
		number("maxmem", max(s.Memory, s.MaxMem)),
		sxp.Pair("name", s.Name),
	}
	fields = append(fields, policies(c)...)
	fields = append(fields, sxp.Pair("state", string(s.Flags)), sxp.Pair("status", "2"))
	if s.Reason != "" {
		fields = append(fields, sxp.Pair("shutdown_reason", string(s.Reason)))
	}
	fields = append(fields, sxp.Pair("cpu_time", seconds(s.CPUTime)), number("online_vcpus", online))
	if !s.Started.IsZero() {
		fields = append(fields, sxp.Pair("up_time", seconds(max(0, now.Sub(s.Started)))),
			sxp.Pair("start_time", fmt.Sprintf("%.2f", float64(s.Started.UnixMilli())/1000)))
	}
	d.Form = form("domain", append(fields, m.wanted(c)...), maxNode)
	for _, dev := range s.Devices {
		d.devices[dev.Kind] = append(d.devices[dev.Kind], sxp.List(sxp.Atom(strconv.Itoa(dev.ID)), m.deviceForm(dev)))
	}
	for i, v := range s.VCPUs {
		d.VCPUs = append(d.VCPUs, v.form(i))
	}
	return d
}

// describeHalted writes the forms of a managed domain that does not run.
func (m *Manager) describeHalted(c Config) Domain {
	d := Domain{ID: -1, Name: c.Name, UUID: c.UUID, devices: map[string][]sxp.Value{}}
	n := max(1, c.VCPUs)
	fields := []sxp.Value{
		sxp.Pair("uuid", c.UUID),
		number("vcpus", n),
		sxp.Pair("vcpu_avail", mask(n)),
		number("cpu_weight", cmp.Or(c.CPUWeight, 256)),
		number("cpu_cap", c.CPUCap),
		number("memory", c.Memory),
		number("maxmem", max(c.Memory, c.MaxMem)),
		sxp.Pair("name", c.Name),
	}
	fields = append(fields, policies(c)...)
	fields = append(fields, sxp.Pair("state", "------"), sxp.Pair("status", "0"), sxp.Pair("cpu_time", "0.0"), sxp.Pair("online_vcpus", "0"))
	d.Form = form("domain", append(fields, m.wanted(c)...), maxNode)
	ids := map[string]int{}
	for _, dev := range c.AllDevices() {
		params := sxp.List(m.withVnet(dev).SXP().Items()[1:]...)
		d.devices[dev.Kind] = append(d.devices[dev.Kind], sxp.List(sxp.Atom(strconv.Itoa(ids[dev.Kind])), params))
		ids[dev.Kind]++
	}
	return d
}

func policies(c Config) []sxp.Value {
	return []sxp.Value{
		sxp.Pair("on_reboot", string(c.Policy(Reboot))),
		sxp.Pair("on_poweroff", string(c.Policy(Poweroff))),
		sxp.Pair("on_crash", string(c.Policy(Crash))),
		sxp.Pair("on_xend_start", cmp.Or(c.OnXendStart, "ignore")),
		sxp.Pair("on_xend_stop", cmp.Or(c.OnXendStop, "ignore")),
	}
}

// wanted are the fields that the configuration says: the image, the devices, and what else there is.
func (m *Manager) wanted(c Config) []sxp.Value {
	fields := []sxp.Value{}
	if c.Bootloader != "" {
		fields = append(fields, sxp.Pair("bootloader", c.Bootloader), sxp.Pair("bootloader_args", strings.Join(c.BootloaderArgs, " ")))
	}
	if image, ok := c.image(); ok {
		fields = append(fields, image)
	}
	for _, d := range c.AllDevices() {
		fields = append(fields, sxp.List(sxp.Atom("device"), m.withVnet(d).SXP()))
	}
	for _, s := range c.Other {
		if !s.Image {
			fields = append(fields, s.form())
		}
	}
	return fields
}

// withVnet adds the id of the vnet that a vif is on.
func (m *Manager) withVnet(d DeviceConfig) DeviceConfig {
	if d.Kind == "vif" {
		if id := m.vnetOf(d.Param("bridge")); id != "" {
			d.Params = append(slices.Clone(d.Params), Param{"vnet", id})
		}
	}
	return d
}

// deviceForm returns ((backend-id 0) (mac …) …).
func (m *Manager) deviceForm(d Device) sxp.Value {
	c := m.withVnet(DeviceConfig{d.Kind, d.Params})
	if c.Param("backend-id") == "" {
		c.Params = slices.Insert(slices.Clone(c.Params), 0, Param{"backend-id", "0"})
	}
	return sxp.List(c.SXP().Items()[1:]...)
}
