package netscripts

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/google/renameio/v2"
)

// networkDummy is the script network-dummy, for hosts whose network xend is to leave alone.
func networkDummy(_ context.Context, s *script) error {
	if !slices.Contains(strings.Split(networkCommands, ", "), s.args.command) {
		return &commandError{s.args.command, networkCommands}
	}
	return nil
}

// networkRoute is the script network-route: this machine forwards IPv4, and answers ARP for domains behind it.
func networkRoute(ctx context.Context, s *script) error { return s.routed(ctx, false) }

// networkNAT is the script network-nat: this machine forwards IPv4, and lends domains its address.
func networkNAT(ctx context.Context, s *script) error { return s.routed(ctx, true) }

// routing is what network-route or network-nat started, and what was before.
type routing struct {
	Namespace namespace         `json:"namespace"`
	Script    string            `json:"script"`
	Device    string            `json:"device"`
	Before    map[string]string `json:"before"` // settings below /proc/sys/net, with slashes
}

// routedScript is a run of either.
type routedScript struct {
	*script
	m    *machine
	self namespace
	nat  bool
}

func (s *script) routed(ctx context.Context, nat bool) error {
	var work func() error
	r := &routedScript{script: s, nat: nat}
	switch s.args.command {
	case "start":
		work = r.start
	case "stop":
		work = r.stop
	case "status":
		work = r.status
	default:
		return &commandError{s.args.command, networkCommands}
	}
	s.nameUnknown()
	var err error
	if r.self, err = thisNamespace(); err != nil {
		return err
	}
	if r.m, err = s.openMachine(); err != nil {
		return err
	}
	defer r.m.close()
	if s.args.dryRun || s.args.command == "status" {
		return work()
	}
	return s.withLock(ctx, lockNetworkBridge, work)
}

func (r *routedScript) path() string {
	return filepath.Join(r.paths.Run(), fmt.Sprintf("%s-%d.json", r.name, r.self.Inode))
}

// started is what an earlier start left behind; false if there is none.
func (r *routedScript) started() (routing, bool, error) {
	var x routing
	b, err := os.ReadFile(r.path())
	if errors.Is(err, fs.ErrNotExist) {
		return x, false, nil
	}
	if err == nil {
		err = json.Unmarshal(b, &x)
	}
	if err != nil {
		return x, false, fmt.Errorf("%s: %w; look at net.ipv4.ip_forward and proxy_arp, then remove that file", r.path(), err)
	}
	return x, x.Namespace == r.self, nil
}

// device is netdev, or the device of the default route.
func (s *script) device(m *machine) (string, error) {
	name := s.variable("netdev")
	if name == "" {
		index, err := m.l3.DefaultDevice()
		if err != nil {
			return "", fmt.Errorf("find the default route: %w", err)
		}
		if index == 0 {
			return "", errors.New("there is no default route; name the device with netdev=")
		}
		return m.name(index), nil
	}
	if _, err := m.host.LinkByName(name); err != nil {
		return "", fmt.Errorf("there is no device %s; name the right one with netdev=", name)
	}
	return name, nil
}

// wanted are the settings that a start makes.
func (r *routedScript) wanted(device string) map[string]string {
	w := map[string]string{"ipv4/ip_forward": "1"}
	if !r.nat {
		w["ipv4/conf/"+device+"/proxy_arp"] = "1"
	}
	return w
}

func settingFile(key string) string { return filepath.Join("/proc/sys/net", key) }

func (r *routedScript) start() error {
	device, err := r.device(r.m)
	if err != nil {
		return fmt.Errorf("%w; nothing was changed", err)
	}
	if r.nat {
		dhcp, err := parseBool(r.variable("dhcp"))
		if err != nil {
			return fmt.Errorf("dhcp=%s: %w", r.variable("dhcp"), err)
		}
		if dhcp {
			r.warn("dhcp=yes: no DHCP server is set up; give domains the addresses that vif-nat tells, or run one")
		}
	}
	x, again, err := r.started()
	if err != nil {
		return err
	}
	if again && x.Device != device {
		return fmt.Errorf("it was started for %s; stop it first; nothing was changed", x.Device)
	}
	wanted := r.wanted(device)
	if r.args.dryRun {
		for _, key := range slices.Sorted(maps.Keys(wanted)) {
			r.say("would set net/%s to %s", key, wanted[key])
		}
		if r.nat {
			r.say("would masquerade out of %s", device)
		}
		return nil
	}
	if !again {
		x = routing{Namespace: r.self, Script: r.name, Device: device, Before: map[string]string{}}
		for key := range wanted {
			b, err := os.ReadFile(settingFile(key))
			if err != nil {
				return fmt.Errorf("%w; nothing was changed", err)
			}
			x.Before[key] = strings.TrimSpace(string(b))
		}
		if err := r.write(x); err != nil {
			return err
		}
	}
	if err := r.apply(wanted, device); err != nil {
		return errors.Join(err, r.undo(x))
	}
	what := "forwards IPv4, and answers ARP on " + device
	if r.nat {
		what = "forwards IPv4, and masquerades out of " + device
	}
	r.say("this machine %s", what)
	return nil
}

func (r *routedScript) apply(settings map[string]string, masquerade string) error {
	for _, key := range slices.Sorted(maps.Keys(settings)) {
		err := r.m.change(fmt.Sprintf("set net/%s to %s", key, settings[key]), func() error {
			return os.WriteFile(settingFile(key), []byte(settings[key]), 0)
		})
		if err != nil && !errors.Is(err, fs.ErrNotExist) { // of a device that is gone
			return err
		}
	}
	if !r.nat {
		return nil
	}
	return r.m.filter().Masquerade(masquerade)
}

func (r *routedScript) write(x routing) error {
	b, err := json.Marshal(x)
	if err == nil {
		err = os.MkdirAll(filepath.Dir(r.path()), 0o755)
	}
	if err == nil {
		err = renameio.WriteFile(r.path(), b, 0o600)
	}
	if err != nil {
		return fmt.Errorf("note what was before: %w", err)
	}
	return nil
}

// undo puts back what was before a start.
func (r *routedScript) undo(x routing) error {
	if err := r.apply(x.Before, ""); err != nil {
		return fmt.Errorf("%w\nnot everything could be put back; stop tries again", err)
	}
	return os.Remove(r.path())
}

func (r *routedScript) stop() error {
	x, ok, err := r.started()
	if err != nil {
		return err
	}
	switch {
	case !ok:
		r.say(doNothing + "it was not started")
		return nil
	case r.args.dryRun:
		r.say("would put back what was before start on %s", x.Device)
		return nil
	}
	if err := r.undo(x); err != nil {
		return err
	}
	r.say("all is as it was before start")
	return nil
}

func (r *routedScript) status() error {
	x, ok, err := r.started()
	if err != nil {
		return err
	}
	if !ok {
		fmt.Fprintln(r.Stdout, "not started")
		return nil
	}
	for _, key := range slices.Sorted(maps.Keys(r.wanted(x.Device))) {
		b, _ := os.ReadFile(settingFile(key))
		fmt.Fprintf(r.Stdout, "net/%s = %s, was %s\n", key, strings.TrimSpace(string(b)), x.Before[key])
	}
	if r.nat {
		fmt.Fprintf(r.Stdout, "masquerading out of %s: %v\n", x.Device, r.m.filter().Masquerading())
	}
	return nil
}
