// Demo shows what this project does, on one machine, in half a minute: two hosts as network namespaces,
// a vnet over both, a domain on each, and the migration of one while it is pinged. It touches nothing of
// the machine's own network and removes what it made, also after ctrl-C.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/xenvnet/xend/internal/lab"
)

func main() {
	bin := flag.String("bin", "bin", "directory of the programs that `make build` made")
	flag.Parse()
	dir, err := filepath.Abs(*bin)
	if err == nil {
		err = lab.Run(lab.Options{Named: true}, func(ctx context.Context, l *lab.Lab) error {
			return (&demo{ctx: ctx, lab: l, bin: dir}).run()
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
}

const vnet97 = "(vnet (id 97) (bridge vnet97) (vnetif vnif97) (security none))\n"

type demo struct {
	ctx context.Context
	lab *lab.Lab
	bin string
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
		file := filepath.Join(h.Dir, "vnet97.sxp")
		if err := os.WriteFile(file, []byte(vnet97), 0o644); err != nil {
			return err
		}
		if err := d.on(h, "xend", "start"); err != nil {
			return err
		}
		if err := d.on(h, "xm", "vnet-create", file); err != nil {
			return err
		}
	}
	if err := d.on(a, "xm", "vnet-list", "-l"); err != nil {
		return err
	}

	say("A domain on each host is attached to bridge vnet97; nothing else is configured.")
	one, err := d.domain(a, "one", 1)
	if err != nil {
		return err
	}
	two, err := d.domain(b, "two", 2)
	if err != nil {
		return err
	}
	for _, h := range hosts {
		if err := d.on(h, "vn", "bridges"); err != nil {
			return err
		}
	}

	say("Do they reach each other? The first frame is flooded to the group, the answer teaches, the rest is unicast.")
	pinger, err := one.StartPing(two.Addr(), lab.PingOptions{Interval: 100 * time.Millisecond})
	if err != nil {
		return err
	}
	defer pinger.Close()
	for range 5 {
		if err := d.reply(pinger); err != nil {
			return err
		}
	}

	say("A full frame with \"don't fragment\" passes although the tunnel adds 50 bytes; no MTU had to be set anywhere:")
	rtt, err := one.Ping(d.ctx, two.Addr(), lab.PingOptions{Size: 1472, DontFragment: true})
	if err != nil {
		return err
	}
	fmt.Printf("  1472 bytes of payload: answered after %s\n", rtt.Round(time.Microsecond))

	say("A TCP transfer of 1 GiB, every byte checked:")
	const size = 1 << 30
	took, err := lab.Transfer(d.ctx, one.Node, two.Node, two.Addr(), size)
	if err != nil {
		return err
	}
	fmt.Printf("  %.1f Gbit/s\n", size*8/took.Seconds()/1e9)

	say("What host A knows of vnet 97: its interface, the MACs that live here (vif) and those behind other hosts (ventry).")
	if err := d.on(a, "vn", "vnets", "-a", "97"); err != nil {
		return err
	}

	say("Now a migration. Domain one moves from host A to host B, with its MAC and its address, and is pinging all the while.")
	if err := one.MoveTo(b, "vif2.0", "vnet97"); err != nil {
		return err
	}
	fmt.Println("  domain one is on host B now; a ping between two domains on one bridge:")
	if err := d.fresh(pinger); err != nil {
		return err
	}
	fmt.Println("  and domain two moves from host B to host A:")
	if err := two.MoveTo(a, "vif3.0", "vnet97"); err != nil {
		return err
	}
	if err := d.fresh(pinger); err != nil {
		return err
	}
	stats := pinger.Stats()
	fmt.Printf("  %d requests, %d answered; the longest gap, over two migrations, was %s\n",
		stats.Sent, stats.Received, stats.LongestGap.Round(time.Millisecond))
	if err := d.on(a, "vn", "vifs"); err != nil {
		return err
	}

	say("Killing the daemon of host A (kill -9) and starting it again loses nothing: the vnet is a file, its devices stay.")
	if err := d.kill(a); err != nil {
		return err
	}
	if err := d.on(a, "xend", "start"); err != nil {
		return err
	}
	if err := d.fresh(pinger); err != nil {
		return err
	}
	pinger.Close()

	say("Cleaning up, as an administrator would.")
	for _, h := range hosts {
		if err := d.on(h, "xm", "vnet-delete", "97"); err != nil {
			return err
		}
		if err := d.on(h, "xend", "stop"); err != nil {
			return err
		}
	}
	return nil
}

// domain starts domain number n on a host.
func (d *demo) domain(h *lab.Host, name string, n byte) (*lab.Domain, error) {
	dom, err := h.Domain(lab.DomainSpec{
		Name: name, Vif: "vif1.0", Bridge: "vnet97",
		MAC:   net.HardwareAddr{0x00, 0x16, 0x3e, 0x00, 0x00, n},
		Addrs: []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 97, 0, n}), 24)},
	})
	if err != nil {
		return nil, err
	}
	fmt.Printf("  domain %s on host %s: vif1.0 in bridge vnet97, MAC %s, address %s\n", name, h.Name, dom.Spec.MAC, dom.Addr())
	return dom, nil
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
