package netscripts

import (
	"fmt"

	"github.com/xenvnet/xend/internal/hostnet"
)

// status is `network-bridge status`: addresses of netdev and the bridge, bridge ports, routes; of all bridges that
// start made, if none is named.
func (b *bridgeScript) status() error {
	line := func(format string, args ...any) { fmt.Fprintf(b.Stdout, format+"\n", args...) }
	if t := b.entry.Unfinished; t != nil {
		line("network-bridge %s of process %d has not finished: it runs, or the next start or stop undoes it", t.Command, b.entry.Pid)
	}
	meant, err := b.startedMeant()
	if err != nil {
		return err
	}
	var choices []choice
	for _, s := range meant {
		choices = append(choices, s.choice())
	}
	if len(choices) == 0 {
		c, err := b.chooseStarted()
		if err != nil {
			return err
		}
		choices = []choice{c}
	}
	shown := map[string]bool{}
	for _, c := range choices {
		any := false
		for _, name := range []string{c.netdev, c.port, c.bridge} {
			l, err := b.m.host.LinkByName(name)
			if err != nil {
				continue
			}
			if any = true; shown[l.Name] {
				continue
			}
			shown[l.Name] = true
			if err := b.showDevice(line, l); err != nil {
				return err
			}
		}
		if !any {
			line("there is no device %s", c.netdev)
		}
	}
	return nil
}

func (b *bridgeScript) showDevice(line func(string, ...any), l hostnet.Link) error {
	state := "down"
	switch {
	case l.Up() && l.Flags&running != 0:
		state = "up"
	case l.Up():
		state = "up, without link"
	}
	kind := l.Kind
	if kind == "" {
		kind = "device"
	}
	line("%s: %s, %s, MAC %s, MTU %d", l.Name, kind, state, l.MAC, l.MTU)
	if l.Kind == "bridge" {
		ports, err := b.m.host.Ports(l.Index)
		if err != nil {
			return err
		}
		if len(ports) == 0 {
			line("  no ports")
		}
		for _, p := range ports {
			line("  port %s", p.Name)
		}
		guarded, err := b.m.filter().Guarded(l.Name)
		if err != nil {
			return err
		}
		if guarded {
			line("  antispoof: domains use only the addresses given to them")
		}
	}
	state3, err := b.m.l3.Capture(l.Index)
	if err != nil {
		return err
	}
	for _, text := range state3.Lines(b.m.name) {
		line("  %s", text)
	}
	return nil
}
