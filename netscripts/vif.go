package netscripts

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/xenvnet/xend/internal/hostnet"
	"github.com/xenvnet/xend/netscripts/filter"
	"github.com/xenvnet/xend/netscripts/l3"
)

// vifMAC is what every virtual interface has on the host's side: the highest address that is no
// group's, so that a bridge never takes it for its own.
var vifMAC = net.HardwareAddr{0xfe, 0xff, 0xff, 0xff, 0xff, 0xff}

// ethernetMTU is what a domain assumes.
const ethernetMTU = 1500

const vifCommands = "add, remove, online, offline"

// vifScript is a run of vif-bridge.
type vifScript struct {
	*script
	m    *machine
	xs   xenstore
	vars map[string]string // from the environment, the arguments, xenstore
	tap  bool
	kind vifKind
}

// vifKind is how a domain's interface is connected.
type vifKind int

const (
	bridgeVif vifKind = iota // to a bridge
	routeVif                 // by a route
	natVif                   // by a route, behind the machine's address
)

// vifKeys are the variables of vif-bridge; the last ones may be in xenstore.
var (
	vifKeys      = []string{"vif", "XENBUS_PATH", "type_if", "INTERFACE", "bridge", "ip", "vifname", "mtu", "mac"}
	xenstoreKeys = []string{"bridge", "ip", "vifname", "mtu", "mac"}
)

// vifBridge is the script vif-bridge.
func vifBridge(ctx context.Context, s *script) error { return runVif(ctx, s, bridgeVif) }

func runVif(ctx context.Context, s *script, kind vifKind) error {
	v := &vifScript{script: s, vars: map[string]string{}, kind: kind}
	configured := s.configuredArguments()
	for _, key := range vifKeys {
		v.vars[key] = s.variable(key)
		if v.vars[key] == "" && slices.Contains(xenstoreKeys, key) {
			v.vars[key] = configured[key]
		}
	}
	v.xs = xenstore{s, v.vars["XENBUS_PATH"]}
	err := v.run(ctx)
	if err != nil {
		// The toolstack waits for one of them.
		v.xs.write(context.WithoutCancel(ctx), "hotplug-error", fmt.Sprintf("%s: %v", s.name, err))
		v.xs.write(context.WithoutCancel(ctx), "hotplug-status", "error")
	}
	return err
}

func (v *vifScript) run(ctx context.Context) error {
	switch t := v.vars["type_if"]; t {
	case "", "vif":
	case "tap":
		v.tap = true
	default:
		return fmt.Errorf("type_if=%s: expected vif or tap", t)
	}
	attach := false
	switch command := v.args.command; {
	case !slices.Contains(strings.Split(vifCommands, ", "), command):
		return &commandError{command, vifCommands}
	case !v.tap && (command == "add" || command == "remove"), v.tap && (command == "online" || command == "offline"):
		return nil // the other kind's
	case v.tap && v.kind != bridgeVif:
		return nil // an emulated card has no use for a route: its frames come by the other interface
	default:
		attach = command == "online" || command == "add"
	}
	v.nameUnknown()
	name, err := v.device()
	if err != nil {
		return err
	}
	for _, key := range xenstoreKeys {
		if value := v.xs.read(ctx, key); value != "" {
			v.vars[key] = value
		}
	}
	if v.m, err = v.openMachine(); err != nil {
		return err
	}
	defer v.m.close()
	return v.withLock(ctx, lockHotplug, func() error {
		switch {
		case attach && v.kind == bridgeVif:
			return v.attach(ctx, name)
		case attach:
			return v.attachRouted(ctx, name)
		case v.kind == bridgeVif:
			return v.detach(ctx, name)
		}
		return v.detachRouted(ctx, name)
	})
}

// tapName are the names that toolstacks give to the devices of emulated cards.
var tapName = regexp.MustCompile(`^(?:tap(\d+)\.(\d+)|vif(\d+)\.(\d+)-emu)$`)

// device is the name of the interface before any renaming. For a tap it also finds the backend's path.
func (v *vifScript) device() (string, error) {
	if !v.tap {
		if v.vars["vif"] == "" {
			return "", errors.New("the variable vif is not set: it names the interface, for example vif=vif3.0")
		}
		return v.vars["vif"], nil
	}
	name := v.vars["INTERFACE"]
	if name == "" {
		return "", errors.New("the variable INTERFACE is not set: it names the tap device, for example INTERFACE=tap3.0")
	}
	if m := tapName.FindStringSubmatch(name); m != nil {
		v.xs.path = fmt.Sprintf("/local/domain/0/backend/vif/%s/%s", m[1]+m[3], m[2]+m[4])
	}
	return name, nil
}

