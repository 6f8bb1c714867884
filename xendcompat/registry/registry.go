// Package registry keeps the persistent set of vnets: what should exist. It knows files, and no
// devices.
//
// The directory holds a file for each vnet, named by its id and readable by people, the version of
// its format, and a lock. A change is on the disk, name and contents, before it is acknowledged: a
// file is there as a whole or not at all, whenever the machine stops.
package registry

import (
	"cmp"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/xenvnet/xend/internal/durable"
	"github.com/xenvnet/xend/internal/vnetfile"
	"github.com/xenvnet/xend/vnet"
)

// Options say where a registry is.
type Options struct {
	// Dir is made, mode 0700, if it does not exist.
	Dir string
	// Log may be nil.
	Log *slog.Logger
	// Step, if not nil, is called after each step of a change, named as in package durable; its error
	// fails the change there. It is for tests.
	Step func(step string) error
}

// Registry is an open directory, which no other process has open. Its methods may be called
// concurrently.
type Registry struct {
	dir *durable.Dir
	at  string // where it is
	log *slog.Logger

	mu      sync.RWMutex
	entries map[vnet.ID]vnetfile.File
	order   []vnet.ID // by number
	last    uint64    // the highest number given so far
}

// Open locks the directory and reads it. What cannot be read is set aside under a name that ends in
// .corrupt, and logged; see Corrupt. Open fails with a *durable.LockedError if another process has the
// directory, and with a *vnetfile.FormatError if it was written by a newer release.
func Open(o Options) (*Registry, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	r := &Registry{at: o.Dir, log: o.Log, entries: map[vnet.ID]vnetfile.File{}}
	var err error
	if r.dir, err = durable.Open(o.Dir, vnetfile.Ext, o.Step); err != nil {
		return nil, err
	}
	if r.dir.Mended != "" {
		r.log.Warn("state directory: "+r.dir.Mended, "dir", o.Dir)
	}
	if err := r.open(); err != nil {
		_ = r.dir.Close() // the other error says more
		return nil, err
	}
	return r, nil
}

func (r *Registry) open() error {
	if err := r.checkFormat(); err != nil {
		return err
	}
	if err := r.load(); err != nil {
		return fmt.Errorf("read state directory: %w", err)
	}
	return nil
}

// Close unlocks the directory. The registry must not be used afterwards.
func (r *Registry) Close() error { return r.dir.Close() }

// List returns the vnets in the order of their creation.
func (r *Registry) List() []vnet.Config {
	r.mu.RLock()
	defer r.mu.RUnlock()
	list := make([]vnet.Config, len(r.order))
	for i, id := range r.order {
		list[i] = r.entries[id].Config
	}
	return list
}

// Get returns the vnet with that id.
func (r *Registry) Get(id vnet.ID) (vnet.Config, bool) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	e, ok := r.entries[id]
	return e.Config, ok
}

// Len is the number of vnets.
func (r *Registry) Len() int {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return len(r.order)
}

// Corrupt returns the names of the files that were set aside, by this daemon or an earlier one, and
// that nobody has dealt with yet.
func (r *Registry) Corrupt() []string {
	list, err := CorruptFiles(r.at)
	if err != nil {
		r.log.Error("can't list the state directory", "dir", r.at, "error", err)
	}
	return list
}

// CorruptFiles is Corrupt for a directory that may be in use by another process, or not exist.
func CorruptFiles(dir string) ([]string, error) { return durable.Corrupt(dir) }

// Put adds a vnet, whose id must be new. When it returns nil the vnet is on the disk; after an error
// it is not.
func (r *Registry) Put(c vnet.Config) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, ok := r.entries[c.ID]; ok {
		return fmt.Errorf("vnet %s is in the registry already", c.ID)
	}
	e := vnetfile.File{Config: c, Number: r.last + 1, Created: time.Now().UTC().Truncate(time.Second)}
	if err := r.dir.Put(vnetfile.Name(e.Config.ID), vnetfile.Encode(e)); err != nil {
		return fmt.Errorf("store vnet %s: %w", c.IDText, err)
	}
	r.addLocked(e)
	return nil
}

