package status

import (
	"bytes"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/xenvnet/xend/xendcompat/httpx"
)

// Files say who may use a listener of its own on TCP.
type Files struct {
	// Token names a file with the tokens that let somebody in, one a line; "" for none.
	Token string
	// Certificate and Key name the server's own, in PEM; "" for no TLS.
	Certificate, Key string
	// ClientCA names the file with the authorities whose certificates let somebody in, in PEM; "" for none.
	ClientCA string
	// ReadOnly lets nobody change anything.
	ReadOnly bool
}

const (
	// minToken is how many characters a token has at least, so that it can't be guessed.
	minToken = 16
	// maxFile bounds the files that are read, in bytes.
	maxFile = 1 << 20
	// session is for how long a browser is let in after a login.
	session = 12 * time.Hour
	// cookie is the name of the session's.
	cookie = "xend_session"
)

// Access lets people and programs in: those with a token, or a client's certificate. Where there is neither, everybody who
// can connect. Its methods may be called concurrently.
type Access struct {
	files   Files
	secrets atomic.Pointer[secrets]
	key     [32]byte // seals sessions and forms; of this process

	mu       sync.Mutex
	refused  int
	toldLast time.Time
}

// secrets are what was read from the files.
type secrets struct {
	tokens [][sha256.Size]byte
	tls    *tls.Config // nil without TLS
}

// OpenAccess reads the files.
func OpenAccess(f Files) (*Access, error) {
	a := &Access{files: f}
	if _, err := rand.Read(a.key[:]); err != nil {
		return nil, err
	}
	return a, a.Reload()
}

// Everybody lets in who can connect: root, where that is a unix socket.
func Everybody() *Access {
	a, err := OpenAccess(Files{})
	if err != nil {
		panic(err) // no file is read
	}
	return a
}

// Reload reads the files again. After an error all is as it was.
func (a *Access) Reload() error {
	var s secrets
	var err error
	if a.files.Token != "" {
		if s.tokens, err = readTokens(a.files.Token); err != nil {
			return fmt.Errorf("[status] token_file: %w", err)
		}
	}
	if a.files.Certificate != "" {
		if s.tls, err = readTLS(a.files); err != nil {
			return err
		}
	}
	a.secrets.Store(&s)
	return nil
}

// readFile reads a small file; one that has a secret must be root's alone. Of a pipe, opening it would wait for a writer.
func readFile(path string, secret bool) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", path)
	}
	if secret && info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("%s can be read by others (mode %04o): chmod 600 %s", path, info.Mode().Perm(), path)
	}
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(b) > maxFile {
		err = fmt.Errorf("%s is larger than %d bytes", path, maxFile)
	}
	return b, err
}

func readTokens(path string) ([][sha256.Size]byte, error) {
	b, err := readFile(path, true)
	if err != nil {
		return nil, err
	}
	tokens, err := parseTokens(b)
	if err != nil {
		return nil, fmt.Errorf("%s, %w", path, err)
	}
	if len(tokens) == 0 {
		return nil, fmt.Errorf("%s holds no token: openssl rand -hex 24 > %s", path, path)
	}
	return tokens, nil
}

// parseTokens reads tokens, one a line; empty lines and those that begin with "#" are none. Only hashes of them are kept.
func parseTokens(b []byte) ([][sha256.Size]byte, error) {
	var tokens [][sha256.Size]byte
	n := 0
	for line := range bytes.Lines(b) {
		n++
		t := bytes.TrimSpace(line)
		if len(t) == 0 || t[0] == '#' {
			continue
		}
		if len(t) < minToken {
			return nil, fmt.Errorf("line %d: the token has %d characters, and needs %d at least: openssl rand -hex 24 makes one", n, len(t), minToken)
		}
		if i := bytes.IndexFunc(t, func(r rune) bool { return r <= ' ' || r > '~' }); i >= 0 {
			return nil, fmt.Errorf("line %d: a token is made of printable ASCII characters without blanks", n)
		}
		tokens = append(tokens, sha256.Sum256(t))
	}
	return tokens, nil
}

