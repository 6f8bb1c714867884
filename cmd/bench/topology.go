package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/xenvnet/xend/internal/hostnet"
	"github.com/xenvnet/xend/internal/lab"
	"github.com/xenvnet/xend/vnet"
	"github.com/xenvnet/xend/xendcompat/keys"
)

// A scenario is a pair of MTUs and the kind of network card between the hosts.
type scenario struct {
	label, about string
	underlay     int  // MTU between the hosts
	inner        int  // MTU of the domains
	plain        bool // a network card without tunnel and UDP segmentation offloads
	bridged      bool // the card is a port of the bridge that has the host's address, as Xen's network-bridge makes it
}

func (s scenario) name() string { return s.label }

var scenarios = []scenario{
	{"untuned", "domains at 1500 on an underlay of 1500, nothing tuned", 1500, 1500, false, false},
	{"fits", "domains at 1400 on an underlay of 1500", 1500, 1400, false, false},
	{"jumbo", "domains at 8900 on an underlay of 9000", 9000, 8900, false, false},
	{"plain", "domains at 1400 on an underlay of 1500 whose cards segment neither tunnels nor UDP", 1500, 1400, true, false},
	{"bridge", "as fits, where the underlay is network-bridge's bridge, and the card one of its ports", 1500, 1400, false, true},
}

// A system joins the bridges of two hosts.
type system struct {
	label, about string
	join         func(ctx context.Context, s *setup) error
	// extra systems are measured only if they are named.
	extra bool
}

func (s system) name() string { return s.label }

var systems = []system{
	{limitSystem, "no tunnel", joinNone, false},
	{reference, "kernel VXLAN", joinVXLAN, false},
	{"xend", "xend, as it comes", joinXend(vnet.None, ""), false},
	{"xend-vnif", "xend, fast path at the vnif", joinXend(vnet.None, "fastpath = \"on\"\nbypass = \"off\"\n"), false},
	{"xend-bypass", "xend, fast path past the bridge", joinXend(vnet.None, "fastpath = \"on\"\nbypass = \"auto\"\n"), false},
	{"xend-xdp", "xend, XDP on plain cards", joinXend(vnet.None, "fastpath = \"on\"\nxdp = \"on\"\n"), true},
	{"xend-user", "xend, user space", joinXend(vnet.None, "fastpath = \"off\"\n"), false},
	{"openvpn", "OpenVPN, tap, no cipher", joinOpenVPN, false},
	{"xend-auth", "xend, security auth", joinXend(vnet.Auth, ""), false},
	{"xend-conf", "xend, security conf", joinXend(vnet.Conf, ""), false},
	{"vxlan-esp", "kernel VXLAN in kernel ESP, AES-256-GCM", joinVXLANInESP, false},
	{"openvpn-gcm", "OpenVPN, tap, AES-256-GCM", joinOpenVPNGCM, false},
	{"tinc", "tinc, no cipher", joinTinc, true},
	{"vde", "VDE", joinVDE, true},
}

// ordinary are the systems that are measured if none are named.
func ordinary() []system {
	return slices.DeleteFunc(slices.Clone(systems), func(s system) bool { return s.extra })
}

// setup is a system that is up: two hosts with a cable between them and a domain on each.
type setup struct {
	sc       scenario
	sys      system
	bin      string
	hosts    [2]*lab.Host
	one, two *lab.Domain
}

const (
	bridge   = "vnet97"
	cable    = "eth0"
	overlay  = "vnif97" // device of the user-space overlays
	settling = 20 * time.Second
)

// subnet is the domains'.
var subnet = netip.MustParsePrefix("10.97.0.0/24")

func underlayAddr(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 9, 0, byte(i + 1)}) }

