package lab

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/xenvnet/xend/xendcompat/domain"
)

// Relocation says how domains move between hosts.
//
// A migration is one TLS connection, from the host that the domain leaves to the one that it goes to. They prove to
// each other that they have the secret, each by a MAC over what only this connection has (RFC 9266, RFC 5705): nobody between
// them can pass a proof on. Then, with frames of a 32-bit length and JSON:
//
//	leaves                                      comes
//	prepare TOKEN, the domain ────────────────> makes everything of it that others don't see
//	                          <──────────────── ok
//	stops it, notes that it may leave
//	commit, its network now   ────────────────> connects it; gives its keeper the word: decided
//	destroys it               <──────────────── ok
//
// Until the word is given the domain is where it was, and everything that goes wrong there ends in its going on. Who leaves and
// has not heard what was decided keeps it stopped, and asks on a new connection (resolve TOKEN), again and again; the
// other one, if it has not given the word, never will from then on.
type Relocation struct {
	// SecretFile holds the secret that the hosts share; read each time. Only root may read it.
	SecretFile string
	// Port is that of the other hosts; 0 means 8002.
	Port int
}

// DefaultPort is xend's for relocation.
const DefaultPort = 8002

// minSecret is in bytes. Who pretends to be a server is shown a MAC, and may guess.
const minSecret = 16

// secret reads the secret.
func (r *Relocation) secret() ([]byte, error) {
	if r == nil || r.SecretFile == "" {
		return nil, errors.New("no secret is configured, so no domain can come or go ([domain] relocation_secret in vnet.toml)")
	}
	info, err := os.Stat(r.SecretFile)
	if err != nil {
		return nil, fmt.Errorf("%w; the hosts between which domains move need the same secret there: (umask 077; head -c 32 /dev/urandom | base64 >%s)", err, r.SecretFile)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("%s can be read by others than root (chmod 600)", r.SecretFile)
	}
	b, err := os.ReadFile(r.SecretFile)
	if err != nil {
		return nil, err
	}
	if b = bytes.TrimSpace(b); len(b) < minSecret {
		return nil, fmt.Errorf("%s has fewer than %d bytes", r.SecretFile, minSecret)
	}
	return b, nil
}

// Times of a migration.
const (
	dialTimeout    = 10 * time.Second
	greetTimeout   = 10 * time.Second
	prepareTimeout = 60 * time.Second // a keeper on a machine with much to do
	commitTimeout  = 60 * time.Second // and the scripts
	resolveFor     = 15 * time.Second // then the caller is told that it is uncertain
)

// message is what goes over the connection, either way.
type message struct {
	Op      string   `json:"op,omitempty"`    // prepare, commit, resolve
	Token   string   `json:"token,omitempty"` // of prepare and resolve
	Proof   []byte   `json:"proof,omitempty"`
	Image   *image   `json:"image,omitempty"`   // of prepare
	Network *network `json:"network,omitempty"` // of commit
	// Answers.
	OK       bool   `json:"ok,omitempty"`
	Decision string `json:"decision,omitempty"` // of resolve: committed, aborted
	Error    string `json:"error,omitempty"`
}

// Decisions about a migration.
const (
	committed = "committed"
	aborted   = "aborted"
)

// link is one end of a connection.
type link struct {
	conn *tls.Conn
	max  int // of what comes, in bytes
}

// maxGreeting is what somebody may send who has not proved anything.
const maxGreeting = 4 << 10

func (l *link) send(m message, timeout time.Duration) error {
	b, err := json.Marshal(m)
	if err != nil {
		return err
	}
	_ = l.conn.SetWriteDeadline(time.Now().Add(timeout))
	_, err = l.conn.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...))
	return err
}

func (l *link) receive(timeout time.Duration) (message, error) {
	var m message
	_ = l.conn.SetReadDeadline(time.Now().Add(timeout))
	return m, readMessage(l.conn, l.max, &m)
}

func readMessage(r io.Reader, most int, m *message) error {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return err
	}
	n := binary.BigEndian.Uint32(head[:])
	if int64(n) > int64(most) {
		return fmt.Errorf("a message of %d bytes, more than %d", n, most)
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(r, b); err != nil {
		return err
	}
	return json.Unmarshal(b, m)
}

// ask sends a message and returns the answer, whose error is what the other host said.
func (l *link) ask(m message, timeout time.Duration) (message, error) {
	if err := l.send(m, timeout); err != nil {
		return message{}, err
	}
	answer, err := l.receive(timeout)
	if err == nil && answer.Error != "" {
		err = &refusal{answer.Error}
	}
	return answer, err
}

// refusal is the other host's error: it has heard us, and has not done it.
type refusal struct{ text string }

func (r *refusal) Error() string { return r.text }

// certificate is made for one run: what counts is the secret.
func certificate() (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().AddDate(10, 0, 0)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, err
}

// tlsProtocol keeps others' connections out; RFC 7301.
const tlsProtocol = "xend-relocation/1"

