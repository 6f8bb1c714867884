package lab

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/xenvnet/xend/internal/hostnet"
	xlab "github.com/xenvnet/xend/internal/lab"
	"github.com/xenvnet/xend/xendcompat/domain"
)

// receiver keeps nothing.
type receiver struct{ fail error }

func (r receiver) Receive(ctx context.Context, _ domain.Config, start func(context.Context) (int, error)) error {
	if _, err := start(ctx); err != nil {
		return err
	}
	return r.fail
}

// pair is two machines whose bridges br0 are joined, besides the network between them.
type pair struct {
	a, b *machine
	stop func() // of b's server
}

func secretOf(dir string) *Relocation {
	return &Relocation{SecretFile: filepath.Join(dir, "relocation.secret")}
}

func newPair(t *testing.T) *pair {
	l := xlab.New(t)
	p := &pair{a: newMachine(t, l, "A"), b: newMachine(t, l, "B")}
	// One cable between them, a port of both bridges, over which the hosts talk, too.
	require.NoError(t, p.a.host.Net.CreateVeth(hostnet.Veth{Name: "cable", Partner: "cable", PartnerHost: p.b.host.Net}))
	for i, m := range []*machine{p.a, p.b} {
		c, err := m.host.Net.LinkByName("cable")
		require.NoError(t, err)
		require.NoError(t, m.host.Net.SetHardwareAddr(m.bridge.Index, net.HardwareAddr{2, 0, 0, 0, 0, byte(i + 1)}))
		require.NoError(t, m.host.Net.SetMaster(c.Index, m.bridge.Index))
		require.NoError(t, m.host.Net.SetUp(c.Index))
		m.address(fmt.Sprintf("10.1.0.25%d/24", i))
		require.NoError(t, os.WriteFile(secretOf(m.dir).SecretFile, []byte("0123456789abcdef0123456789abcdef\n"), 0o600))
		require.NoError(t, m.Close())
		m.open(func(o *Options) { o.Relocation = secretOf(m.dir) })
	}
	p.serve(t, receiver{})
	return p
}

const addressB = "10.1.0.251"

// serve runs b's server until stop.
func (p *pair) serve(t *testing.T, r domain.Receiver) {
	t.Helper()
	p.serveOnly(t, r, nil)
}

// serveOnly is serve for hosts that may send domains.
func (p *pair) serveOnly(t *testing.T, r domain.Receiver, allow Allow) {
	t.Helper()
	s, err := NewServer(p.b.Toolstack, r, allow)
	require.NoError(t, err)
	ln, err := listenOn(p.b.host.Net)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, ln) }()
	stopped := false
	p.stop = func() {
		if !stopped {
			stopped = true
			cancel()
			require.NoError(t, <-done)
		}
	}
	t.Cleanup(func() { p.stop() })
}

func listenOn(h *hostnet.Host) (ln net.Listener, err error) {
	err = h.Do(func() (err error) {
		ln, err = net.Listen("tcp", fmt.Sprintf("%s:%d", addressB, DefaultPort))
		return err
	})
	return ln, err
}

func TestMigrate(t *testing.T) {
	p := newPair(t)
	c := config("vm1", "00:16:3e:00:00:01", "10.1.0.1")
	c.Vifs[0].IP = nil
	c.Extra = "ip=10.1.0.1::10.1.0.250:255.255.255.0:vm1:eth0:off sysctl.net.ipv4.ip_forward=1"
	id := p.a.create(c)
	require.True(t, p.b.answers("10.1.0.1", patience))
	ping, err := p.b.host.StartPing(netip.MustParseAddr("10.1.0.1"), xlab.PingOptions{Interval: 20 * time.Millisecond})
	require.NoError(t, err)
	defer ping.Close()
	_, err = ping.Next(t.Context())
	require.NoError(t, err)
	// It knows somebody who will not answer a question.
	silent := neighbour{Address: netip.MustParseAddr("10.1.0.77"), MAC: "02:00:00:00:00:77"}
	ns := must(must(p.a.get(id)).network())
	eth := must(ns.LinkByName("eth0"))
	require.NoError(t, ns.EnsureNeighbour(hostnet.Neighbour{Index: eth.Index, Addr: silent.Address, MAC: must(net.ParseMAC(silent.MAC))}))
	ns.Close()

	// From here on nobody answers its questions; the hosts know each other.
	require.NoError(t, p.a.host.Net.EnsureNeighbour(hostnet.Neighbour{
		Index: p.a.bridge.Index, Addr: netip.MustParseAddr(addressB), MAC: net.HardwareAddr{2, 0, 0, 0, 0, 2}, Permanent: true}))
	require.NoError(t, p.b.host.Net.SetSysctl("8", "net", "ipv4", "conf", "all", "arp_ignore"))
	require.NoError(t, p.a.Migrate(t.Context(), id, c, domain.MigrateOptions{Host: addressB, Live: true}))
	list := must(p.a.List(t.Context()))
	require.Empty(t, list)
	p.a.empty()
	list = must(p.b.List(t.Context()))
	require.Len(t, list, 1)
	require.Equal(t, c.UUID, list[0].UUID)
	require.Equal(t, domain.Flags("-b----"), list[0].Flags)
	require.Equal(t, c.SXP().String(), list[0].Config.SXP().String())
	_, err = ping.Fresh(t.Context())
	require.NoError(t, err)
	t.Logf("longest gap: %s", ping.Stats().LongestGap)
	// And it finds its way to where its gateway is.
	n := must(look(must(must(p.b.get(list[0].ID)).network()), nil))
	require.Equal(t, netip.MustParseAddr("10.1.0.250"), n.Routes[0].Via)
	require.Equal(t, "1", n.Sysctls["net.ipv4.ip_forward"])
	require.Contains(t, n.Cards[0].Neighbours, silent, "who it knows it need not ask for")
}

