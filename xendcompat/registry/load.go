package registry

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	"github.com/xenvnet/xend/internal/vnetfile"
	"github.com/xenvnet/xend/vnet"
)

// load reads all files and sets aside what cannot be one of a vnet.
func (r *Registry) load() error {
	files, err := r.dir.Files()
	if err != nil {
		return err
	}
	var found []vnetfile.File
	for _, name := range files {
		e, err := r.read(name)
		var newer *vnetfile.FormatError
		if errors.As(err, &newer) {
			return err
		}
		if err != nil {
			r.reject(name, err)
			continue
		}
		found = append(found, e)
	}
	// A file that was written by hand, which has no number, takes no device away from a vnet that has it.
	slices.SortFunc(found, func(a, b vnetfile.File) int {
		return cmp.Or(cmp.Compare(a.Number-1, b.Number-1), a.Config.ID.Compare(b.Config.ID))
	})
	devices := map[string]string{} // whose they are
	found = slices.DeleteFunc(found, func(e vnetfile.File) bool {
		err := claim(devices, e.Config)
		if err != nil {
			r.reject(vnetfile.Name(e.Config.ID), err)
		}
		return err != nil
	})
	slices.SortFunc(found, func(a, b vnetfile.File) int {
		return cmp.Or(cmp.Compare(a.Number, b.Number), a.Config.ID.Compare(b.Config.ID))
	})
	for _, e := range found {
		if n := len(r.order); n > 0 && e.Number <= r.last {
			e.Number = r.last + 1 // without a number of its own, or with somebody else's
		}
		r.addLocked(e)
	}
	return nil
}

// claim notes the vnet's devices as its own, if no other has them.
func claim(devices map[string]string, c vnet.Config) error {
	for _, name := range []string{c.Bridge, c.Vnetif} {
		if owner, ok := devices[name]; ok {
			return fmt.Errorf("device %s belongs to vnet %s already", name, owner)
		}
	}
	devices[c.Bridge], devices[c.Vnetif] = c.IDText, c.IDText
	return nil
}

// reject sets a file aside and says so.
func (r *Registry) reject(name string, why error) {
	aside, err := r.dir.SetAside(name)
	if err != nil {
		r.log.Error("a vnet's file can't be used, nor renamed; its vnet is not there", "file", r.dir.Path(name), "reason", why, "error", err)
		return
	}
	r.log.Error("a vnet's file can't be used and was set aside; its vnet is not there", "file", r.dir.Path(aside), "reason", why)
}

// read reads a vnet's file.
func (r *Registry) read(name string) (vnetfile.File, error) {
	b, err := r.dir.Read(name)
	if err != nil {
		return vnetfile.File{}, err
	}
	e, err := vnetfile.Decode(b)
	var newer *vnetfile.FormatError
	if errors.As(err, &newer) {
		newer.Path = r.dir.Path(name)
	}
	if err != nil {
		return vnetfile.File{}, err
	}
	if want := vnetfile.Name(e.Config.ID); name != want {
		return vnetfile.File{}, fmt.Errorf("it holds vnet %s, whose file is %s", e.Config.IDText, want)
	}
	return e, nil
}
