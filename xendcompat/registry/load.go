package registry

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	"github.com/xenvnet/xend/vnet"
)

// load reads all files and sets aside what cannot be one of a vnet.
func (r *Registry) load() error {
	files, err := r.dir.Files()
	if err != nil {
		return err
	}
	var found []entry
	for _, name := range files {
		e, err := r.read(name)
		var newer *FormatError
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
	slices.SortFunc(found, func(a, b entry) int {
		return cmp.Or(cmp.Compare(a.number-1, b.number-1), a.config.ID.Compare(b.config.ID))
	})
	devices := map[string]string{} // whose they are
	found = slices.DeleteFunc(found, func(e entry) bool {
		err := claim(devices, e.config)
		if err != nil {
			r.reject(fileName(e.config.ID), err)
		}
		return err != nil
	})
	slices.SortFunc(found, func(a, b entry) int {
		return cmp.Or(cmp.Compare(a.number, b.number), a.config.ID.Compare(b.config.ID))
	})
	for _, e := range found {
		if n := len(r.order); n > 0 && e.number <= r.last {
			e.number = r.last + 1 // without a number of its own, or with somebody else's
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
func (r *Registry) read(name string) (entry, error) {
	b, err := r.dir.Read(name)
	if err != nil {
		return entry{}, err
	}
	e, err := decode(b)
	var newer *FormatError
	if errors.As(err, &newer) {
		newer.Path = r.dir.Path(name)
	}
	if err != nil {
		return entry{}, err
	}
	if want := fileName(e.config.ID); name != want {
		return entry{}, fmt.Errorf("it holds vnet %s, whose file is %s", e.config.IDText, want)
	}
	return e, nil
}