// attach is online for a vif and add for a tap.
func (v *vifScript) attach(ctx context.Context, name string) error {
	l, err := v.findVif(name)
	if errors.Is(err, hostnet.ErrNotFound) {
		return fmt.Errorf("there is no device %s", name)
	}
	if err != nil {
		return err
	}
	bridge, err := v.bridge()
	if err != nil {
		return err
	}
	vnets, err := v.m.vnets()
	if err != nil {
		return err
	}
	vnet, onVnet := vnets[bridge.Index]
	addresses, err := parseAddresses(v.vars["ip"])
	if err != nil {
		return err
	}
	mac, err := v.mac()
	if err != nil {
		return err
	}
	if l, err = v.prepare(l, bridge, onVnet); err != nil {
		return err
	}
	// The rules come before the first frame can.
	rules := filter.Vif{Name: l.Name, Bridge: bridge.Name, MAC: mac}
	err = v.withLock(ctx, lockIPTables, func() error {
		guarded, err := v.antispoof(bridge.Name)
		if err != nil {
			return err
		}
		if guarded {
			rules.Addresses = addresses
		}
		v.accept(l.Name, addresses)
		return v.m.filter().SetVif(rules)
	})
	if err != nil {
		return err
	}
	if err := v.m.setMaster(l, bridge); err != nil {
		return err
	}
	if err := v.m.setUp(l); err != nil {
		return err
	}
	if onVnet && mac != nil {
		v.tellDaemon(ctx, "vif.add", vnet, mac)
	}
	if !v.tap {
		v.xs.write(ctx, "hotplug-status", "connected")
	}
	return nil
}

// findVif finds the interface, perhaps under the name that an earlier run gave it.
func (v *vifScript) findVif(name string) (hostnet.Link, error) {
	l, err := v.m.host.LinkByName(name)
	if final := v.finalName(name); errors.Is(err, hostnet.ErrNotFound) && final != name {
		return v.m.host.LinkByName(final)
	}
	return l, err
}

// bridge is the one that the interface goes on.
func (v *vifScript) bridge() (hostnet.Link, error) {
	none := hostnet.Link{}
	name := v.vars["bridge"]
	if name == "" {
		return v.defaultBridge()
	}
	l, err := v.m.host.LinkByName(name)
	if errors.Is(err, hostnet.ErrNotFound) {
		// What was called xenbr0 once is called eth0 since Xen 3.2.
		if number, ok := strings.CutPrefix(name, "xenbr"); ok {
			if eth, err := v.m.host.LinkByName("eth" + number); err == nil && eth.Kind == "bridge" {
				return eth, nil
			}
		}
		// And eth0 is called enp3s0 today.
		if name == "xenbr0" || name == "eth0" {
			if list, err := v.startedBridges(); err == nil && len(list) > 0 {
				return list[0].bridge, nil
			}
		}
		return none, fmt.Errorf("there is no bridge %s", name)
	}
	if err == nil && l.Kind != "bridge" {
		return none, fmt.Errorf("%s is not a bridge", l)
	}
	return l, err
}

// startedBridges are those that network-bridge start made.
func (v *vifScript) startedBridges() ([]started, error) {
	j, err := v.openJournal()
	if err != nil {
		return nil, err
	}
	e, err := j.read()
	if err != nil {
		v.warn("%v", err) // what the devices say is enough
	}
	return v.m.started(e)
}

// defaultBridge is the first bridge that network-bridge start made, or else the only one that can be meant.
func (v *vifScript) defaultBridge() (hostnet.Link, error) {
	none := hostnet.Link{}
	list, err := v.startedBridges()
	if err != nil {
		return none, err
	}
	if len(list) > 0 {
		return list[0].bridge, nil
	}
	all, err := v.m.bridges()
	if err != nil {
		return none, err
	}
	own := slices.DeleteFunc(slices.Clone(all), func(l hostnet.Link) bool { return foreign(l.Name) })
	const cure = "say bridge=NAME in the domain's vif, or run network-bridge start"
	switch {
	case len(own) == 1:
		return own[0], nil
	case len(own) > 1:
		return none, fmt.Errorf("no bridge is given, and this machine has several: %s; %s", names(own), cure)
	case len(all) > 0:
		return none, fmt.Errorf("no bridge is given, and this machine has none but those of vnets and of other programs (%s); %s", names(all), cure)
	}
	return none, fmt.Errorf("no bridge is given, and this machine has none but those of vnets; %s", cure)
}

// parseAddresses reads the addresses of ip=, separated by blanks or commas, each perhaps with a prefix length.
func parseAddresses(text string) ([]netip.Prefix, error) {
	var list []netip.Prefix
	for _, word := range strings.FieldsFunc(text, func(r rune) bool { return r == ',' || r == ' ' || r == '\t' }) {
		p, err := netip.ParsePrefix(word)
		if err != nil {
			a, err := netip.ParseAddr(word)
			if err != nil || a.Zone() != "" {
				return nil, fmt.Errorf("ip=%s: %q is not an address", text, word)
			}
			p = netip.PrefixFrom(a, a.BitLen())
		}
		if p.Addr().Is4In6() {
			return nil, fmt.Errorf("ip=%s: %q is not an address that goes over a wire", text, word)
		}
		list = append(list, p)
	}
	return list, nil
}

