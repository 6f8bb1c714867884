package lab

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/xenvnet/xend/xendcompat/domain"
)

// saveMagic begins a file of Save. The SHA-256 of the image follows in hexadecimal, a line feed, and the image; where processes
// come after it, as a tar archive, a blank and the image's length stand before the line feed.
const saveMagic = "xend lab domain 1 "

// maxSave bounds what is read of a file, or taken from another host, in bytes.
const maxSave = 4 << 20

// image is a domain on its way: to a file, or to another host. Without processes behind it the program starts anew.
type image struct {
	Config  configText `json:"config"`
	Network network    `json:"network"`
	// Processes says that they follow.
	Processes bool `json:"processes,omitempty"`
	// Paused says that it was, and shall be.
	Paused bool `json:"paused,omitempty"`
}

func (m image) encode() ([]byte, error) {
	body, err := json.Marshal(m)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(body)
	head := saveMagic + hex.EncodeToString(sum[:])
	if m.Processes {
		head += fmt.Sprintf(" %d", len(body))
	}
	return append([]byte(head+"\n"), body...), nil
}

func decodeImage(b []byte) (image, error) {
	m, rest, err := cutImage(bytes.NewReader(b))
	if err != nil {
		return m, err
	}
	if n, err := io.Copy(io.Discard, rest); err != nil || n > 0 && !m.Processes {
		return m, errors.Join(errors.New("something follows it"), err)
	}
	return m, nil
}

// cutImage reads an image; its processes, if it has any, are what comes after it.
func cutImage(r io.Reader) (m image, rest *bufio.Reader, err error) {
	const maxLine = 256
	rest = bufio.NewReaderSize(r, maxLine)
	line, err := rest.ReadSlice('\n')
	text, ok := strings.CutPrefix(string(line), saveMagic)
	if err != nil || !ok {
		return m, nil, errors.New("not a domain that the lab toolstack saved")
	}
	digest, length, processes := strings.Cut(strings.TrimSuffix(text, "\n"), " ")
	most := maxSave + 1
	if processes {
		if most, err = strconv.Atoi(length); err != nil || most < 0 || most > maxSave {
			return m, nil, errors.New("damaged: its first line is another")
		}
	}
	body, err := io.ReadAll(io.LimitReader(rest, int64(most)))
	if err != nil {
		return m, nil, err
	}
	if len(body) > maxSave {
		return m, nil, fmt.Errorf("longer than %d bytes", maxSave)
	}
	if m, err = parseImage(digest, body); err == nil && m.Processes != processes {
		err = errors.New("damaged: it does not say what follows")
	}
	return m, rest, err
}

func parseImage(digest string, body []byte) (image, error) {
	var m image
	sum := sha256.Sum256(body)
	if digest != hex.EncodeToString(sum[:]) {
		return m, errors.New("damaged: its checksum is another")
	}
	if err := json.Unmarshal(body, &m); err != nil {
		return m, err
	}
	if m.Config.Name == "" || m.Config.UUID == "" {
		return m, errors.New("it has no configuration")
	}
	return m, m.Network.validate()
}

// Save writes a domain to a file and ends it.
func (t *Toolstack) Save(ctx context.Context, id int, c domain.Config, file string) (err error) {
	g, release, err := t.takeAlive(ctx, id)
	if err != nil {
		return err
	}
	defer release()
	if _, err := os.Lstat(file); err == nil {
		return &os.PathError{Op: "save", Path: file, Err: os.ErrExist}
	}
	was := g.paused
	processes, err := t.dumpProcesses(ctx, g)
	if err != nil {
		return err
	}
	dir := filepath.Join(g.dir, processesDir)
	defer func() {
		if err != nil && processes { // criu left them stopped
			err = errors.Join(err, g.freeze(false), g.order(ctx, "thaw"), os.RemoveAll(dir))
			if was {
				err = errors.Join(err, g.freeze(true))
			}
		}
		if err != nil && !was {
			err = errors.Join(err, g.resume())
		}
	}()
	m, err := t.still(g, c)
	if err != nil {
		return err
	}
	m.Paused, m.Processes = was, processes
	b, err := m.encode()
	if err != nil {
		return err
	}
	if err := writeNew(file, func(w io.Writer) error {
		if _, err := w.Write(b); err != nil || !processes {
			return err
		}
		return packProcesses(w, dir)
	}); err != nil {
		return err
	}
	if err := t.destroy(ctx, g); err != nil {
		return errors.Join(err, os.Remove(file))
	}
	return nil
}

