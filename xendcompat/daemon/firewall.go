package daemon

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/xenvnet/xend/internal/firewall"
)

// How often the firewall is looked at: nobody is told when others change it, and Docker may be started at any
// time. Vnets that come are seen at the next tick.
const (
	firewallTick  = time.Second
	firewallEvery = 30 * time.Second
)

// bridgeOwner begins the owner of the rules that accept a vnet's bridge.
const bridgeOwner = "bridge:"

// firewallWatch tells when the host's firewall drops what the bridges of vnets forward, and keeps it from doing so
// where the configuration asks for that.
type firewallWatch struct {
	bridges func() []string          // of all vnets
	do      func(func() error) error // in the host's network namespace
	accept  bool                     // [scripts] accept_bridges
	off     bool                     // [scripts] bridge_netfilter = "off"
	proc    string                   // where processes are seen
	log     *slog.Logger

	told  map[firewall.Blocked]bool
	error string // that was logged last
	ready chan struct{}
}

var _ task = (*firewallWatch)(nil)

func (w *firewallWatch) String() string { return "firewall" }

func (w *firewallWatch) Ready() <-chan struct{} { return w.ready }

// Run looks until ctx ends.
func (w *firewallWatch) Run(ctx context.Context) error {
	tick := time.NewTicker(firewallTick)
	defer tick.Stop()
	bridges := w.bridges()
	w.look(bridges)
	close(w.ready)
	for last := time.Now(); ; {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if now := w.bridges(); time.Since(last) > firewallEvery || !slices.Equal(now, bridges) {
			bridges, last = now, time.Now()
			w.look(bridges)
		}
	}
}

func (w *firewallWatch) look(bridges []string) {
	var blocked []firewall.Blocked
	err := w.do(func() error {
		if w.off {
			if err := w.switchOff(); err != nil {
				return err
			}
		}
		err := w.setRules(bridges)
		if len(bridges) > 0 {
			blocked = (&firewall.Firewall{}).Read().Blocked(bridges...)
		}
		return err
	})
	switch {
	case err == nil:
		w.error = ""
	case err.Error() != w.error:
		w.error = err.Error()
		w.log.Error("the firewall could not be changed as the configuration asks for", "error", err)
	}
	now := map[firewall.Blocked]bool{}
	for _, b := range blocked {
		now[b] = true
		if !w.told[b] {
			w.log.Error("the firewall drops what the bridge of a vnet forwards: domains on it don't reach each other", "bridge", b.Bridge,
				"chain", b.Chain, "cure", b.Advice())
		}
	}
	for b := range w.told {
		if !now[b] {
			w.log.Info("the firewall drops it no longer", "bridge", b.Bridge, "chain", b.Chain)
		}
	}
	w.told = now
}

// setRules makes the rules for bridges what the configuration asks for.
func (w *firewallWatch) setRules(bridges []string) error {
	f := &firewall.Firewall{}
	owners, err := f.Owners()
	if err != nil {
		return err
	}
	for _, owner := range owners {
		bridge, ok := strings.CutPrefix(owner, bridgeOwner)
		if ok && (!w.accept || !slices.Contains(bridges, bridge)) {
			if err := f.Remove(owner); err != nil {
				return err
			}
			w.log.Info("rules of the firewall removed", "bridge", bridge)
		}
	}
	if !w.accept {
		return nil
	}
	for _, bridge := range bridges {
		rules := slices.DeleteFunc(firewall.AcceptBridge(bridge), func(r firewall.Rule) bool { return !firewall.Bridged(r.Family) })
		if len(rules) == 0 {
			continue
		}
		if err := f.Set(bridgeOwner+bridge, rules); err != nil {
			return err
		}
	}
	return nil
}

// switchOff keeps bridged packets from iptables in the whole network namespace. Docker switches it on at its start.
func (w *firewallWatch) switchOff() error {
	if !firewall.Bridged(firewall.IPv4) && !firewall.Bridged(firewall.IPv6) {
		return nil
	}
	args := []any{}
	if programs := reliesOnNetfilter(w.proc); len(programs) > 0 {
		args = append(args, "relied_on_by", strings.Join(programs, ", "))
	}
	w.log.Warn("bridge_netfilter = \"off\": no bridge of this network namespace hands packets to iptables any more; what isolates containers by that does not", args...)
	return firewall.SetBridged(false)
}

// reliesOnNetfilter names the programs that isolate their networks by iptables on bridges.
func reliesOnNetfilter(proc string) []string {
	var list []string
	files, _ := filepath.Glob(filepath.Join(proc, "[0-9]*", "comm"))
	for _, file := range files {
		b, _ := os.ReadFile(file)
		if name := strings.TrimSpace(string(b)); slices.Contains([]string{"dockerd", "kubelet", "k3s-server", "k3s-agent"}, name) {
			list = append(list, fmt.Sprintf("%s (process %s)", name, filepath.Base(filepath.Dir(file))))
		}
	}
	return list
}