// What the other host refuses, or can't do, leaves the domain where it is.
func TestMigrateRefused(t *testing.T) {
	p := newPair(t)
	c := config("vm1", "00:16:3e:00:00:01", "10.1.0.1")
	id := p.a.create(c)
	stays := func(want string) {
		t.Helper()
		err := p.a.Migrate(t.Context(), id, c, domain.MigrateOptions{Host: addressB})
		require.ErrorContains(t, err, want)
		require.Equal(t, domain.Flags("-b----"), p.a.status(id).Flags)
		require.Empty(t, must(p.b.List(t.Context())))
		p.b.empty()
		require.True(t, p.a.answers("10.1.0.1", patience))
	}
	p.stop()
	p.serve(t, receiver{fail: fmt.Errorf("it can't be kept here")})
	stays("it can't be kept here")

	p.stop()
	p.serve(t, receiver{})
	fail := func(step string) {
		p.b.o.Before = func(s string) error {
			if s == step {
				return fmt.Errorf("no %s", step)
			}
			return nil
		}
	}
	for _, step := range []string{"keeper", "script vif 0", "commit"} {
		fail(step)
		stays("no " + step)
	}
	fail("")
	other := secretOf(p.b.dir).SecretFile
	require.NoError(t, os.WriteFile(other, []byte("another secret of more than 16 bytes"), 0o600))
	stays("another relocation secret")
	require.NoError(t, os.Chmod(other, 0o644))
	stays("")
	require.NoError(t, os.Chmod(other, 0o600))
	require.NoError(t, os.Remove(secretOf(p.a.dir).SecretFile))
	stays("head -c 32 /dev/urandom")
	_, err := ParseAllow("(")
	require.Error(t, err)
	allow := must(ParseAllow(`^192\.0\.2\. ^10\.1\.`))
	require.True(t, allow.admits(t.Context(), &net.TCPAddr{IP: net.ParseIP("10.1.0.250"), Port: 1}))
	require.False(t, allow[:1].admits(t.Context(), &net.TCPAddr{IP: net.ParseIP("10.1.0.250"), Port: 1}))
}

// A host that (xend-relocation-hosts-allow …) does not have gets no further than to connect, whatever secret it has.
func TestMigrateHostsAllow(t *testing.T) {
	p := newPair(t)
	c := config("vm1", "00:16:3e:00:00:01", "10.1.0.1")
	id := p.a.create(c)
	p.stop()
	p.serveOnly(t, receiver{}, must(ParseAllow(`^192\.0\.2\. ^10\.1\.0\.25$`)))
	err := p.a.Migrate(t.Context(), id, c, domain.MigrateOptions{Host: addressB})
	require.ErrorContains(t, err, "xend-relocation-hosts-allow")
	require.Equal(t, domain.Flags("-b----"), p.a.status(id).Flags)
	require.Empty(t, must(p.b.List(t.Context())))
	p.b.empty()

	p.stop()
	p.serveOnly(t, receiver{}, must(ParseAllow(`^192\.0\.2\. ^10\.1\.0\.250$`)))
	require.NoError(t, p.a.Migrate(t.Context(), id, c, domain.MigrateOptions{Host: addressB}))
	require.Len(t, must(p.b.List(t.Context())), 1)
}