// build makes a setup and waits until the domains reach each other.
func build(ctx context.Context, l *lab.Lab, bin string, sc scenario, sys system) (*setup, error) {
	s := &setup{sc: sc, sys: sys, bin: bin}
	for i := range s.hosts {
		h, err := l.Host(fmt.Sprintf("%s-%d", sys.label, i+1))
		if err != nil {
			return nil, err
		}
		s.hosts[i] = h
	}
	a, b := s.hosts[0].Net, s.hosts[1].Net
	if _, err := a.EnsureVeth(hostnet.Veth{Name: cable, Partner: cable, PartnerHost: b, MTU: sc.underlay}); err != nil {
		return nil, err
	}
	for i, h := range s.hosts {
		dev, err := h.Net.LinkByName(cable)
		if err != nil {
			return nil, err
		}
		if err := h.Net.SetUp(dev.Index); err != nil {
			return nil, err
		}
		prefix := netip.PrefixFrom(underlayAddr(i), 24)
		if err := h.Net.EnsureAddress(hostnet.Address{Index: dev.Index, Prefix: prefix}); err != nil {
			return nil, err
		}
		if err := s.ip(ctx, i, "route", "add", "default", "dev", cable); err != nil {
			return nil, err
		}
		if sc.plain {
			_, err := h.Run(ctx, "ethtool", "-K", cable, "tx-udp_tnl-segmentation", "off",
				"tx-udp_tnl-csum-segmentation", "off", "tx-udp-segmentation", "off", "gro", "on")
			if err != nil {
				return nil, err
			}
		}
		// A card has a queue for each processor. A veth takes an XDP program only if its receive queues are as many as
		// the other end's transmit queues, so these come last.
		if err := s.queues(ctx, i, runtime.NumCPU(), 1); err != nil {
			return nil, err
		}
		if !strings.HasPrefix(sys.label, "xend") { // which makes its own
			if err := s.ip(ctx, i, "link", "add", bridge, "type", "bridge", "forward_delay", "0", "mcast_snooping", "0"); err != nil {
				return nil, err
			}
			if err := s.ip(ctx, i, "link", "set", bridge, "up"); err != nil {
				return nil, err
			}
		}
	}
	for i := range s.hosts {
		if err := s.queues(ctx, i, runtime.NumCPU(), runtime.NumCPU()); err != nil {
			return nil, err
		}
	}
	if sc.bridged {
		for _, h := range s.hosts {
			if err := h.BridgeCard(ctx, cable, nil); err != nil {
				return nil, err
			}
		}
	}
	if err := sys.join(ctx, s); err != nil {
		return nil, err
	}
	if err := s.meet(ctx); err != nil {
		return nil, err
	}
	return s, s.serve(ctx, processes)
}

// meet makes a domain on each of the first two hosts, which reach each other.
func (s *setup) meet(ctx context.Context) error {
	for i, d := range []**lab.Domain{&s.one, &s.two} {
		var err error
		*d, err = s.hosts[i].Domain(lab.DomainSpec{
			Name: fmt.Sprintf("%s-d%d", s.sys.label, i+1), Vif: "vif1.0", Bridge: bridge, MTU: s.sc.inner,
			Addrs: []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 97, 0, byte(i + 1)}), subnet.Bits())},
		})
		if err != nil {
			return err
		}
		// Whatever this machine's default is: BBR's timers cost as much as a tunnel. ip-route(8).
		_, err = (*d).Run(ctx, "ip", "route", "replace", subnet.String(), "dev", "eth0", "proto", "kernel", "scope", "link",
			"src", (*d).Addr().String(), "congctl", "cubic")
		if err != nil {
			return err
		}
	}
	settle, cancel := context.WithTimeout(ctx, settling)
	defer cancel()
	if _, err := s.one.Ping(settle, s.two.Addr(), lab.PingOptions{}); err != nil {
		return fmt.Errorf("the domains do not reach each other: %w", err)
	}
	return nil
}

