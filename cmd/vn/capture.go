package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/mdlayher/packet"
	"golang.org/x/net/bpf"

	"github.com/xenvnet/xend/dataplane/esp"
	"github.com/xenvnet/xend/internal/capture"
	"github.com/xenvnet/xend/internal/cli"
	"github.com/xenvnet/xend/internal/conffile"
	"github.com/xenvnet/xend/sxp"
	"github.com/xenvnet/xend/vnet"
	"github.com/xenvnet/xend/xendcompat/keys"
	"github.com/xenvnet/xend/xendcompat/traffic"
)

const (
	// dropsEvery is how often the daemon is asked what it has dropped.
	dropsEvery = 250 * time.Millisecond
	// capturedQueue is how many packets wait to be looked at; more are lost, and counted.
	capturedQueue = 4096
	// maxPacket is the length of the longest packet, in bytes.
	maxPacket = 65536 + 64
)

// capture shows or writes what goes over a vnif and the underlay device, or what is in a capture file.
func (a *app) capture(ctx context.Context, in cli.Invocation) error {
	about := func() (capture.Options, error) { return a.captured(ctx, in.Args[0]) }
	if in.Has("read") {
		about = func() (capture.Options, error) { return a.recorded(in.Args[0], in.Value("read")) }
	}
	o, err := about()
	if err != nil {
		return err
	}
	count := 0
	if in.Has("count") {
		if count, err = strconv.Atoi(in.Value("count")); err != nil || count < 1 {
			return fmt.Errorf("--count: expected a number from 1 on, not %s", in.Value("count"))
		}
	}
	show := func(p capture.Packet) error {
		fmt.Fprintln(a.stdout, o.Line(p))
		return nil
	}
	flush := a.stdout.Flush
	if name := in.Value("write"); name != "" {
		out := os.Stdout
		if name != "-" {
			if out, err = createPrivate(name, in.Value("read")); err != nil {
				return err
			}
			defer out.Close()
		}
		file, err := capture.NewFile(out, o)
		if err != nil {
			return err
		}
		show, flush = file.Write, file.Flush
	}
	ctx, stop := untilInterrupt(ctx)
	defer stop()
	if in.Has("read") {
		return errors.Join(a.reread(ctx, o, in.Value("read"), count, in.Has("write"), show), flush())
	}
	packets := make(chan capture.Packet, capturedQueue)
	var lost atomic.Uint64
	for place, device := range map[capture.Place]string{capture.Vnif: o.Vnif, capture.Underlay: o.Device} {
		if err := listen(ctx, device, place, o, packets, &lost); err != nil {
			return err
		}
	}
	if in.Has("write") {
		fmt.Fprintf(a.stderr, "vn: capturing vnet %s on %s and %s; ctrl-C ends it\n", o.Vnet.Short(), o.Vnif, o.Device)
	}
	written, err := a.correlate(ctx, o, packets, count, show, flush)
	if in.Has("write") {
		fmt.Fprintf(a.stderr, "vn: %d packets written\n", written)
	}
	if n := lost.Load(); n > 0 {
		fmt.Fprintf(a.stderr, "vn: %d packets came too fast to be looked at\n", n)
	}
	return errors.Join(err, flush())
}