func readTLS(f Files) (*tls.Config, error) {
	cert, err := readFile(f.Certificate, false)
	if err != nil {
		return nil, fmt.Errorf("[status] tls_cert: %w", err)
	}
	key, err := readFile(f.Key, true)
	if err != nil {
		return nil, fmt.Errorf("[status] tls_key: %w", err)
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return nil, fmt.Errorf("[status] tls_cert %s with tls_key %s: %w", f.Certificate, f.Key, err)
	}
	c := &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{pair}, NextProtos: []string{"http/1.1"}}
	if f.ClientCA == "" {
		return c, nil
	}
	pem, err := readFile(f.ClientCA, false)
	if err != nil {
		return nil, fmt.Errorf("[status] client_ca: %w", err)
	}
	c.ClientCAs = x509.NewCertPool()
	if !c.ClientCAs.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("[status] client_ca: %s holds no certificate in PEM", f.ClientCA)
	}
	c.ClientAuth = tls.VerifyClientCertIfGiven // health checks come without
	return c, nil
}

// TLS is the configuration of the listener, nil if it has none. It follows Reload.
func (a *Access) TLS() *tls.Config {
	c := a.secrets.Load().tls
	if c == nil {
		return nil
	}
	c = c.Clone()
	c.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) { return a.secrets.Load().tls, nil }
	return c
}

// Names are those of the server's certificate, by which clients may call it.
func (a *Access) Names() []string {
	c := a.secrets.Load().tls
	if c == nil || c.Certificates[0].Leaf == nil {
		return nil
	}
	return c.Certificates[0].Leaf.DNSNames
}

// Open tells whether everybody may who can connect.
func (a *Access) Open() bool { return a.files.Token == "" && a.files.ClientCA == "" }

// admits tells whether a request may look, and as whom: what its forms are sealed with.
func (a *Access) admits(r *httpx.Request, now time.Time) (who string, ok bool) {
	switch {
	case a.Open():
		return "", true
	case a.files.ClientCA != "" && r.Certificate != "":
		return "certificate " + r.Certificate, true
	case a.files.Token == "":
		return "", false
	}
	if scheme, token, found := strings.Cut(r.Header.Get("Authorization"), " "); found && strings.EqualFold(scheme, "Bearer") {
		return "token", a.knows(strings.TrimSpace(token))
	}
	if c := cookieOf(r); a.sessionValid(c, now) {
		return "session " + c, true
	}
	return "", false
}

// knows compares with every token, in a time that tells nothing.
func (a *Access) knows(token string) bool {
	sum, found := sha256.Sum256([]byte(token)), 0
	for _, t := range a.secrets.Load().tokens {
		found |= subtle.ConstantTimeCompare(sum[:], t[:])
	}
	return found == 1
}

// cookieOf returns the session's cookie.
func cookieOf(r *httpx.Request) string {
	req := http.Request{Header: r.Header}
	c, err := req.Cookie(cookie)
	if err != nil {
		return ""
	}
	return c.Value
}

// seal is the MAC of a text under this process's key.
func (a *Access) seal(kind, text string) string {
	m := hmac.New(sha256.New, a.key[:])
	m.Write([]byte(kind + "\x00" + text))
	return base64.RawURLEncoding.EncodeToString(m.Sum(nil))
}

// newSession is a cookie that is good for a while.
func (a *Access) newSession(now time.Time) string {
	until := strconv.FormatInt(now.Add(session).Unix(), 10)
	nonce := rand.Text()
	return until + "." + nonce + "." + a.sealSession(until+"."+nonce)
}

// sealSession seals the text of a session, which ends when the tokens change.
func (a *Access) sealSession(text string) string {
	for _, t := range a.secrets.Load().tokens {
		text += string(t[:])
	}
	return a.seal("session", text)
}

func (a *Access) sessionValid(c string, now time.Time) bool {
	i := strings.LastIndexByte(c, '.')
	if i < 0 || !hmac.Equal([]byte(c[i+1:]), []byte(a.sealSession(c[:i]))) {
		return false
	}
	until, _, _ := strings.Cut(c, ".")
	n, err := strconv.ParseInt(until, 10, 64)
	return err == nil && now.Unix() < n
}

// setCookie is the field that sets the session's cookie, or takes it away.
func (a *Access) setCookie(value string) string {
	c := http.Cookie{
		Name: cookie, Value: value, Path: "/", HttpOnly: true, SameSite: http.SameSiteStrictMode,
		Secure: a.files.Certificate != "", MaxAge: int(session.Seconds()),
	}
	if value == "" {
		c.MaxAge = -1
	}
	return c.String()
}

// wrong counts refusals, and says how many there were when it is time to log it: seldom.
func (a *Access) wrong(now time.Time) (n int, tell bool) {
	const every = 10 * time.Second
	a.mu.Lock()
	defer a.mu.Unlock()
	a.refused++
	if now.Sub(a.toldLast) < every {
		return 0, false
	}
	n, a.refused, a.toldLast = a.refused, 0, now
	return n, true
}