// serve starts the servers in the second domain, so many of them iperf3.
func (s *setup) serve(ctx context.Context, n int) error {
	ports := []int{echoPort}
	for i := range n {
		if err := s.start(s.two.Node, "iperf3", "-s", "-p", strconv.Itoa(iperfPort+i)); err != nil {
			return err
		}
		ports = append(ports, iperfPort+i)
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	if err := s.start(s.two.Node, self, "role", "echo"); err != nil {
		return err
	}
	for _, port := range ports {
		if err := listening(ctx, s.two.Node, "tcp", port); err != nil {
			return err
		}
	}
	return nil
}

// listening returns when somebody listens on a port of the node, for TCP or UDP.
func listening(ctx context.Context, n *lab.Node, network string, port int) error {
	ctx, cancel := context.WithTimeout(ctx, settling)
	defer cancel()
	for {
		out, err := n.Run(ctx, "cat", "/proc/self/net/"+network, "/proc/self/net/"+network+"6")
		if err != nil {
			return fmt.Errorf("nobody listens on %s port %d: %w", network, port, err)
		}
		if strings.Contains(out, fmt.Sprintf(":%04X ", port)) {
			return nil
		}
	}
}

// ip runs ip(8) on host i.
func (s *setup) ip(ctx context.Context, i int, args ...string) error {
	_, err := s.hosts[i].Run(ctx, "ip", args...)
	return err
}

// queues sets how many queues the cable of host i has.
func (s *setup) queues(ctx context.Context, i, receive, transmit int) error {
	d, err := s.hosts[i].Run(ctx, "ethtool", "-l", cable)
	if err != nil {
		return err
	}
	var rx, tx []string // preset maximums, then what is now: ethtool(8)
	for line := range strings.Lines(d) {
		if v, ok := strings.CutPrefix(line, "RX:"); ok {
			rx = append(rx, strings.TrimSpace(v))
		}
		if v, ok := strings.CutPrefix(line, "TX:"); ok {
			tx = append(tx, strings.TrimSpace(v))
		}
	}
	if want := []string{strconv.Itoa(receive), strconv.Itoa(transmit)}; len(rx) == 2 && len(tx) == 2 && rx[1] == want[0] && tx[1] == want[1] {
		return nil
	}
	_, err = s.hosts[i].Run(ctx, "ethtool", "-L", cable, "rx", strconv.Itoa(receive), "tx", strconv.Itoa(transmit))
	return err
}

// plug puts a device into the bridge of host i.
func (s *setup) plug(ctx context.Context, i int, device string) error {
	return s.ip(ctx, i, "link", "set", device, "mtu", strconv.Itoa(s.sc.inner), "master", bridge, "up")
}

// start starts a command that runs until the lab closes.
func (s *setup) start(n *lab.Node, name string, args ...string) error {
	cmd := n.Command(context.Background(), name, args...)
	if err := n.Start(cmd); err != nil {
		return err
	}
	go func() { _ = cmd.Wait() }()
	return nil
}

// joinNone makes the cable itself a port of both bridges.
func joinNone(ctx context.Context, s *setup) error {
	card := cable
	if s.sc.bridged {
		card = "p" + cable // a domain's bridge instead of the one that network-bridge made: the same way
	}
	for i := range s.hosts {
		if err := s.ip(ctx, i, "addr", "flush", "dev", cable); err != nil {
			return err
		}
		if err := s.ip(ctx, i, "link", "set", card, "master", bridge); err != nil {
			return err
		}
	}
	return nil
}

func joinVXLAN(ctx context.Context, s *setup) error {
	for i := range s.hosts {
		err := s.ip(ctx, i, "link", "add", "vxlan97", "type", "vxlan", "id", "97", "dstport", "4789",
			"local", underlayAddr(i).String(), "remote", underlayAddr(1-i).String())
		if err != nil {
			return err
		}
		if err := s.plug(ctx, i, "vxlan97"); err != nil {
			return err
		}
	}
	return nil
}

// joinVXLANInESP protects VXLAN as conf does, by the kernel's own ESP with AES-256-GCM, where the kernel has that; ip-xfrm(8).
func joinVXLANInESP(ctx context.Context, s *setup) error {
	var keys [2]string // by the host that sends
	for i := range keys {
		b := make([]byte, 36)
		_, _ = rand.Read(b) // never fails
		keys[i] = fmt.Sprintf("0x%x", b)
	}
	for i := range s.hosts {
		for j := range s.hosts { // what host j sends
			from, to, direction := underlayAddr(j).String(), underlayAddr(1-j).String(), "out"
			if i != j {
				direction = "in"
			}
			err := s.ip(ctx, i, "xfrm", "state", "add", "src", from, "dst", to, "proto", "esp", "spi", fmt.Sprint(4097+j), "mode", "transport",
				"aead", "rfc4106(gcm(aes))", keys[j], "128", "flag", "esn", "replay-window", "4096")
			if err != nil {
				return err
			}
			err = s.ip(ctx, i, "xfrm", "policy", "add", "src", from, "dst", to, "proto", "udp", "dport", "4789", "dir", direction,
				"tmpl", "src", from, "dst", to, "proto", "esp", "mode", "transport")
			if err != nil {
				return err
			}
		}
	}
	return joinVXLAN(ctx, s)
}

// joinXend does what a user does: a daemon on each host, and vnet 97 with a level of security; settings are lines for
// [dataplane].
func joinXend(level vnet.Security, settings string) func(ctx context.Context, s *setup) error {
	return func(ctx context.Context, s *setup) error { return startXend(ctx, s, level, settings) }
}

func startXend(ctx context.Context, s *setup, level vnet.Security, settings string) error {
	for i, h := range s.hosts {
		if level != vnet.None && i == 0 {
			if _, err := keys.Generate(filepath.Join(h.Dir, "etc", "xen", "vnet-keys"), nil); err != nil {
				return err
			}
		} else if level != vnet.None {
			if err := copyKey(s.hosts[0].Dir, h.Dir); err != nil {
				return err
			}
		}
		if err := startDaemon(ctx, h, s.bin, level, settings, max(s.sc.inner, 1500)); err != nil {
			return err
		}
	}
	return nil
}

// startDaemon starts a host's daemon and makes vnet 97.
func startDaemon(ctx context.Context, h *lab.Host, bin string, level vnet.Security, settings string, mtu int) error {
	if err := configure(h, mtu, settings); err != nil {
		return err
	}
	file := filepath.Join(h.Dir, "vnet97.sxp")
	text := "(vnet (id 97) (bridge " + bridge + ") (vnetif " + overlay + ") (security " + level.String() + "))\n"
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		return err
	}
	if _, err := h.Run(ctx, filepath.Join(bin, "xend"), "start"); err != nil {
		return err
	}
	_, err := h.Run(ctx, filepath.Join(bin, "xm"), "vnet-create", file)
	return err
}