// createPrivate makes a file that only its owner can read, as it will hold what was sealed: what others could read stays as it is.
// It is not the one of another name.
func createPrivate(name, other string) (*os.File, error) {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && info.Mode().IsRegular() {
		if source, failed := os.Stat(other); failed == nil && os.SameFile(info, source) {
			err = fmt.Errorf("%s: this is the file that is read; write another one", name)
		} else if info.Mode().Perm()&0o077 != 0 {
			err = fmt.Errorf("%s: others may read this file (mode %04o), and what is captured is not for them; remove it, or write another one", name, info.Mode().Perm())
		} else if s, ok := info.Sys().(*syscall.Stat_t); ok && int(s.Uid) != os.Geteuid() {
			err = fmt.Errorf("%s: this file is user %d's, and what is captured is not for others; write another one", name, s.Uid)
		} else {
			err = f.Truncate(0)
		}
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// recorded says what is to be looked for in a capture file. It asks no daemon, so that it can be done on any machine that has
// the keys.
func (a *app) recorded(arg, file string) (o capture.Options, err error) {
	if o.Vnet, err = vnet.ParseIDPadded(arg); err != nil {
		return o, err
	}
	if o.Port, err = conffile.DataplanePort(a.paths); err != nil {
		return o, err
	}
	if o.SecurityPort, err = conffile.SecurityPort(a.paths); err != nil {
		return o, err
	}
	o.Device, o.Recorded = filepath.Base(file), true
	err = a.readWithKeys(&o)
	o.Secured = o.Reader != nil
	return o, err
}

// readWithKeys has what is sealed opened with the keys of the vnet, if there are any.
func (a *app) readWithKeys(o *capture.Options) error {
	dir, err := conffile.KeyDir(a.paths)
	if err != nil {
		return err
	}
	set, err := keys.Load(dir, o.Vnet)
	if errors.Is(err, keys.ErrNone) {
		return nil
	}
	if err != nil {
		return err
	}
	o.Reader = esp.NewReader(o.Vnet, set.Secrets...)
	return nil
}

// reread shows what a capture file has of a vnet, at most count packets unless that is 0.
func (a *app) reread(ctx context.Context, o capture.Options, name string, count int, tell bool, show func(capture.Packet) error) error {
	c := capture.New(o)
	written := 0
	enough := errors.New("enough")
	each := func(do func(capture.Packet) error) error {
		f, err := os.Open(name)
		if err != nil {
			return err
		}
		defer f.Close()
		if info, err := f.Stat(); err == nil && !info.Mode().IsRegular() {
			return fmt.Errorf("%s: this is no file; it is read twice, the keys first", name)
		}
		if err := capture.Read(f, func(p capture.Packet) error {
			if err := ctx.Err(); err != nil {
				return err
			}
			return do(p)
		}); err != nil && !errors.Is(err, enough) {
			return fmt.Errorf("%s: %w", name, err)
		}
		return nil
	}
	if err := each(func(p capture.Packet) error { c.Learn(p); return nil }); err != nil {
		return err
	}
	if err := each(func(p capture.Packet) error {
		c.Add(p)
		for _, p := range c.Flush(p.Time.Add(2 * capture.Hold)) {
			if count > 0 && written == count {
				return enough
			}
			if err := show(p); err != nil {
				return err
			}
			written++
		}
		return nil
	}); err != nil {
		return err
	}
	if tell {
		fmt.Fprintf(a.stderr, "vn: %d packets written\n", written)
	}
	if n := c.Closed(); n > 0 {
		why := "their senders' KEY messages are not in the file, or they are of other vnets"
		if o.Reader == nil {
			why = "there is no key of vnet " + o.Vnet.Short() + " on this host"
		}
		fmt.Fprintf(a.stderr, "vn: %d ESP packets were not opened: %s\n", n, why)
	}
	return nil
}

// correlate shows what comes, until ctx ends or count packets were shown.
func (a *app) correlate(ctx context.Context, o capture.Options, packets <-chan capture.Packet, count int, show func(capture.Packet) error, flush func() error) (written int, err error) {
	c := capture.New(o)
	ticker := time.NewTicker(capture.Hold / 4)
	defer ticker.Stop()
	drops := make(chan traffic.Snapshot, 1)
	go a.watchDrops(ctx, drops)
	var before traffic.Snapshot
	for done := false; !done; {
		now := time.Now()
		select {
		case p := <-packets:
			c.Add(p)
			continue
		case t := <-drops:
			if !before.Time.IsZero() {
				c.Dropped(dropText(t.Sub(before), o.Vnet.Short()), now)
			}
			before = t
			continue
		case <-ctx.Done():
			done, now = true, now.Add(2*capture.Hold) // what is held is shown as it is
		case now = <-ticker.C:
		}
		for _, p := range c.Flush(now) {
			if count > 0 && written == count {
				break
			}
			if err := show(p); err != nil {
				return written, err
			}
			written++
		}
		if err := flush(); err != nil {
			return written, err
		}
		done = done || count > 0 && written == count
	}
	return written, nil
}

// watchDrops tells what was counted, again and again.
func (a *app) watchDrops(ctx context.Context, out chan<- traffic.Snapshot) {
	ticker := time.NewTicker(dropsEvery)
	defer ticker.Stop()
	for {
		var t traffic.Snapshot
		if a.control.JSON(ctx, command("vn.traffic"), &t) == nil {
			select {
			case out <- t:
			case <-ctx.Done():
				return
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// dropText says what was dropped, "" for nothing: what is known to be of the vnet, and the rest, which may be.
func dropText(t traffic.Snapshot, vnet string) string {
	own, others := traffic.Drops{}, traffic.Drops{}
	for _, d := range t.Drops {
		others[d.Reason] = d.Packets
	}
	for _, v := range t.Vnets {
		for reason, n := range v.Drops {
			others[reason] -= min(n, others[reason])
			if v.ID == vnet {
				own[reason] = n
			}
		}
	}
	maps.DeleteFunc(others, func(_ string, n uint64) bool { return n == 0 })
	var parts []string
	if len(own) > 0 {
		parts = append(parts, "of this vnet "+own.String())
	}
	if len(others) > 0 {
		parts = append(parts, "of vnets that are not known "+others.String())
	}
	return strings.Join(parts, ", ")
}

// captured says what is to be captured for a vnet.
func (a *app) captured(ctx context.Context, arg string) (o capture.Options, err error) {
	v, err := a.findVnet(ctx, arg)
	if err != nil {
		return o, err
	}
	if o.Vnet, err = vnet.ParseID(v.ChildValue("id", "")); err != nil {
		return o, err
	}
	o.Vnif = v.ChildValue("vnetif", "")
	if o.SecurityPort, err = conffile.SecurityPort(a.paths); err != nil {
		return o, err
	}
	forms, err := a.ask(ctx, command("varp.list"))
	if err != nil {
		return o, err
	}
	i := slices.IndexFunc(forms, func(f sxp.Value) bool { return f.Name() == "varp" && f.ChildValue("device", "") != "" })
	if i < 0 {
		return o, errors.New("there is no underlay device: vnets are cut off from other hosts; xend status says why")
	}
	o.Device = forms[i].ChildValue("device", "")
	port, err := strconv.ParseUint(forms[i].ChildValue("port", ""), 10, 16)
	if err != nil {
		return o, fmt.Errorf("the underlay's port: %w", err)
	}
	o.Port = uint16(port)
	stats, err := a.askOne(ctx, "vn.stats", "stats")
	if err != nil {
		return o, err
	}
	for _, f := range stats.Children("fastpath") {
		o.Kernel = slices.ContainsFunc(f.Children("vnet"), func(f sxp.Value) bool {
			return f.ChildValue("id", "") == v.ChildValue("id", "") && f.ChildValue("carrier", "") == "kernel"
		})
	}
	if v.ChildValue("security", "none") == "none" {
		return o, nil
	}
	o.Secured = true
	err = a.readWithKeys(&o)
	return o, err
}

// listen sends what comes and goes by a device to out, until ctx ends.
func listen(ctx context.Context, device string, place capture.Place, o capture.Options, out chan<- capture.Packet, lost *atomic.Uint64) error {
	dev, err := net.InterfaceByName(device)
	if err != nil {
		return fmt.Errorf("capture on %s: %w", device, err)
	}
	var config packet.Config
	if place == capture.Underlay {
		if config.Filter, err = underlayFilter(o); err != nil {
			return err
		}
	}
	const everything = 3 // ETH_P_ALL of linux/if_ether.h
	conn, err := packet.Listen(dev, packet.Raw, everything, &config)
	if err != nil {
		return fmt.Errorf("capture on %s: %w", device, err)
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		return errors.Join(fmt.Errorf("capture on %s: %w", device, err), conn.Close())
	}
	context.AfterFunc(ctx, func() { _ = conn.Close() })
	go func() {
		b := make([]byte, maxPacket)
		for {
			var n int
			var from syscall.Sockaddr
			var failed error
			// The kernel tells with each packet which way it went: packet(7).
			if err := raw.Read(func(fd uintptr) bool {
				n, from, failed = syscall.Recvfrom(int(fd), b, 0)
				return !errors.Is(failed, syscall.EAGAIN)
			}); err != nil {
				return // closed
			}
			ll, ok := from.(*syscall.SockaddrLinklayer)
			if failed != nil || !ok {
				continue
			}
			p := capture.Packet{Time: time.Now(), Place: place, Outgoing: ll.Pkttype == syscall.PACKET_OUTGOING, Data: slices.Clone(b[:n])}
			select {
			case out <- p:
			default:
				lost.Add(1)
			}
		}
	}()
	return nil
}

// underlayFilter lets through what may be a vnet's: UDP to or from its ports, fragments of UDP, EtherIP and ESP.
func underlayFilter(o capture.Options) ([]bpf.RawInstruction, error) {
	const udp, etherIP, esp, fragment = 17, 97, 50, 44
	const accept, reject = 1 << 20, 0
	ports := []uint32{uint32(o.Port), uint32(o.SecurityPort)}
	program := []bpf.Instruction{
		bpf.LoadAbsolute{Off: 12, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: 0x86dd, SkipTrue: 16},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: 0x0800, SkipTrue: 13},
		// IPv4: 3 to 16.
		bpf.LoadAbsolute{Off: 23, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: etherIP, SkipTrue: 12},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: esp, SkipTrue: 11},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: udp, SkipTrue: 9},
		bpf.LoadAbsolute{Off: 20, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpBitsSet, Val: 0x1fff, SkipTrue: 8},
		bpf.LoadMemShift{Off: 14},
		bpf.LoadIndirect{Off: 14, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: ports[0], SkipTrue: 5},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: ports[1], SkipTrue: 4},
		bpf.LoadIndirect{Off: 16, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: ports[0], SkipTrue: 2},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: ports[1], SkipTrue: 1},
		bpf.RetConstant{Val: reject},
		bpf.RetConstant{Val: accept},
		// IPv6: 18 on.
		bpf.LoadAbsolute{Off: 20, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: fragment, SkipTrue: 10},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: etherIP, SkipTrue: 9},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: esp, SkipTrue: 8},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: udp, SkipTrue: 6},
		bpf.LoadAbsolute{Off: 54, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: ports[0], SkipTrue: 5},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: ports[1], SkipTrue: 4},
		bpf.LoadAbsolute{Off: 56, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: ports[0], SkipTrue: 2},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: ports[1], SkipTrue: 1},
		bpf.RetConstant{Val: reject},
		bpf.RetConstant{Val: accept},
	}
	raw, err := bpf.Assemble(program)
	if err != nil {
		return nil, fmt.Errorf("the filter of the capture: %w", err)
	}
	return raw, nil
}
