package lab

import (
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

	"github.com/xenvnet/xend/xendcompat/domain"
)

// saveMagic begins a file of Save. The SHA-256 of the rest follows in hexadecimal, and a line feed.
const saveMagic = "xend lab domain 1 "

// maxSave bounds what is read of a file, or taken from another host, in bytes.
const maxSave = 4 << 20

// image is a domain on its way: to a file, or to another host. Of its processes it says nothing: the program starts anew.
type image struct {
	Config  configText `json:"config"`
	Network network    `json:"network"`
	// Paused says that it was, and shall be.
	Paused bool `json:"paused,omitempty"`
}

func (m image) encode() ([]byte, error) {
	body, err := json.Marshal(m)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(body)
	return append([]byte(saveMagic+hex.EncodeToString(sum[:])+"\n"), body...), nil
}

func decodeImage(b []byte) (image, error) {
	var m image
	rest, ok := bytes.CutPrefix(b, []byte(saveMagic))
	if !ok {
		return m, errors.New("not a domain that the lab toolstack saved")
	}
	line, body, ok := bytes.Cut(rest, []byte("\n"))
	sum := sha256.Sum256(body)
	if !ok || string(line) != hex.EncodeToString(sum[:]) {
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
	m, err := t.still(g, c)
	if err != nil {
		return err
	}
	m.Paused = was
	defer func() {
		if err != nil && !was {
			err = errors.Join(err, g.resume())
		}
	}()
	b, err := m.encode()
	if err != nil {
		return err
	}
	if err := writeNew(file, b); err != nil {
		return err
	}
	if len(g.rec.Kernel) > 0 {
		t.o.Log.Warn("a saved domain keeps its network; its program starts anew when it is restored", "name", g.rec.Name, "program", g.rec.Kernel[0])
	}
	if err := t.destroy(ctx, g); err != nil {
		return errors.Join(err, os.Remove(file))
	}
	return nil
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
func writeNew(path string, b []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".save-*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(b)
	if err == nil {
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
	m, err := readImage(file)
	if err != nil {
		return 0, domain.Config{}, fmt.Errorf("%s: %w", file, err)
	}
	c := domain.Config(m.Config)
	if err := admit(c); err != nil {
		return 0, c, err
	}
	e, err := t.prepare(ctx, c, m.Network, "")
	if err != nil {
		return 0, c, err
	}
	id, err := t.bringUp(ctx, e, o.Paused || m.Paused)
	return id, c, err
}

func readImage(file string) (image, error) {
	f, err := os.Open(file)
	if err != nil {
		return image{}, errors.Unwrap(err)
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return image{}, errors.New("not a regular file")
	}
	b, err := io.ReadAll(io.LimitReader(f, maxSave+1))
	if err != nil {
		return image{}, err
	}
	if len(b) > maxSave {
		return image{}, fmt.Errorf("longer than %d bytes", maxSave)
	}
	return decodeImage(b)
}