// configure writes a host's vnet.toml.
func configure(h *lab.Host, mtu int, settings string) error {
	etc := filepath.Join(h.Dir, "etc", "xen")
	if err := os.MkdirAll(etc, 0o755); err != nil {
		return err
	}
	config := fmt.Sprintf("[dataplane]\nmtu = %d\n%s", mtu, settings)
	return os.WriteFile(filepath.Join(etc, "vnet.toml"), []byte(config), 0o644)
}

// chosen is what the second host's daemon says of its fast path; nil without one.
func (s *setup) chosen(ctx context.Context) (lines []string) {
	if !strings.HasPrefix(s.sys.label, "xend") {
		return nil
	}
	out, err := s.hosts[1].Run(ctx, filepath.Join(s.bin, "vn"), "stats")
	if err != nil {
		return []string{err.Error()}
	}
	_, out, _ = strings.Cut(out, "Fast path in the kernel")
	for line := range strings.Lines(out) {
		if line = strings.Join(strings.Fields(line), " "); line != "" {
			lines = append(lines, line)
		}
	}
	return lines
}

// tap makes the device of an overlay on host i.
func (s *setup) tap(ctx context.Context, i int) error {
	return s.ip(ctx, i, "tuntap", "add", "dev", overlay, "mode", "tap")
}

// plugTap puts it into the bridge.
func (s *setup) plugTap(ctx context.Context, i int) error {
	if err := s.ip(ctx, i, "link", "set", overlay, "txqueuelen", "1000"); err != nil {
		return err
	}
	return s.plug(ctx, i, overlay)
}

// copyKey gives one host's key to the other, for root only.
func copyKey(from, to string) error {
	name := filepath.Join("etc", "xen", "vnet-keys")
	if err := os.MkdirAll(filepath.Join(to, name), 0o700); err != nil {
		return err
	}
	key, err := os.ReadFile(filepath.Join(from, name, keys.DefaultName))
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(to, name, keys.DefaultName), key, 0o600)
}

// joinOpenVPN uses neither cipher nor authentication: the least that it can do per packet.
func joinOpenVPN(ctx context.Context, s *setup) error {
	return startOpenVPN(ctx, s, func(int) []string {
		return []string{"--cipher", "none", "--auth", "none", "--providers", "legacy", "default"}
	})
}

// joinOpenVPNGCM protects as conf does: AES-256-GCM, over TLS.
func joinOpenVPNGCM(ctx context.Context, s *setup) error {
	var fingerprints [2]string
	for i, h := range s.hosts {
		var err error
		if fingerprints[i], err = certificate(filepath.Join(h.Dir, "vpn")); err != nil {
			return err
		}
	}
	return startOpenVPN(ctx, s, func(i int) []string {
		pem := filepath.Join(s.hosts[i].Dir, "vpn")
		return []string{
			[2]string{"--tls-server", "--tls-client"}[i], "--dh", "none", "--cert", pem + ".crt", "--key", pem + ".key",
			"--peer-fingerprint", fingerprints[1-i], "--data-ciphers", "AES-256-GCM", "--cipher", "AES-256-GCM",
		}
	})
}

