// Package keys has the key files of vnets with security auth or conf: a folder that only root can read, with one file per
// vnet or one for all that have none of their own. Copying the folder to another host is all that sharing takes.
package keys

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/xenvnet/xend/dataplane/esp"
	"github.com/xenvnet/xend/internal/durable"
	"github.com/xenvnet/xend/vnet"
)

const (
	// DefaultName is the file for vnets that have none of their own.
	DefaultName = "default.key"
	ext         = ".key"
	// maxLen bounds a key file, in bytes.
	maxLen = 64 << 10
)

// Set is what a key file holds.
type Set struct {
	// File is where it was found.
	File string
	// Secrets all open what others have sealed; Secrets[Send] seals. In the order of the file.
	Secrets []esp.Secret
	Send    int
}

// Error says what is wrong with a key file or its folder, and what helps.
type Error struct {
	Path string
	Err  error
	Cure string // "" where there is nothing more to say
}

func (e *Error) Error() string {
	text := e.Path + ": " + e.Err.Error()
	if e.Cure != "" {
		text += "; the cure: " + e.Cure
	}
	return text
}

// Unwrap returns what is wrong.
func (e *Error) Unwrap() error { return e.Err }

// ErrNone is the error for a vnet that has no key file.
var ErrNone = errors.New("there is no key")

// Name is the name of a vnet's own key file: its id with dashes.
func Name(id vnet.ID) string { return strings.ReplaceAll(id.String(), ":", "-") + ext }

// Load reads the keys of a vnet: its own file, or else the default one. A file or folder that others than root can read or
// have made is refused. The error is an *Error.
func Load(dir string, id vnet.ID) (Set, error) {
	root, err := openDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return Set{}, none(dir, id)
	}
	if err != nil {
		return Set{}, err
	}
	defer root.Close()
	for _, name := range []string{Name(id), DefaultName} {
		b, err := read(root, name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		path := filepath.Join(dir, name)
		if err != nil {
			return Set{}, wrap(path, err)
		}
		s, err := Parse(b)
		if err != nil {
			return Set{}, wrap(path, err)
		}
		s.File = path
		return s, nil
	}
	return Set{}, none(dir, id)
}

func none(dir string, id vnet.ID) error {
	return &Error{dir, fmt.Errorf("%w for vnet %s", ErrNone, id), fmt.Sprintf(
		"'vn key-generate %s' makes one, 'vn key-generate' one for all vnets that have none of their own; or copy the folder of a host that has it", id)}
}

func wrap(path string, err error) error {
	var e *Error
	if errors.As(err, &e) {
		return err
	}
	return &Error{Path: path, Err: err}
}

// openDir opens the folder if only root can look into it.
func openDir(dir string) (*os.Root, error) {
	info, err := os.Lstat(dir)
	if err != nil {
		var path *fs.PathError
		if errors.As(err, &path) {
			err = path.Err
		}
		return nil, &Error{Path: dir, Err: err}
	}
	switch {
	case info.Mode()&fs.ModeSymlink != 0:
		return nil, &Error{dir, errors.New("it is a symbolic link"), "name the folder itself as key_dir in vnet.toml"}
	case !info.IsDir():
		return nil, &Error{Path: dir, Err: errors.New("it is no directory")}
	}
	if err := private(dir, info, 0o700); err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, &Error{Path: dir, Err: err}
	}
	if now, err := root.Stat("."); err != nil || !os.SameFile(info, now) {
		_ = root.Close()
		return nil, &Error{Path: dir, Err: errors.New("it was replaced meanwhile")}
	}
	return root, nil
}