// Who does not speak TLS 1.3, or another protocol in it, is hung up on before anything is read, and who sends a proof
// of nothing is told that; the server goes on.
func TestRelocationStrangers(t *testing.T) {
	p := newPair(t)
	c := config("vm1", "00:16:3e:00:00:01", "10.1.0.1")
	id := p.a.create(c)
	dial := func() (conn net.Conn) {
		t.Helper()
		require.NoError(t, p.a.host.Do(func() (err error) {
			conn, err = net.Dial("tcp", net.JoinHostPort(addressB, strconv.Itoa(DefaultPort)))
			return err
		}))
		t.Cleanup(func() { conn.Close() })
		require.NoError(t, conn.SetDeadline(time.Now().Add(patience)))
		return conn
	}
	// As a peer without TLS: the answer is an alert at most, and the end.
	plain := dial()
	m := must(json.Marshal(message{Op: "prepare", Token: newToken()}))
	_, err := plain.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(m))), m...))
	require.NoError(t, err)
	answer, err := io.ReadAll(plain)
	require.NotErrorIs(t, err, os.ErrDeadlineExceeded)
	require.NotContains(t, string(answer), "{")

	for name, config := range map[string]*tls.Config{
		"TLS 1.2":          {MaxVersion: tls.VersionTLS12, NextProtos: []string{tlsProtocol}},
		"another protocol": {NextProtos: []string{"h2"}},
	} {
		config.InsecureSkipVerify = true
		require.Error(t, tls.Client(dial(), config).Handshake(), name)
	}

	// Without a word about what it wants to speak it is a stranger all the same.
	for _, protocols := range [][]string{nil, {tlsProtocol}} {
		conn := tls.Client(dial(), &tls.Config{MinVersion: tls.VersionTLS13, NextProtos: protocols, InsecureSkipVerify: true})
		require.NoError(t, conn.Handshake())
		l := &link{conn: conn, max: maxGreeting}
		_, err = l.ask(message{Proof: []byte("guessed")}, patience)
		require.ErrorContains(t, err, "another relocation secret")
	}
	require.Empty(t, must(p.b.List(t.Context())))
	require.NoError(t, p.a.Migrate(t.Context(), id, c, domain.MigrateOptions{Host: addressB}))
}

// crashMigrate is a process that is killed before step number n: "serve" takes domains in, "leave" sends one.
func crashMigrate(dir, op string, before func(string) error, arm func()) error {
	host, err := hostnet.New()
	if err != nil {
		return err
	}
	o := optionsOf(dir, host)
	o.Before, o.Relocation = before, secretOf(dir)
	t, err := Open(o)
	if err != nil {
		return err
	}
	var m *domain.Manager
	var r domain.Receiver = receiver{}
	if os.Getenv(managedEnv) != "" {
		if m, err = manager(dir, t, before); err != nil {
			return err
		}
		go func() { _ = m.Run(context.Background()) }()
		<-m.Ready()
		r = m
	}
	arm()
	if op == "serve" {
		s, err := NewServer(t, r, nil)
		if err != nil {
			return err
		}
		ln, err := listenOn(host)
		if err != nil {
			return err
		}
		fmt.Println("serving")
		go func() { _, _ = io.Copy(io.Discard, os.Stdin); os.Exit(0) }()
		return s.Serve(context.Background(), ln)
	}
	list, err := t.List(context.Background())
	if err != nil || len(list) != 1 {
		return fmt.Errorf("%v, %w", list, err)
	}
	if m != nil {
		_, err := m.Op(context.Background(), list[0].Name, "migrate", domain.Params{"destination": addressB})
		return err
	}
	return t.Migrate(context.Background(), list[0].ID, list[0].Config, domain.MigrateOptions{Host: addressB})
}

// kill -9 at each step, on each side: in the end the domain runs on exactly one host, and with Managers it is known to one.
func TestMigrateKilled(t *testing.T) {
	for name, managed := range map[string]bool{"toolstack": false, "managed": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			migrateKilled(t, managed)
		})
	}
}