// certificate makes a key and a certificate that nobody else signs, in path.key and path.crt, and returns its fingerprint.
func certificate(path string) (string, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return "", err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "bench"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return "", err
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return "", err
	}
	err = errors.Join(
		os.WriteFile(path+".crt", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600),
		os.WriteFile(path+".key", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret}), 0o600))
	sum := sha256.Sum256(der)
	return strings.ReplaceAll(strings.TrimSuffix(fmt.Sprintf("% X", sum), " "), " ", ":"), err
}

// startOpenVPN runs it with a tap on each host, and what protects it.
func startOpenVPN(ctx context.Context, s *setup, protection func(host int) []string) error {
	for i, h := range s.hosts {
		if err := s.tap(ctx, i); err != nil {
			return err
		}
		if err := s.plugTap(ctx, i); err != nil {
			return err
		}
		err := s.start(h.Node, "openvpn", slices.Concat([]string{
			"--dev", overlay, "--dev-type", "tap", "--local", underlayAddr(i).String(),
			"--remote", underlayAddr(1 - i).String(), "--port", "1194", "--tun-mtu", strconv.Itoa(s.sc.inner), "--mssfix", "0",
			"--txqueuelen", "1000", "--log", filepath.Join(h.Dir, "openvpn.log"),
		}, protection(i))...)
		if err != nil {
			return err
		}
	}
	return nil
}

// joinTinc uses neither cipher nor digest.
func joinTinc(ctx context.Context, s *setup) error {
	public := [2]string{}
	dirs := [2]string{}
	for i, h := range s.hosts {
		dirs[i] = filepath.Join(h.Dir, "tinc")
		if err := os.MkdirAll(filepath.Join(dirs[i], "hosts"), 0o755); err != nil {
			return err
		}
		self, other := "h"+strconv.Itoa(i+1), "h"+strconv.Itoa(2-i)
		files := map[string]string{
			"tinc.conf": "Name=" + self + "\nMode=switch\nDeviceType=tap\nInterface=" + overlay + "\nDevice=/dev/net/tun\n" +
				"BindToAddress=" + underlayAddr(i).String() + "\nConnectTo=" + other + "\n",
			"hosts/" + self: "Address=" + underlayAddr(i).String() + "\nCipher=none\nDigest=none\nMACLength=0\n",
			"tinc-up":       "#!/bin/sh\nip link set " + overlay + " mtu " + strconv.Itoa(s.sc.inner) + " master " + bridge + " up\n",
		}
		for name, text := range files {
			if err := os.WriteFile(filepath.Join(dirs[i], name), []byte(text), 0o755); err != nil {
				return err
			}
		}
		key := exec.CommandContext(ctx, "tincd", "-c", dirs[i], "-K2048") // no terminal: default file names
		if out, err := key.CombinedOutput(); err != nil {
			return fmt.Errorf("tincd -K: %w: %s", err, out)
		}
		b, err := os.ReadFile(filepath.Join(dirs[i], "hosts", self))
		if err != nil {
			return err
		}
		public[i] = string(b)
	}
	for i, h := range s.hosts {
		other := "h" + strconv.Itoa(2-i)
		if err := os.WriteFile(filepath.Join(dirs[i], "hosts", other), []byte(public[1-i]), 0o644); err != nil {
			return err
		}
		if err := s.start(h.Node, "tincd", "-c", dirs[i], "-D", "--pidfile="+filepath.Join(dirs[i], "pid")); err != nil {
			return err
		}
	}
	return nil
}

// joinVDE lets no frame in before both ends listen: vde_plug ends when its other end refuses a packet.
func joinVDE(ctx context.Context, s *setup) error {
	const port = 1800
	for i, h := range s.hosts {
		if err := s.tap(ctx, i); err != nil {
			return err
		}
		err := s.start(h.Node, "vde_plug", "tap://"+overlay, fmt.Sprintf("udp://%d->%s:%d", port, underlayAddr(1-i), port))
		if err != nil {
			return err
		}
	}
	for _, h := range s.hosts {
		if err := listening(ctx, h.Node, "udp", port); err != nil {
			return err
		}
	}
	for i := range s.hosts {
		if err := s.plugTap(ctx, i); err != nil {
			return err
		}
	}
	return nil
}
