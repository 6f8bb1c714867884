package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/xenvnet/xend/internal/lab"
	"github.com/xenvnet/xend/xendcompat/domain"
)

// topology is a lab that a directory describes: a directory of domain configurations for each host, and vnets.d with the
// vnets that they ask for.
type topology struct {
	*demo
	dir   string
	hosts []*lab.Host
	// machines are the domains, in the order of their hosts and names.
	machines []*machine
}

// machine is a domain and where it is.
type machine struct {
	*lab.Node
	config domain.Config
	host   string
}

// vnetsDir is the directory in a topology that is no host's.
const vnetsDir = "vnets.d"

func (t *topology) run(stay bool) error {
	if err := t.build(); err != nil {
		return err
	}
	say("The picture (name@host):\n")
	fmt.Print(t.picture())
	say("Who reaches whom? Each asks each of the others' addresses.")
	if err := t.pings(); err != nil {
		return err
	}
	if stay {
		say("Look around; ctrl-C ends it:")
		for _, h := range t.hosts {
			fmt.Printf("  host %s: ip netns exec %s env XEND_PREFIX=%s PATH=%s:$PATH sh\n", h.Name, h.NetnsName(), h.Dir, t.bin)
		}
		<-t.ctx.Done()
		return t.ctx.Err()
	}
	say("Cleaning up.")
	for _, h := range t.hosts {
		for _, m := range t.machines {
			if m.host == h.Name {
				if err := t.on(h, "xm", "destroy", m.Name); err != nil {
					return err
				}
			}
		}
		if err := t.on(h, "xend", "stop"); err != nil {
			return err
		}
	}
	return nil
}

// build starts the hosts and creates their domains.
func (t *topology) build() error {
	names, err := directories(t.dir)
	if err != nil {
		return err
	}
	say("%d hosts, %s, are plugged into one switch. (They are network namespaces of this machine.)", len(names), strings.Join(names, ", "))
	segment, err := t.lab.Switch("segment", 1500)
	if err != nil {
		return err
	}
	vnets, err := filepath.Glob(filepath.Join(t.dir, vnetsDir, "*.sxp"))
	if err != nil {
		return err
	}
	for _, name := range names {
		h, err := segment.Host(name)
		if err != nil {
			return err
		}
		t.hosts = append(t.hosts, h)
		files := map[string]string{"etc/xen/vnet.toml": "[vnet]\non_demand = true\n"}
		for _, v := range vnets {
			b, err := os.ReadFile(v)
			if err != nil {
				return err
			}
			files[filepath.Join("etc/xen/vnets.d", filepath.Base(v))] = string(b)
		}
		if err := t.files(h, files); err != nil {
			return err
		}
		if err := t.on(h, "xend", "start"); err != nil {
			return err
		}
		if err := t.on(h, "xm", "create", "-q", "-f", filepath.Join(t.dir, name)); err != nil {
			return err
		}
		if err := t.find(h); err != nil {
			return err
		}
	}
	return nil
}

// directories are the hosts of a topology.
func directories(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if e.IsDir() && e.Name() != vnetsDir {
			names = append(names, e.Name())
		}
	}
	if len(names) == 0 {
		return nil, fmt.Errorf("%s has no directory of a host", dir)
	}
	return names, nil
}

// find finds the namespaces of a host's domains.
func (t *topology) find(h *lab.Host) error {
	files, err := filepath.Glob(filepath.Join(t.dir, h.Name, "*.cfg"))
	if err != nil {
		return err
	}
	slices.Sort(files)
	for _, file := range files {
		c, err := domain.ReadFile(file)
		if err != nil {
			return err
		}
		n, err := t.enter(h, c.Name)
		if err != nil {
			return err
		}
		t.machines = append(t.machines, &machine{n, c, h.Name})
	}
	return nil
}

// picture draws every bridge as a line and what hangs on it.
func (t *topology) picture() string {
	type port struct{ name, address string }
	ports := map[string][]port{}
	var bridges []string
	for _, m := range t.machines {
		for _, v := range m.config.Vifs {
			if ports[v.Bridge] == nil {
				bridges = append(bridges, v.Bridge)
			}
			ports[v.Bridge] = append(ports[v.Bridge], port{m.Name + "@" + m.host, strings.Join(v.IP, " ")})
		}
	}
	slices.Sort(bridges)
	const width = 16
	var b strings.Builder
	for _, bridge := range bridges {
		line, names, addresses := fmt.Sprintf("  %-8s ══", bridge), strings.Repeat(" ", 11), strings.Repeat(" ", 11)
		for _, p := range ports[bridge] {
			line += "═╤" + strings.Repeat("═", width-2)
			names += fmt.Sprintf("   %-*s", width-3, p.name)
			addresses += fmt.Sprintf("   %-*s", width-3, p.address)
		}
		b.WriteString(line + "\n" + strings.TrimRight(names, " ") + "\n" + strings.TrimRight(addresses, " ") + "\n\n")
	}
	return b.String()
}

// pings has every machine ask every address of every other one.
func (t *topology) pings() error {
	var errs []error
	for _, from := range t.machines {
		var line []string
		for _, to := range t.machines {
			if from == to {
				continue
			}
			rtt, err := t.ping(from, to)
			if err != nil {
				errs = append(errs, fmt.Errorf("%s does not reach %s: %w", from.Name, to.Name, err))
				line = append(line, to.Name+" -")
				continue
			}
			line = append(line, fmt.Sprintf("%s %s", to.Name, rtt.Round(100*time.Microsecond)))
		}
		fmt.Printf("  %-4s → %s\n", from.Name, strings.Join(line, ", "))
	}
	return errors.Join(errs...)
}

// ping returns the longest time that an address of to took to answer.
func (t *topology) ping(from, to *machine) (time.Duration, error) {
	var longest time.Duration
	for _, v := range to.config.Vifs {
		for _, text := range v.IP {
			ctx, cancel := context.WithTimeout(t.ctx, patience)
			addr, err := netip.ParseAddr(text)
			if err == nil {
				var rtt time.Duration
				rtt, err = from.Ping(ctx, addr, lab.PingOptions{})
				longest = max(longest, rtt)
			}
			cancel()
			if err != nil {
				return 0, errors.Join(t.ctx.Err(), err)
			}
		}
	}
	return longest, nil
}