// dumpProcesses has the processes of a domain written to its directory and left stopped, where criu is; false where they are not.
func (t *Toolstack) dumpProcesses(ctx context.Context, g *guest) (bool, error) {
	if len(g.rec.Kernel) == 0 {
		return false, nil
	}
	command, why := t.criu.find(ctx)
	if why != nil {
		t.o.Log.Warn("a saved domain keeps its network; its program starts anew when it is restored", "name", g.rec.Name, "program", g.rec.Kernel[0], "reason", why)
		return false, nil
	}
	// It sends nothing from now on; to be dumped by its first process, it must not be frozen.
	err := errors.Join(g.silence(true), g.freeze(false))
	if err == nil {
		err = g.orderWithin(ctx, "dump "+command, criuTimeout)
	}
	if err == nil {
		return true, nil
	}
	if g.paused {
		err = errors.Join(err, g.freeze(true))
	} else {
		err = errors.Join(err, g.resume())
	}
	err = errors.Join(err, os.RemoveAll(filepath.Join(g.dir, processesDir)))
	if strings.Contains(err.Error(), noProgram) { // one that was made paused, and has not begun, for one
		t.o.Log.Warn("a saved domain keeps its network; its program starts anew when it is restored", "name", g.rec.Name, "program", g.rec.Kernel[0], "reason", err)
		return false, nil
	}
	return false, fmt.Errorf("domain %s goes on, its processes can't be saved: %w", g.rec.Name, err)
}

// still stops a domain, without a mark that would outlive xend, and reads what it is like.
func (t *Toolstack) still(g *guest, c domain.Config) (image, error) {
	ns, err := g.network()
	if err != nil {
		return image{}, err
	}
	defer ns.Close()
	if err := errors.Join(g.silence(true), g.freeze(true)); err != nil {
		return image{}, errors.Join(err, g.resume())
	}
	n, err := look(ns, g.rec.Network.Sysctls)
	if err != nil {
		return image{}, errors.Join(err, g.resume())
	}
	return image{Config: configText(c), Network: n}, nil
}

// resume takes still back.
func (g *guest) resume() error {
	if g.paused {
		return nil
	}
	return errors.Join(g.freeze(false), g.silence(false))
}

// writeNew makes a file that is there whole or not at all, and was not there before.
func writeNew(path string, write func(io.Writer) error) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".save-*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	if err = write(f); err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Link(f.Name(), path); err != nil {
		return &os.PathError{Op: "save", Path: path, Err: errors.Unwrap(err)}
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.Sync()
}

// Restore starts the domain that Save wrote.
func (t *Toolstack) Restore(ctx context.Context, file string, o domain.CreateOptions, admit func(domain.Config) error) (int, domain.Config, error) {
	f, err := openSaved(file)
	if err != nil {
		return 0, domain.Config{}, fmt.Errorf("%s: %w", file, err)
	}
	defer f.Close()
	m, processes, err := cutImage(f)
	if err != nil {
		return 0, domain.Config{}, fmt.Errorf("%s: %w", file, err)
	}
	c, command := domain.Config(m.Config), ""
	if m.Processes {
		if err := checkOwner(f); err != nil {
			return 0, c, err
		}
		if command, err = t.criu.find(ctx); err != nil {
			return 0, c, fmt.Errorf("%s holds the processes of domain %s, and they can't be restored here: %w; 'xm create' starts it anew", file, c.Name, err)
		}
	}
	if err := admit(c); err != nil {
		return 0, c, err
	}
	e, err := t.prepare(ctx, c, m.Network, "", command)
	if err != nil {
		return 0, c, err
	}
	if m.Processes {
		if err := unpackProcesses(processes, filepath.Join(e.dir, processesDir)); err != nil {
			return 0, c, errors.Join(fmt.Errorf("%s: %w", file, err), e.abort())
		}
	}
	id, err := t.bringUp(ctx, e, o.Paused || m.Paused)
	return id, c, err
}

// checkOwner lets through what nobody but root has written: processes in a file are run as root.
func checkOwner(f *os.File) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return os.NewSyscallError("fstat", err)
	}
	switch {
	case st.Uid != 0:
		return fmt.Errorf("%s holds processes, and belongs to user %d: only what root has saved is run (chown root)", f.Name(), st.Uid)
	case st.Mode&0o022 != 0:
		return fmt.Errorf("%s holds processes, and others than root can write it: only what root alone can change is run (chmod go-w)", f.Name())
	}
	return nil
}

// openSaved opens a regular file.
func openSaved(file string) (*os.File, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, errors.Unwrap(err)
	}
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		f.Close()
		return nil, errors.New("not a regular file")
	}
	return f, nil
}