// private reports what lets others at a file or folder.
func private(path string, info fs.FileInfo, mode fs.FileMode) error {
	if s, ok := info.Sys().(*syscall.Stat_t); !ok || s.Uid != 0 {
		return &Error{path, errors.New("it does not belong to root"), "look who made it, make new keys if in doubt, and chown root " + path}
	}
	if info.Mode().Perm()&0o077 != 0 {
		return &Error{path, fmt.Errorf("others than root have access to it (mode %04o)", info.Mode().Perm()),
			fmt.Sprintf("chmod %o %s, and new keys if somebody may have read these", mode, path)}
	}
	return nil
}

// read reads a key file that only root can read, and that is no link.
func read(root *os.Root, name string) ([]byte, error) {
	path := filepath.Join(root.Name(), name)
	info, err := root.Lstat(name)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, &Error{path, errors.New("it is no regular file"), "put a copy there, not a link"}
	}
	if s, ok := info.Sys().(*syscall.Stat_t); ok && s.Nlink > 1 {
		return nil, &Error{path, errors.New("it has a second name (a hard link)"), "put a copy there, not a link"}
	}
	if err := private(path, info, 0o600); err != nil {
		return nil, err
	}
	f, err := root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if now, err := f.Stat(); err != nil || !os.SameFile(info, now) {
		return nil, &Error{Path: path, Err: errors.New("it was replaced meanwhile")}
	}
	b, err := io.ReadAll(io.LimitReader(f, maxLen+1))
	if err == nil && len(b) > maxLen {
		err = fmt.Errorf("it is longer than %d bytes", maxLen)
	}
	return b, err
}

// Parse reads the text of a key file: lines "key HEX" and one "send HEX", of 64 hexadecimal digits; # begins a
// comment.
func Parse(b []byte) (Set, error) {
	s := Set{Send: -1}
	lines := bufio.NewScanner(bytes.NewReader(b))
	for n := 1; lines.Scan(); n++ {
		text, _, _ := strings.Cut(lines.Text(), "#")
		words := strings.Fields(text)
		if len(words) == 0 {
			continue
		}
		// What stands there may be a key: errors never quote it.
		if len(words) != 2 || words[0] != "key" && words[0] != "send" {
			return Set{}, fmt.Errorf("line %d is neither 'key HEX' nor 'send HEX'", n)
		}
		var secret esp.Secret
		if k, err := hex.Decode(secret[:], []byte(words[1][:min(len(words[1]), 2*len(secret))])); err != nil || k != len(secret) || len(words[1]) != 2*len(secret) {
			return Set{}, fmt.Errorf("line %d: a key is 64 hexadecimal digits", n)
		}
		switch {
		case secret == esp.Secret{}:
			return Set{}, fmt.Errorf("line %d: a key of zeros is none", n)
		case slices.Contains(s.Secrets, secret):
			return Set{}, fmt.Errorf("line %d: the key stands there twice", n)
		case len(s.Secrets) == esp.MaxKeys:
			return Set{}, fmt.Errorf("line %d: more than %d keys", n, esp.MaxKeys)
		}
		if words[0] == "send" {
			if s.Send >= 0 {
				return Set{}, fmt.Errorf("line %d: a second 'send': only one key can be used to send; make the others 'key'", n)
			}
			s.Send = len(s.Secrets)
		}
		s.Secrets = append(s.Secrets, secret)
	}
	switch {
	case lines.Err() != nil:
		return Set{}, lines.Err()
	case len(s.Secrets) == 0:
		return Set{}, errors.New("there is no key in it")
	case s.Send < 0:
		return Set{}, errors.New("no line says 'send': write that instead of 'key' in front of the key to send with")
	}
	return s, nil
}

// text writes a set as a key file.
func (s Set) text(id *vnet.ID) []byte {
	var b bytes.Buffer
	of := "all vnets that have no key file of their own"
	if id != nil {
		of = "vnet " + id.String()
	}
	fmt.Fprintf(&b, "# Key of %s. Who has it is in: for root only.\n", of)
	fmt.Fprintln(&b, "# All keys open what other hosts send; the one with 'send' is used to send.")
	for i, k := range s.Secrets {
		word := "key"
		if i == s.Send {
			word = "send"
		}
		fmt.Fprintf(&b, "%s %x\n", word, k[:])
	}
	return b.Bytes()
}

