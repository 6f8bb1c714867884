// Demo shows what this project does, on one machine, in half a minute: two hosts as network namespaces,
// a vnet over both, a domain on each, made by xm create, and the live migration of one while it is pinged. It touches nothing of
// the machine's own network and removes what it made, also after ctrl-C.
package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/xenvnet/xend/internal/lab"
	vnets "github.com/xenvnet/xend/xendcompat/topology"
)

func main() {
	bin := flag.String("bin", "bin", "directory of the programs that `make build` made")
	svg := flag.String("svg", "build/demo.svg", "`file` for the drawing of who is where")
	topologyDir := flag.String("lab", "", "instead of the demo, build the lab of a `directory`, as examples/lab")
	stay := flag.Bool("stay", false, "leave the lab standing until ctrl-C")
	flag.Parse()
	dir, err := filepath.Abs(*bin)
	if err == nil && *topologyDir != "" {
		*topologyDir, err = filepath.Abs(*topologyDir)
	}
	if err == nil {
		err = lab.Run(lab.Options{Named: true}, func(ctx context.Context, l *lab.Lab) error {
			d := &demo{ctx: ctx, lab: l, bin: dir, secret: rand.Text(), transfer: 1 << 30, svg: *svg}
			if *topologyDir != "" {
				return (&topology{demo: d, dir: *topologyDir}).run(*stay)
			}
			return d.run()
		})
	}
	switch {
	case errors.Is(err, context.Canceled):
		fmt.Println("\nInterrupted; everything is cleaned up.")
		os.Exit(1)
	case err != nil:
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
	fmt.Println("\nDone; the hosts, their daemons and their networks are gone again.")
	fmt.Println("Next: two such hosts for commands of your own, docs/labs.md, Two empty hosts; and the tour in README.md.")
}

const vnet97 = "(vnet (id 97) (bridge vnet97) (vnetif vnif97) (security none))\n"

type demo struct {
	ctx    context.Context
	lab    *lab.Lab
	bin    string
	secret string // of the hosts, for migrations
	// transfer is how much TCP is to carry, in bytes.
	transfer int64
	svg      string // where the drawing goes; "": nowhere
}

// say tells the story.
func say(format string, args ...any) { fmt.Printf("\n"+format+"\n", args...) }

// on runs one of our programs on a host, and shows the command and what it printed.
func (d *demo) on(h *lab.Host, name string, args ...string) error {
	fmt.Printf("  %s# %s\n", h.Name, strings.Join(append([]string{name}, args...), " "))
	if name != "ip" {
		name = filepath.Join(d.bin, name)
	}
	out, err := h.Run(d.ctx, name, args...)
	for line := range strings.Lines(out) {
		fmt.Print("    ", line)
	}
	if d.ctx.Err() != nil {
		return d.ctx.Err()
	}
	return err
}

func (d *demo) run() error {
	say("Two hosts, A and B, are plugged into one switch. (They are network namespaces of this machine.)")
	segment, err := d.lab.Switch("segment", 1500)
	if err != nil {
		return err
	}
	var hosts []*lab.Host
	for _, name := range []string{"A", "B"} {
		h, err := segment.Host(name)
		if err != nil {
			return err
		}
		fmt.Printf("  host %s: eth0 %s    (look inside: ip netns exec %s sh)\n", name, h.Addr(), h.NetnsName())
		hosts = append(hosts, h)
	}
	a, b := hosts[0], hosts[1]

	say("Each host starts the daemon and creates vnet 97, from the file that Xen's users have always had.")
	for _, h := range hosts {
		if err := d.files(h, map[string]string{
			"vnet97.sxp": vnet97,
			// For the migration later: who has the secret may send domains.
			"etc/xen/xend-config.sxp":   "(xend-relocation-server yes)\n",
			"etc/xen/relocation.secret": d.secret,
		}); err != nil {
			return err
		}
		if err := d.on(h, "xend", "start"); err != nil {
			return err
		}
		if err := d.on(h, "xm", "vnet-create", filepath.Join(h.Dir, "vnet97.sxp")); err != nil {
			return err
		}
	}
	if err := d.on(a, "xm", "vnet-list", "-l"); err != nil {
		return err
	}

	say("A domain on each host. Where Xen runs, xm create starts it with Xen; here, without, it is a namespace of its own.")
	one, err := d.domain(a, "vm1", 1)
	if err != nil {
		return err
	}
	two, err := d.domain(b, "vm2", 2)
	if err != nil {
		return err
	}
	for _, args := range [][]string{{"xm", "list"}, {"xm", "network-list", "vm1"}, {"vn", "bridges"}} {
		if err := d.on(a, args[0], args[1:]...); err != nil {
			return err
		}
	}

	say("Do they reach each other? The first frame is flooded to the group, the answer teaches, the rest is unicast.")
	pinger, err := two.StartPing(address(1), lab.PingOptions{Interval: 20 * time.Millisecond})
	if err != nil {
		return err
	}
	defer func() { pinger.Close() }()
	for range 3 {
		if err := d.reply(pinger); err != nil {
			return err
		}
	}

	say("A full frame with \"don't fragment\" passes although the tunnel adds 50 bytes; no MTU had to be set anywhere:")
	rtt, err := two.Ping(d.ctx, address(1), lab.PingOptions{Size: 1472, DontFragment: true})
	if err != nil {
		return err
	}
	fmt.Printf("  1472 bytes of payload: answered after %s\n", rtt.Round(time.Microsecond))

	say("A TCP transfer of %d MiB, every byte checked:", d.transfer>>20)
	took, err := lab.Transfer(d.ctx, one, two, address(2), d.transfer)
	if err != nil {
		return err
	}
	speed := fmt.Sprintf("%.1f Gbit/s", float64(d.transfer)*8/took.Seconds()/1e9)
	fmt.Println("  " + speed)

	say("What host A knows of vnet 97: its interface, the MACs that live here (vif) and those behind other hosts (ventry).")
	if err := d.on(a, "vn", "vnets", "-a", "97"); err != nil {
		return err
	}

	say("Now a migration, with the MAC, the addresses and the routes. vm2 pings vm1 all the while.")
	gap := func(from, to *lab.Host) error {
		pinger.Close()
		if pinger, err = two.StartPing(address(1), lab.PingOptions{Interval: 10 * time.Millisecond}); err != nil {
			return err
		}
		if err := d.fresh(pinger); err != nil {
			return err
		}
		if err := d.on(from, "xm", "migrate", "--live", "vm1", to.Addr().String()); err != nil {
			return err
		}
		if err := d.fresh(pinger); err != nil {
			return err
		}
		fmt.Printf("  the longest gap between two answers was %s\n", pinger.Stats().LongestGap.Round(time.Millisecond))
		return nil
	}
	if err := gap(a, b); err != nil {
		return err
	}
	for _, h := range hosts {
		if err := d.on(h, "xm", "list"); err != nil {
			return err
		}
	}
	say("And back again:")
	if err := gap(b, a); err != nil {
		return err
	}

	say("Killing the daemon of host A (kill -9) and starting it again loses nothing: vnets and domains are there, and go on meanwhile.")
	if err := d.kill(a); err != nil {
		return err
	}
	if err := d.on(a, "xend", "start"); err != nil {
		return err
	}
	if err := d.on(a, "xm", "list"); err != nil {
		return err
	}
	if err := d.fresh(pinger); err != nil {
		return err
	}
	pinger.Close()

	if err := d.picture(hosts, speed); err != nil {
		return err
	}
	say("Cleaning up, as an administrator would.")
	for h, name := range map[*lab.Host]string{a: "vm1", b: "vm2"} {
		for _, args := range [][]string{{"xm", "destroy", name}, {"xm", "vnet-delete", "97"}, {"xend", "stop"}} {
			if err := d.on(h, args[0], args[1:]...); err != nil {
				return err
			}
		}
	}
	return nil
}

// picture draws what all hosts know together, as text and into a file.
func (d *demo) picture(hosts []*lab.Host, note string) error {
	say("The picture that both hosts' vn topology makes together:\n")
	var views []vnets.Topology
	for _, h := range hosts {
		out, err := h.Run(d.ctx, filepath.Join(d.bin, "vn"), "topology", "--json")
		if err != nil {
			return err
		}
		var t vnets.Topology
		if err := json.Unmarshal([]byte(out), &t); err != nil {
			return fmt.Errorf("vn topology: %w", err)
		}
		for i := range t.Hosts {
			if t.Hosts[i].State == vnets.Self {
				t.Hosts[i].Name = "host " + h.Name // they share the machine's name
				for j := range t.Hosts[i].Links {
					t.Hosts[i].Links[j].Note = note
				}
			}
		}
		views = append(views, t)
	}
	all := vnets.Join(views...)
	for line := range strings.Lines(all.Text()) {
		fmt.Print("    ", line)
	}
	if d.svg == "" {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(d.svg), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(d.svg, []byte(all.SVG(nil)), 0o644); err != nil {
		return err
	}
	fmt.Printf("  as a drawing: %s\n", d.svg)
	return nil
}

// files writes files below a host's directory.
func (d *demo) files(h *lab.Host, files map[string]string) error {
	for name, text := range files {
		path := filepath.Join(h.Dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			return err
		}
	}
	return nil
}

// address is that of domain number n.
func address(n byte) netip.Addr { return netip.AddrFrom4([4]byte{10, 97, 0, n}) }

// domain starts domain number n on a host, and returns its namespace.
func (d *demo) domain(h *lab.Host, name string, n byte) (*lab.Node, error) {
	text := fmt.Sprintf("name = \"%s\"\nmemory = 64\nvif = ['mac=00:16:3e:00:00:%02x, bridge=vnet97, ip=%s']\n", name, n, address(n))
	file := filepath.Join(h.Dir, name+".cfg")
	if err := d.files(h, map[string]string{name + ".cfg": text}); err != nil {
		return nil, err
	}
	fmt.Printf("  %s# cat %s\n", h.Name, file)
	for line := range strings.Lines(text) {
		fmt.Print("    ", line)
	}
	if err := d.on(h, "xm", "create", file); err != nil {
		return nil, err
	}
	return d.enter(h, name)
}

// enter finds the namespace of a domain.
func (d *demo) enter(h *lab.Host, name string) (*lab.Node, error) {
	id, err := h.Run(d.ctx, filepath.Join(d.bin, "xm"), "domid", name)
	if err != nil {
		return nil, err
	}
	pid, err := os.ReadFile(filepath.Join(h.Dir, "run/xend/domains", strings.TrimSpace(id), "pid"))
	if err != nil {
		return nil, err
	}
	return d.lab.Enter(name, "/proc/"+strings.TrimSpace(string(pid))+"/ns/net")
}

// patience is how long the demo waits for something that takes milliseconds.
const patience = 30 * time.Second

// reply shows the next answer to the pings.
func (d *demo) reply(p *lab.Pinger) error { return d.show(p.Next) }

// fresh shows the answer to a ping that was sent from now on.
func (d *demo) fresh(p *lab.Pinger) error { return d.show(p.Fresh) }

func (d *demo) show(next func(context.Context) (lab.Reply, error)) error {
	ctx, cancel := context.WithTimeout(d.ctx, patience)
	defer cancel()
	r, err := next(ctx)
	if err != nil {
		return errors.Join(d.ctx.Err(), err)
	}
	fmt.Printf("  answer from %s: seq=%d time=%s\n", r.From, r.Seq, r.RTT.Round(time.Microsecond))
	return nil
}

// kill ends a host's daemon without a chance to tidy up.
func (d *demo) kill(h *lab.Host) error {
	pid, err := os.ReadFile(filepath.Join(h.Dir, "run", "xend.pid"))
	if err != nil {
		return err
	}
	text := strings.TrimSpace(string(pid))
	fmt.Printf("  %s# kill -9 %s\n", h.Name, text)
	_, err = h.Run(d.ctx, "sh", "-c", "kill -9 "+text)
	return err
}