// addLocked takes e into memory. mu is held.
func (r *Registry) addLocked(e vnetfile.File) {
	id := e.Config.ID
	r.entries[id] = e
	r.last = max(r.last, e.Number)
	at, _ := slices.BinarySearchFunc(r.order, e.Number, func(id vnet.ID, number uint64) int {
		return cmp.Compare(r.entries[id].Number, number)
	})
	r.order = slices.Insert(r.order, at, id)
}

// Deletion is a vnet that was taken out of the registry and can be put back. One of its methods must
// be called, once.
type Deletion struct {
	r *Registry
	e vnetfile.File
}

// Delete takes a vnet out. When it returns nil the vnet is gone for good, from the disk too, unless
// Restore is called; after an error it is still there.
func (r *Registry) Delete(id vnet.ID) (*Deletion, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	e, ok := r.entries[id]
	if !ok {
		return nil, fmt.Errorf("vnet %s is not in the registry", id)
	}
	if err := r.dir.MoveOut(vnetfile.Name(id)); err != nil {
		return nil, fmt.Errorf("delete vnet %s: %w", e.Config.IDText, err)
	}
	delete(r.entries, id)
	r.order = slices.DeleteFunc(r.order, func(o vnet.ID) bool { return o == id })
	return &Deletion{r, e}, nil
}

// Restore puts the vnet back to its old place. It needs no space on the disk.
func (d *Deletion) Restore() error {
	d.r.mu.Lock()
	defer d.r.mu.Unlock()
	if err := d.r.dir.MoveBack(vnetfile.Name(d.e.Config.ID)); err != nil {
		return fmt.Errorf("restore vnet %s: %w", d.e.Config.IDText, err)
	}
	d.r.addLocked(d.e)
	return nil
}

// Commit throws away what Restore would need.
func (d *Deletion) Commit() { d.r.discard(d.e.Config) }

// Replacement is a vnet whose configuration was replaced and can be put back. One of its methods must be called, once.
type Replacement struct {
	r   *Registry
	old vnetfile.File
}

// Replace puts another configuration in the place of the one that the vnet of its id has; its place in the list stays.
// When it returns nil the new one is on the disk; after an error the old one is. Whenever the machine stops, it is one of
// the two.
func (r *Registry) Replace(c vnet.Config) (*Replacement, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	old, ok := r.entries[c.ID]
	if !ok {
		return nil, fmt.Errorf("vnet %s is not in the registry", c.ID)
	}
	e := old
	e.Config = c
	if err := r.dir.Supersede(vnetfile.Name(c.ID), vnetfile.Encode(e)); err != nil {
		return nil, fmt.Errorf("store vnet %s: %w", c.IDText, err)
	}
	r.entries[c.ID] = e
	return &Replacement{r, old}, nil
}

// Restore puts the old configuration back. It needs no space on the disk.
func (p *Replacement) Restore() error {
	p.r.mu.Lock()
	defer p.r.mu.Unlock()
	if err := p.r.dir.Reinstate(vnetfile.Name(p.old.Config.ID)); err != nil {
		return fmt.Errorf("restore vnet %s: %w", p.old.Config.IDText, err)
	}
	p.r.entries[p.old.Config.ID] = p.old
	return nil
}

// Commit throws away what Restore would need.
func (p *Replacement) Commit() { p.r.discard(p.old.Config) }

// discard throws away what a deletion or a replacement has kept.
func (r *Registry) discard(c vnet.Config) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.dir.Discard(vnetfile.Name(c.ID)); err != nil {
		r.log.Warn("can't remove what a vnet's file was before", "vnet", c.ID.Short(), "error", err)
	}
}