func migrateKilled(t *testing.T, managed bool) {
	exe, err := os.Executable()
	require.NoError(t, err)
	// start runs one side as a process of its own.
	start := func(t *testing.T, m *machine, op string, n int) (cmd *exec.Cmd, out, errs *strings.Builder, in io.Closer) {
		cmd = m.host.Command(t.Context(), exe)
		cmd.Env = append(cmd.Env, crashEnv+"="+m.dir, "LAB_TEST_OP="+op, "LAB_TEST_STEP="+strconv.Itoa(n))
		if managed {
			cmd.Env = append(cmd.Env, managedEnv+"=1")
		}
		out, errs = &strings.Builder{}, &strings.Builder{}
		cmd.Stderr = errs
		stdin, err := cmd.StdinPipe()
		require.NoError(t, err)
		stdout, err := cmd.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, m.host.Start(cmd))
		buf := make([]byte, 64)
		if op == "serve" {
			k, err := stdout.Read(buf)
			require.NoError(t, err, errs.String())
			require.Equal(t, "serving\n", string(buf[:k]))
		}
		return cmd, out, errs, stdin
	}
	for _, side := range []string{"leave", "serve"} {
		t.Run(side, func(t *testing.T) {
			t.Parallel() // most of it is to wait
			p := newPair(t)
			p.stop()
			ran := map[string]int{}
			for n := 1; ; n++ {
				c := config("vm1", "00:16:3e:00:00:01", "10.1.0.1")
				if managed {
					p.a.manage()
					_ = must(p.a.mgr.New(t.Context(), c))
					_ = must(p.a.mgr.Op(t.Context(), "vm1", "start", nil))
					p.a.unmanage()
				} else {
					p.a.create(c)
				}
				require.NoError(t, p.a.Close())
				require.NoError(t, p.b.Close())
				stepA, stepB := n, 0
				if side == "serve" {
					stepA, stepB = 0, n
				}
				server, _, _, in := start(t, p.b, "serve", stepB)
				client, _, errs, _ := start(t, p.a, "leave", stepA)
				var errKilled error
				if side == "leave" {
					errKilled = client.Wait()
				} else {
					// Either it is killed, or the client is done with it.
					done := make(chan error, 1)
					go func() { done <- client.Wait() }()
					killed := make(chan error, 1)
					go func() { killed <- server.Wait() }()
					select {
					case errKilled = <-killed:
						p.reopenB(t, managed)
						if err := <-done; err != nil {
							require.NotContains(t, errs.String(), "may run on", "it was told")
						}
					case err := <-done:
						if err == nil {
							in.Close()
						}
						errKilled = <-killed
						p.reopenB(t, managed)
					}
				}
				p.a.open(func(o *Options) { o.Relocation = secretOf(p.a.dir) })
				if managed {
					p.a.manage()
				}
				if side == "leave" {
					// The other side still runs, and is asked.
					require.Eventually(t, func() bool {
						for _, s := range must(p.a.List(t.Context())) {
							if s.Flags == "--p---" || s.Flags == "-----d" {
								return false
							}
						}
						return true
					}, patience, 10*time.Millisecond)
					in.Close()
					require.NoError(t, server.Wait())
					p.reopenB(t, managed)
				}
				here, there := p.running(t, p.a), p.running(t, p.b)
				require.Equal(t, 1, here+there, "step %d: %d here, %d there; %v %s", n, here, there, errKilled, errs)
				ran[fmt.Sprint(here, there)]++
				if managed {
					// What became of it is told to the Manager a moment later.
					require.Eventually(t, func() bool { return p.a.records()+" "+p.b.records() == fmt.Sprint(here, there) }, patience, 10*time.Millisecond, "step %d: records %s on A, %s on B; they run: %d, %d", n, p.a.records(), p.b.records(), here, there)
				}
				for _, m := range []*machine{p.a, p.b} {
					for _, s := range must(m.List(t.Context())) {
						if managed {
							_ = must(m.mgr.Op(t.Context(), s.Name, "destroy", nil))
							_ = must(m.mgr.Op(t.Context(), s.Name, "delete", nil))
						} else {
							require.NoError(t, m.Destroy(t.Context(), s.ID))
						}
					}
					m.empty()
					m.unmanage()
				}
				p.stop()
				if errKilled == nil {
					require.Greater(t, n, 5)
					require.Len(t, ran, 2, "%v", ran)
					return
				}
			}
		})
	}
}

func (p *pair) reopenB(t *testing.T, managed bool) {
	p.b.open(func(o *Options) { o.Relocation = secretOf(p.b.dir) })
	var r domain.Receiver = receiver{}
	if managed {
		p.b.manage()
		r = p.b.mgr
	}
	p.serve(t, r)
}

// running counts domains that run; no other may be there.
func (p *pair) running(t *testing.T, m *machine) int {
	n := 0
	for _, s := range must(m.List(t.Context())) {
		require.NotEqual(t, domain.Flags("--p---"), s.Flags, "domain %d is paused", s.ID)
		n++
	}
	return n
}

func FuzzReadMessage(f *testing.F) {
	f.Add([]byte("\x00\x00\x00\x02{}"))
	f.Add([]byte("\xff\xff\xff\xff{}"))
	f.Fuzz(func(t *testing.T, b []byte) {
		var m message
		if readMessage(strings.NewReader(string(b)), maxGreeting, &m) == nil && m.Image != nil {
			_ = m.Image.Network.validate()
		}
	})
}