// mac is the domain's address on the interface; nil if it is not known.
func (v *vifScript) mac() (net.HardwareAddr, error) {
	text := v.vars["mac"]
	if text == "" {
		return nil, nil
	}
	mac, err := net.ParseMAC(text)
	if err != nil || len(mac) != 6 {
		return nil, fmt.Errorf("mac=%s is not an Ethernet address", text)
	}
	return mac, nil
}

// emulated ends the name of the device of an emulated card beside the interface that has vifname.
const emulated = "-emu"

// finalName is the name that an interface has in the end.
func (v *vifScript) finalName(name string) string {
	want := v.vars["vifname"]
	switch {
	case want == "":
		return name
	case v.tap && len(want)+len(emulated) > hostnet.MaxName:
		return name // the emulated card's name matters to nobody
	case v.tap:
		return want + emulated
	}
	return want
}

// renamed gives the interface the name that vifname says; its emulated card the same with -emu behind.
func (v *vifScript) renamed(l hostnet.Link) (hostnet.Link, error) {
	want := v.finalName(l.Name)
	if l.Name == want || v.tap && l.Name == v.vars["vifname"] {
		return l, nil
	}
	if err := checkName(want); err != nil {
		return l, fmt.Errorf("vifname: %w", err)
	}
	if other, err := v.m.host.LinkByName(want); err == nil {
		return l, fmt.Errorf("vifname=%s: there is a device of that name (%s)", want, other)
	}
	if err := v.m.rename(l.Index, want, func() error { return nil }); err != nil {
		return l, err
	}
	return v.m.host.LinkByIndex(l.Index)
}

// prepare gives the interface its name, MAC and MTU and takes addresses from it.
func (v *vifScript) prepare(l, bridge hostnet.Link, onVnet bool) (hostnet.Link, error) {
	m := v.m
	l, err := v.renamed(l)
	if err != nil {
		return l, err
	}
	if !bytes.Equal(l.MAC, vifMAC) {
		err := m.change("set MAC of "+l.Name, func() error { return m.host.SetHardwareAddr(l.Index, vifMAC) })
		if err != nil {
			return l, err
		}
	}
	mtu, err := v.mtu(bridge, onVnet)
	if err != nil {
		return l, err
	}
	if l.MTU != mtu {
		err := m.change("set MTU of "+l.Name, func() error { return m.host.SetMTU(l.Index, mtu) })
		if err != nil {
			// A frontend without scatter-gather allows no more than Ethernet's.
			v.warn("%s keeps its MTU of %d: %v", l.Name, l.MTU, err)
		}
	}
	if err := m.l3.SetGenMode(l.Index, l3.GenNone); err != nil {
		return l, err
	}
	if err := m.l3.Clear(l.Index); err != nil {
		return l, err
	}
	return m.host.LinkByIndex(l.Index)
}

// mtu is that of the bridge, or what mtu= says. On a vnet it is at least Ethernet's, since domains
// assume that and the vnet carries it, in fragments if need be.
func (v *vifScript) mtu(bridge hostnet.Link, onVnet bool) (int, error) {
	if text := v.vars["mtu"]; text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 68 || n > 65535 {
			return 0, fmt.Errorf("mtu=%s: expected a number from 68 to 65535", text)
		}
		return n, nil
	}
	if onVnet && v.conf.Dataplane.MTUMode != "pmtu" {
		return max(bridge.MTU, ethernetMTU), nil
	}
	return bridge.MTU, nil
}

// detach is offline for a vif and remove for a tap. What is gone already is no error.
func (v *vifScript) detach(ctx context.Context, name string) error {
	l, err := v.findVif(name)
	gone := errors.Is(err, hostnet.ErrNotFound)
	if err != nil && !gone {
		return err
	}
	master := l.Master
	if gone {
		l.Name = v.finalName(name)
		if b, err := v.bridge(); err == nil {
			master = b.Index
		}
	}
	v.withdraw(ctx, master)
	err = v.withLock(ctx, lockIPTables, func() error {
		v.accept(l.Name, nil)
		return v.m.filter().RemoveVif(l.Name)
	})
	if gone {
		return err
	}
	return errors.Join(err, ignoreGone(v.m.setMaster(l, hostnet.Link{})), ignoreGone(v.m.setDown(l)))
}

func ignoreGone(err error) error {
	if errors.Is(err, hostnet.ErrNotFound) {
		return nil
	}
	return err
}

// withdraw tells the daemon that the domain's MAC is no longer behind this host.
func (v *vifScript) withdraw(ctx context.Context, bridge int) {
	vnets, err := v.m.vnets()
	if err != nil {
		return // the daemon finds out by itself
	}
	if mac, err := v.mac(); err == nil && mac != nil && vnets[bridge] != "" {
		v.tellDaemon(ctx, "vif.del", vnets[bridge], mac)
	}
}
