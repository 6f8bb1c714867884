package check

import (
	"bufio"
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"

	"github.com/xenvnet/xend/dataplane"
	"github.com/xenvnet/xend/internal/hostnet"
)

// facts are what the kernel says of this host. An error beside a fact says why it is not known.
type facts struct {
	joined    map[string]bool // by "device group"
	joinedErr error

	strict map[string]bool // devices with strict reverse path filtering
	// routed are the devices by which the kernel sends to hosts.
	routed map[netip.Addr][]string

	coalesces    map[string]bool // generic receive offload of underlay devices
	coalescesErr error

	files, fileLimit int
	filesErr         error

	freeBytes, freeInodes uint64 // of the state directory, in percent
	stateDir              string
	stateErr              error

	clockKept bool
	clockErr  error

	pings map[netip.Addr]bool // of those that answered nothing
}

// look asks the kernel. hosts are those whose ways matter.
func (c *Checker) look(status dataplane.Status, hosts []netip.Addr) (f facts) {
	f.stateDir = c.o.StateDir
	f.space()
	f.openFiles()
	var t syscall.Timex
	state, err := syscall.Adjtimex(&t)
	const timeError = 5 // TIME_ERROR of adjtimex(2): the clock is not synchronised
	f.clockKept, f.clockErr = state != timeError, err
	if err := c.o.Host.Do(func() error {
		f.network(c.o.Host, status, hosts)
		return nil
	}); err != nil {
		f.joinedErr, f.coalescesErr = err, err
	}
	return f
}

// network asks about the network namespace of the calling thread.
func (f *facts) network(h *hostnet.Host, status dataplane.Status, hosts []netip.Addr) {
	f.joined, f.joinedErr = memberships("/proc/thread-self/net")
	f.strict, f.routed, f.coalesces = map[string]bool{}, map[netip.Addr][]string{}, map[string]bool{}
	for _, u := range status.Underlays {
		if !u.Up {
			continue
		}
		f.strict[u.Device] = max(setting("ipv4", "conf", "all", "rp_filter"), setting("ipv4", "conf", u.Device, "rp_filter")) == 1
		f.offload(h, u)
	}
	for _, a := range hosts {
		devices, err := h.RouteDevices(a)
		if err != nil {
			continue
		}
		for _, index := range devices {
			if l, err := h.LinkByIndex(index); err == nil {
				f.routed[a] = append(f.routed[a], l.Name)
			}
		}
	}
}

// offload looks at a card. Virtual devices get what others have coalesced already.
func (f *facts) offload(h *hostnet.Host, u dataplane.Underlay) {
	l, err := h.LinkByIndex(u.Index)
	if err == nil && l.Kind != "" {
		err = errors.New("it is a virtual device (" + l.Kind + ")")
	}
	var features map[string]bool
	if err == nil {
		features, err = h.Features(u.Index)
	}
	if err != nil {
		f.coalescesErr = err
		return
	}
	f.coalesces[u.Device] = features["rx-gro"]
}

// setting reads a number below /proc/sys/net, 0 if there is none.
func setting(elem ...string) int {
	b, err := os.ReadFile(filepath.Join(append([]string{"/proc/sys/net"}, elem...)...))
	if err != nil {
		return 0
	}
	n, _ := strconv.Atoi(strings.TrimSpace(string(b)))
	return n
}

// memberships reads which groups the kernel has joined by which device: /proc/net/igmp and igmp6 of proc(5).
func memberships(dir string) (map[string]bool, error) {
	out := map[string]bool{}
	b, err := os.ReadFile(filepath.Join(dir, "igmp"))
	if err != nil {
		return nil, err
	}
	device := ""
	for s := bufio.NewScanner(bytes.NewReader(b)); s.Scan(); {
		line := s.Text()
		words := strings.Fields(line)
		switch {
		case len(words) < 2 || words[0] == "Idx":
		case !strings.HasPrefix(line, "\t"):
			device = strings.TrimSuffix(words[1], ":")
		default: // the address as the kernel has it in memory, printed as a number
			raw, err := hex.DecodeString(words[0])
			if err == nil && len(raw) == 4 {
				out[device+" "+netip.AddrFrom4([4]byte{raw[3], raw[2], raw[1], raw[0]}).String()] = true
				out[device+" "+netip.AddrFrom4([4]byte(raw)).String()] = true
			}
		}
	}
	b, err = os.ReadFile(filepath.Join(dir, "igmp6"))
	if err != nil {
		return out, nil // without IPv6
	}
	for s := bufio.NewScanner(bytes.NewReader(b)); s.Scan(); {
		words := strings.Fields(s.Text())
		if len(words) < 3 {
			continue
		}
		if raw, err := hex.DecodeString(words[2]); err == nil && len(raw) == 16 {
			out[words[1]+" "+netip.AddrFrom16([16]byte(raw)).String()] = true
		}
	}
	return out, nil
}

// space looks at the file system of the state directory.
func (f *facts) space() {
	var s syscall.Statfs_t
	if f.stateErr = syscall.Statfs(f.stateDir, &s); f.stateErr != nil {
		return
	}
	f.freeBytes, f.freeInodes = 100, 100
	if s.Blocks > 0 {
		f.freeBytes = 100 * s.Bavail / s.Blocks
	}
	if s.Files > 0 { // some file systems count none
		f.freeInodes = 100 * s.Ffree / s.Files
	}
}

// openFiles counts this process's file descriptors.
func (f *facts) openFiles() {
	var limit syscall.Rlimit
	if f.filesErr = syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); f.filesErr != nil {
		return
	}
	f.fileLimit = int(min(limit.Cur, 1<<30))
	list, err := os.ReadDir("/proc/self/fd")
	f.files, f.filesErr = len(list), err
}

// pingWait is how long an echo is waited for.
const pingWait = time.Second

// ping tells whether a host answers ICMP echo.
func (c *Checker) ping(ctx context.Context, addr netip.Addr) bool {
	var conn *icmp.PacketConn
	network, local, kind, protocol := "ip4:icmp", "0.0.0.0", icmp.Type(ipv4.ICMPTypeEcho), 1
	if addr.Is6() {
		network, local, kind, protocol = "ip6:ipv6-icmp", "::", ipv6.ICMPTypeEchoRequest, 58
	}
	if err := c.o.Host.Do(func() (err error) {
		conn, err = icmp.ListenPacket(network, local)
		return err
	}); err != nil {
		return false
	}
	defer func() { _ = conn.Close() }()
	defer context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })()
	if conn.SetDeadline(time.Now().Add(pingWait)) != nil {
		return false
	}
	id := os.Getpid() & 0xffff
	b, err := (&icmp.Message{Type: kind, Body: &icmp.Echo{ID: id, Seq: 1, Data: []byte("vn check")}}).Marshal(nil)
	if err != nil {
		return false
	}
	if _, err := conn.WriteTo(b, &net.IPAddr{IP: addr.AsSlice()}); err != nil {
		return false
	}
	answer := make([]byte, 1500)
	for {
		n, from, err := conn.ReadFrom(answer)
		if err != nil {
			return false
		}
		m, err := icmp.ParseMessage(protocol, answer[:n])
		if err != nil || fmt.Sprint(from) != addr.String() {
			continue
		}
		if echo, ok := m.Body.(*icmp.Echo); ok && echo.ID == id && (m.Type == ipv4.ICMPTypeEchoReply || m.Type == ipv6.ICMPTypeEchoReply) {
			return true
		}
	}
}