// proof is a MAC over what only this connection has; RFC 9266 (tls-exporter).
func proof(conn *tls.Conn, secret []byte, role string) ([]byte, error) {
	state := conn.ConnectionState()
	material, err := state.ExportKeyingMaterial("EXPORTER-Channel-Binding", nil, 32)
	if err != nil {
		return nil, err
	}
	mac := hmac.New(sha256.New, secret)
	mac.Write([]byte(role))
	mac.Write(material)
	return mac.Sum(nil), nil
}

// errStranger is told to who has another secret.
var errStranger = errors.New("it has another relocation secret")

// dial connects to another host.
func (t *Toolstack) dial(ctx context.Context, o domain.MigrateOptions) (*link, error) {
	secret, err := t.o.Relocation.secret()
	if err != nil {
		return nil, err
	}
	port := o.Port
	if port == 0 {
		port = t.o.Relocation.Port
	}
	if port == 0 {
		port = DefaultPort
	}
	d := tls.Dialer{NetDialer: &net.Dialer{Timeout: dialTimeout}, Config: &tls.Config{
		MinVersion: tls.VersionTLS13, NextProtos: []string{tlsProtocol},
		InsecureSkipVerify: true, // not who signed the certificate, but who has the secret, see proof
	}}
	ctx, cancel := context.WithTimeout(ctx, dialTimeout+greetTimeout)
	defer cancel()
	var c net.Conn
	err = t.o.Host.Do(func() (err error) {
		c, err = d.DialContext(ctx, "tcp", net.JoinHostPort(o.Host, fmt.Sprint(port)))
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("%w (does xend run there, with (xend-relocation-server yes), and may this host send domains by its xend-relocation-hosts-allow?)", err)
	}
	l := &link{conn: c.(*tls.Conn), max: maxGreeting}
	if err := l.greet(secret); err != nil {
		c.Close()
		return nil, err
	}
	return l, nil
}

// greet proves to a server who we are, and has it prove the same.
func (l *link) greet(secret []byte) error {
	ours, err := proof(l.conn, secret, "client")
	if err != nil {
		return err
	}
	theirs, err := proof(l.conn, secret, "server")
	if err != nil {
		return err
	}
	answer, err := l.ask(message{Proof: ours}, greetTimeout)
	if err != nil {
		return err
	}
	if !hmac.Equal(answer.Proof, theirs) {
		return errStranger
	}
	l.max = maxSave
	return nil
}

// welcome is the server's half of greet.
func (l *link) welcome(secret []byte) error {
	theirs, err := proof(l.conn, secret, "client")
	if err != nil {
		return err
	}
	ours, err := proof(l.conn, secret, "server")
	if err != nil {
		return err
	}
	m, err := l.receive(greetTimeout)
	if err != nil {
		return err
	}
	if !hmac.Equal(m.Proof, theirs) {
		_ = l.send(message{Error: "this host has another relocation secret"}, greetTimeout)
		return errStranger
	}
	l.max = maxSave
	return l.send(message{Proof: ours}, greetTimeout)
}

func newToken() string {
	var b [16]byte
	rand.Read(b[:]) // never fails, says its documentation
	return hex.EncodeToString(b[:])
}

// checkToken keeps a token from being anything but a file's name.
func checkToken(token string) error {
	if b, err := hex.DecodeString(token); err != nil || len(b) != 16 {
		return fmt.Errorf("%q is not a token", token)
	}
	return nil
}

// Allow is a list of regular expressions, as (xend-relocation-hosts-allow '…') has them, one of which the address or the name of a
// host must match that wants to send a domain. Empty allows all, who have the secret.
type Allow []*regexp.Regexp

// ParseAllow reads one, of expressions with blanks between them.
func ParseAllow(text string) (Allow, error) {
	var list Allow
	for _, word := range strings.Fields(text) {
		r, err := regexp.Compile(word)
		if err != nil {
			return nil, err
		}
		list = append(list, r)
	}
	return list, nil
}

// lookupTimeout bounds what the DNS takes to say a host's name.
const lookupTimeout = 3 * time.Second

// admits tells whether a host may send domains. A name counts if it leads back to the address: who owns an address can give
// it any name.
func (a Allow) admits(ctx context.Context, addr net.Addr) bool {
	if len(a) == 0 {
		return true
	}
	host, _, err := net.SplitHostPort(addr.String())
	if err != nil {
		return false
	}
	matches := func(name string) bool {
		return slices.ContainsFunc(a, func(r *regexp.Regexp) bool { return r.MatchString(name) })
	}
	if matches(host) {
		return true
	}
	ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	names, _ := net.DefaultResolver.LookupAddr(ctx, host)
	for _, name := range names {
		if name = strings.TrimSuffix(name, "."); !matches(name) {
			continue
		}
		if back, err := net.DefaultResolver.LookupHost(ctx, name); err == nil && slices.Contains(back, host) {
			return true
		}
	}
	return false
}