// newSecret makes a key.
func newSecret() esp.Secret {
	var s esp.Secret
	_, _ = rand.Read(s[:]) // never fails
	return s
}

// Generate makes the key file of a vnet, or with nil the default one, and the folder if it is not there. A file that is there
// is never overwritten. It returns the file's name.
func Generate(dir string, id *vnet.ID) (string, error) {
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return "", err
	}
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", err
	}
	root, err := openDir(dir)
	if err != nil {
		return "", err
	}
	defer root.Close()
	path := fileOf(dir, id)
	err = put(path, Set{Secrets: []esp.Secret{newSecret()}}.text(id), os.Link)
	if errors.Is(err, fs.ErrExist) {
		return "", &Error{path, errors.New("it is there already, and is not overwritten"),
			"'vn key-rotate' changes a key without loss; or remove the file, and all hosts lose each other until they have the new one"}
	}
	return path, err
}

func fileOf(dir string, id *vnet.ID) string {
	if id == nil {
		return filepath.Join(dir, DefaultName)
	}
	return filepath.Join(dir, Name(*id))
}

// put writes a file for root only: whole or not at all.
func put(path string, text []byte, place func(from, to string) error) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(text)
	if err == nil {
		err = f.Sync()
	}
	if e := f.Close(); err == nil {
		err = e
	}
	if err == nil {
		err = place(f.Name(), path)
	}
	if err != nil {
		return err
	}
	return durable.SyncDir(filepath.Dir(path))
}

// Step is a step of a rotation.
type Step string

// The steps, in their order. Each is done on all hosts before the next.
const (
	Add    Step = "add"    // a new key, which opens what others send
	Use    Step = "use"    // the new key sends
	Remove Step = "remove" // all other keys go
)

// Current returns what the key file of a vnet holds, or with nil the default one.
func Current(dir string, id *vnet.ID) (Set, error) {
	root, err := openDir(dir)
	if err != nil {
		return Set{}, err
	}
	defer root.Close()
	path := fileOf(dir, id)
	b, err := read(root, filepath.Base(path))
	if errors.Is(err, fs.ErrNotExist) {
		return Set{}, &Error{path, ErrNone, "'vn key-generate' makes one"}
	}
	if err != nil {
		return Set{}, wrap(path, err)
	}
	s, err := Parse(b)
	if err != nil {
		return Set{}, wrap(path, err)
	}
	s.File = path
	return s, nil
}

// Rotate does a step of a rotation in the key file of a vnet, or with nil in the default one. It returns the
// file's new contents.
func Rotate(dir string, id *vnet.ID, step Step) (Set, error) {
	s, err := Current(dir, id)
	if err != nil {
		return Set{}, err
	}
	path, last := s.File, len(s.Secrets)-1
	switch step {
	case Add:
		if s.Send != last {
			return s, &Error{path, errors.New("it has a key already that is not used yet: the last one"), "spread it and go on with 'use'"}
		}
		if len(s.Secrets) == esp.MaxKeys {
			return s, &Error{path, fmt.Errorf("it has %d keys, which is the most", esp.MaxKeys), "'remove' first"}
		}
		s.Secrets = append(s.Secrets, newSecret())
	case Use:
		if s.Send == last {
			return s, &Error{path, errors.New("the last key is the one that is used"), "begin with 'add'"}
		}
		s.Send = last
	case Remove:
		if s.Send != last || last == 0 {
			return s, &Error{path, errors.New("there is no key before the one that is used, or one that is not used yet"), "'add' and 'use' come before 'remove'"}
		}
		s.Secrets, s.Send = s.Secrets[last:], 0
	default:
		return s, fmt.Errorf("step %q is none of add, use and remove", step)
	}
	return s, put(path, s.text(id), os.Rename)
}
