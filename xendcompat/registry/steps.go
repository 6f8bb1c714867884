package registry

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/xenvnet/xend/vnet"
)

// A file's names. What begins with a dot is not a vnet: a file being written, or the file of a
// vnet that is being deleted. Both are removed when the directory is opened.
const (
	vnetExt    = ".sxp"
	corruptExt = ".corrupt"
	tmpExt     = ".tmp"
	deletedExt = ".deleted"
)

func (r *Registry) path(id vnet.ID) string { return filepath.Join(r.dir, id.FileName()+vnetExt) }

func (r *Registry) hidden(id vnet.ID, ext string) string {
	return filepath.Join(r.dir, "."+id.FileName()+vnetExt+ext)
}

// done tells the test hook that a step is done.
func (r *Registry) done(step string) error {
	if r.step == nil {
		return nil
	}
	return r.step(step)
}

// write makes e's file: a temporary file, on the disk as a whole, then its name, then the directory.
func (r *Registry) write(e entry) (err error) {
	tmp, path := r.hidden(e.config.ID, tmpExt), r.path(e.config.ID)
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
	if err := r.done("create"); err != nil {
		return err
	}
	if _, err := f.Write(encode(e)); err != nil {
		return err
	}
	if err := r.done("write"); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := f.Close(); err != nil { // NFS and quotas report here
		return err
	}
	if err := r.done("sync"); err != nil {
		return err
	}
	if err := renameNew(tmp, path); err != nil {
		return err
	}
	if err := errors.Join(r.done("rename"), syncDir(r.dir), r.done("syncdir")); err != nil {
		os.Remove(path)
		return err
	}
	return nil
}

// moveOut takes away the name by which a vnet's file counts. A file that somebody removed by hand is not
// missed.
func (r *Registry) moveOut(id vnet.ID) error {
	if err := os.Rename(r.path(id), r.hidden(id, deletedExt)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := errors.Join(r.done("delete"), syncDir(r.dir), r.done("delete-syncdir")); err != nil {
		return errors.Join(err, r.moveBack(id))
	}
	return nil
}

// moveBack undoes moveOut.
func (r *Registry) moveBack(id vnet.ID) error {
	err := renameNew(r.hidden(id, deletedExt), r.path(id))
	if errors.Is(err, os.ErrNotExist) { // there was none
		return nil
	}
	if err != nil {
		return err
	}
	return errors.Join(r.done("restore"), syncDir(r.dir))
}

// discard ends what moveOut began. A failure does no harm: the file does not count, and the next
// Open removes it.
func (r *Registry) discard(id vnet.ID) {
	if err := os.Remove(r.hidden(id, deletedExt)); err != nil && !errors.Is(err, os.ErrNotExist) {
		r.log.Warn("can't remove the file of a deleted vnet", "vnet", id, "error", err)
	}
	_ = r.done("discard") // nothing to undo
}

// setAside renames a file that cannot be read, to a name that no file has.
func (r *Registry) setAside(name string) (string, error) {
	for n := 0; ; n++ {
		aside := name + corruptExt
		if n > 0 {
			aside = fmt.Sprintf("%s.%d", aside, n)
		}
		err := renameNew(filepath.Join(r.dir, name), filepath.Join(r.dir, aside))
		if errors.Is(err, os.ErrExist) {
			continue
		}
		if err == nil {
			err = syncDir(r.dir)
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
		return syncDir(parent)
	}
	return nil
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
	return syncDir(parent)
}

// syncDir puts a directory's entries on the disk; fsync(2) says that a file's own fsync does not.
func syncDir(dir string) error {
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

// escapeGlob makes a path stand for itself in a pattern.
func escapeGlob(path string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(path)
}
