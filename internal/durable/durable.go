// Package durable keeps small files that survive whatever happens to the process or to the machine, in a directory that
// one process has at a time.
package durable

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// The endings of names that are no file's own.
const (
	corruptExt = ".corrupt"
	tmpExt     = ".tmp"
	deletedExt = ".deleted"
)

// Dir is a directory that no other process has open. What its methods change is on the disk when they return nil; a
// file is there as a whole or not at all, whenever the machine stops. They may not be called concurrently.
type Dir struct {
	path string
	ext  string
	step func(string) error
	lock *os.File
	// Mended says what was wrong with the directory and has been put right, and what is left to be put right; "" is
	// nothing.
	Mended string
}

// Open makes the directory, mode 0700, if it does not exist, and locks it; a *LockedError if another process has it.
// One that others may write to is taken from them, but for directories that are there for everybody: an error.
// Files that count end in ext. step, if not nil, is called after each step of a change, named as below; its error
// fails the change there. It is for tests.
func Open(path, ext string, step func(step string) error) (*Dir, error) {
	d := &Dir{path: path, ext: ext, step: step}
	err := makeDir(path)
	if err == nil {
		d.Mended, err = restrict(path)
	}
	if err != nil {
		return nil, fmt.Errorf("state directory: %w", err)
	}
	d.lock, err = lockDir(path)
	if err != nil {
		return nil, err
	}
	return d, nil
}

// Close unlocks the directory.
func (d *Dir) Close() error { return d.lock.Close() }

// Path returns where a file is.
func (d *Dir) Path(name string) string { return filepath.Join(d.path, name) }

// hidden is the name of a file that does not count.
func (d *Dir) hidden(name, ext string) string { return d.Path("." + name + ext) }

// done tells the test hook that a step is done.
func (d *Dir) done(step string) error {
	if d.step == nil {
		return nil
	}
	return d.step(step)
}

// Files returns the names of the files that count, in alphabetical order, after removing what a crash left: what
// was being written and not acknowledged, or acknowledged as deleted.
func (d *Dir) Files() ([]string, error) {
	entries, err := os.ReadDir(d.path)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		name := e.Name()
		switch {
		case strings.HasPrefix(name, ".") && (strings.HasSuffix(name, d.ext+tmpExt) || strings.HasSuffix(name, d.ext+deletedExt)):
			_ = os.Remove(d.Path(name)) // what can't be removed, a directory, counts no more than before
		case strings.HasPrefix(name, ".") || filepath.Ext(name) != d.ext:
			// Not ours.
		default:
			names = append(names, name)
		}
	}
	return names, nil
}

// Read reads a file, and nothing that is none: of a pipe, opening it would wait for a writer.
func (d *Dir) Read(name string) ([]byte, error) {
	path := d.Path(name)
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
	if owner, ok := info.Sys().(*syscall.Stat_t); ok && owner.Uid != 0 && int(owner.Uid) != os.Geteuid() {
		return nil, fmt.Errorf("%s belongs to user %d, who has no say here", path, owner.Uid)
	}
	return io.ReadAll(f)
}

// Put makes a new file; it is an error if there is one of that name.
func (d *Dir) Put(name string, b []byte) error {
	return d.write(name, b, renameNew, func() { os.Remove(d.Path(name)) })
}

// Replace makes a file, in the place of one of that name. After an error either of the two may be there: the caller
// that must know reads it, or replaces it again.
func (d *Dir) Replace(name string, b []byte) error {
	return d.write(name, b, os.Rename, func() {})
}

// Supersede is Replace for a file whose old content can come back: Reinstate or Discard must follow. After an error the
// old one is there.
func (d *Dir) Supersede(name string, b []byte) error {
	path, kept := d.Path(name), d.hidden(name, deletedExt)
	if err := os.Remove(kept); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	// A second name keeps it, with no moment at which it has none. One that somebody removed by hand is not missed.
	if err := os.Link(path, kept); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	err := d.done("keep")
	renamed := false
	if err == nil {
		err = d.write(name, b, os.Rename, func() { renamed = true })
	}
	switch {
	case err == nil:
		return nil
	case renamed:
		return errors.Join(err, d.Reinstate(name))
	}
	_ = d.Discard(name) // the next Files removes it
	return err
}

// Reinstate undoes Supersede. It needs no space on the disk.
func (d *Dir) Reinstate(name string) error {
	err := os.Rename(d.hidden(name, deletedExt), d.Path(name))
	if errors.Is(err, os.ErrNotExist) { // there was none
		err = os.Remove(d.Path(name))
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return errors.Join(d.done("reinstate"), SyncDir(d.path))
}

// write makes a file: a temporary file, on the disk as a whole, then its name, then the directory. undo is called
// if the last did not succeed.
func (d *Dir) write(name string, b []byte, rename func(from, to string) error, undo func()) (err error) {
	tmp, path := d.hidden(name, tmpExt), d.Path(name)
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(tmp)
		}
	}()
	if err := d.done("create"); err != nil {
		return err
	}
	if _, err := f.Write(b); err != nil {
		return err
	}
	if err := d.done("write"); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := f.Close(); err != nil { // NFS and quotas report here
		return err
	}
	if err := d.done("sync"); err != nil {
		return err
	}
	if err := rename(tmp, path); err != nil {
		return err
	}
	if err := errors.Join(d.done("rename"), SyncDir(d.path), d.done("syncdir")); err != nil {
		undo()
		return err
	}
	return nil
}

// MoveOut takes away the name by which a file counts, until MoveBack or Discard. A file that somebody removed by hand
// is not missed.
func (d *Dir) MoveOut(name string) error {
	if err := os.Rename(d.Path(name), d.hidden(name, deletedExt)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := errors.Join(d.done("delete"), SyncDir(d.path), d.done("delete-syncdir")); err != nil {
		return errors.Join(err, d.MoveBack(name))
	}
	return nil
}

// MoveBack undoes MoveOut. It needs no space on the disk.
func (d *Dir) MoveBack(name string) error {
	err := renameNew(d.hidden(name, deletedExt), d.Path(name))
	if errors.Is(err, os.ErrNotExist) { // there was none
		return nil
	}
	if err != nil {
		return err
	}
	return errors.Join(d.done("restore"), SyncDir(d.path))
}

// Discard ends what MoveOut began. A failure does no harm: the file does not count, and the next Files removes it.
func (d *Dir) Discard(name string) error {
	err := os.Remove(d.hidden(name, deletedExt))
	_ = d.done("discard") // nothing to undo
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

// SetAside renames a file that cannot be read, to a name that no file has and that ends in .corrupt, which it returns.
func (d *Dir) SetAside(name string) (string, error) {
	for n := 0; ; n++ {
		aside := name + corruptExt
		if n > 0 {
			aside = fmt.Sprintf("%s.%d", aside, n)
		}
		err := renameNew(d.Path(name), d.Path(aside))
		if errors.Is(err, os.ErrExist) {
			continue
		}
		if err == nil {
			err = SyncDir(d.path)
		}
		return aside, err
	}
}

// renameNew is rename(2) that never replaces a file.
func renameNew(from, to string) error {
	err := unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, unix.RENAME_NOREPLACE)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) {
		// A file system without the flag (NFS). The directory is locked, so only a person could
		// make the file between the two calls.
		if _, err := os.Lstat(to); err == nil {
			return &os.LinkError{Op: "rename", Old: from, New: to, Err: unix.EEXIST}
		}
		return os.Rename(from, to)
	}
	if err != nil {
		return &os.LinkError{Op: "rename", Old: from, New: to, Err: err}
	}
	return nil
}

// makeDir makes dir and what is above it, durably; dir itself is for root alone.
func makeDir(dir string) error {
	parent := filepath.Dir(dir)
	if _, err := os.Stat(dir); err != nil {
		if !errors.Is(err, os.ErrNotExist) {
			return err
		}
		if err := makeParents(parent); err != nil {
			return err
		}
		if err := os.Mkdir(dir, 0o700); err != nil {
			return err
		}
		return SyncDir(parent)
	}
	return nil
}

// public are directories that must stay as they are.
var public = []string{"/tmp", "/var/tmp", "/dev/shm", "/run/lock", "/var/lock"}

// restrict takes a directory that others may write to away from them. What they have put there already belongs to
// them, and is not read.
func restrict(dir string) (mended string, err error) {
	info, err := os.Stat(dir)
	if err != nil {
		return "", err
	}
	switch mode := info.Mode(); {
	case !info.IsDir():
		return "", &fs.PathError{Op: "open", Path: dir, Err: syscall.ENOTDIR}
	case mode.Perm()&0o022 == 0:
		return "", nil
	case slices.Contains(public, filepath.Clean(dir)):
		return "", fmt.Errorf("%s is there for everybody: choose a directory of xend's own", dir)
	default:
		if err := os.Chmod(dir, 0o700); err != nil {
			return "", fmt.Errorf("others may write to it (mode %04o), and that can't be changed: %w", mode.Perm(), err)
		}
		return fmt.Sprintf("others could write to it (mode %04o); it is root's alone now (0700)", mode.Perm()), nil
	}
}

func makeParents(dir string) error {
	if _, err := os.Stat(dir); err == nil {
		return nil
	}
	parent := filepath.Dir(dir)
	if err := makeParents(parent); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	return SyncDir(parent)
}

// SyncDir puts a directory's entries on the disk; fsync(2) says that a file's own fsync does not.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := d.Sync(); err != nil && !errors.Is(err, unix.EINVAL) { // EINVAL: the file system has nothing to sync
		return err
	}
	return nil
}

// Corrupt returns the names in a directory, which may be in use by another process or not exist, of the files that were
// set aside and that nobody has dealt with yet.
func Corrupt(dir string) ([]string, error) {
	names, err := filepath.Glob(filepath.Join(escapeGlob(dir), "*"+corruptExt+"*"))
	for i := range names {
		names[i] = filepath.Base(names[i])
	}
	return names, err
}

// escapeGlob makes a path stand for itself in a pattern.
func escapeGlob(path string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(path)
}
