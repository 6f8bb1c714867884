package domain

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/xenvnet/xend/internal/durable"
	"github.com/xenvnet/xend/sxp"
)

// doing is what the daemon was about to do with a domain; a daemon that finds it after a crash goes on, see recover.
type doing string

const (
	nothing    doing = ""
	starting   doing = "start"   // one that was known is being started: it counts as running if it runs
	arriving   doing = "arrive"  // made, restored or received: it counts if it runs, and is forgotten if not
	restarting doing = "restart" // destroyed and made again: it must run
	ending     doing = "end"     // destroyed: it must not run
	renaming   doing = "rename"  // in the record it has the new name
	saving     doing = "save"    // written to a file: it counts if it runs
	leaving    doing = "leave"   // sent to another host: it counts if it runs, and is forgotten if not
)

// replacing is kept under another name, and makes room for a domain with that uuid and that name, which must run; the record
// has the new name already.
func replacing(uuid, name string) doing { return doing("replace " + uuid + " " + name) }

// successor is what replacing was called with.
func (d doing) successor() (uuid, name string, ok bool) {
	rest, ok := strings.CutPrefix(string(d), "replace ")
	if ok {
		uuid, name, ok = strings.Cut(rest, " ")
	}
	return uuid, name, ok
}

// record is a domain of xend's: what it should be.
type record struct {
	Config
	number uint64 // its place in the order of definition
	doing  doing
}

// store keeps the records, durably: a file for each, named by its uuid.
type store struct {
	dir *durable.Dir
	log *slog.Logger

	mu      sync.Mutex
	records map[string]record // by uuid
	last    uint64
}

const (
	storeExt    = ".sxp"
	storeFormat = 1
	storeHeader = "# xend domain, format %d; number %d, doing %q\n"
)

// openStore locks the directory and reads it. What can't be read is set aside and logged.
func openStore(path string, log *slog.Logger, step func(string) error) (*store, error) {
	dir, err := durable.Open(path, storeExt, step)
	if err != nil {
		return nil, err
	}
	s := &store{dir: dir, log: log, records: map[string]record{}}
	if err := s.load(); err != nil {
		dir.Close()
		return nil, fmt.Errorf("read state directory: %w", err)
	}
	return s, nil
}

func (s *store) load() error {
	names, err := s.dir.Files()
	if err != nil {
		return err
	}
	taken := map[string]string{}
	for _, name := range names {
		r, err := s.read(name)
		if err == nil && taken[r.Name] != "" {
			err = fmt.Errorf("its name %s is that of domain %s", r.Name, taken[r.Name])
		}
		if err != nil {
			aside, asideErr := s.dir.SetAside(name)
			s.log.Error("a domain's file can't be used and was set aside; its domain is not managed", "file", s.dir.Path(cmp.Or(aside, name)), "reason", err, "error", asideErr)
			continue
		}
		taken[r.Name] = r.UUID
		s.records[r.UUID] = r
		s.last = max(s.last, r.number)
	}
	return nil
}

func (s *store) read(name string) (record, error) {
	b, err := s.dir.Read(name)
	if err != nil {
		return record{}, err
	}
	var r record
	header, form, _ := bytes.Cut(b, []byte("\n"))
	var format int
	if strings.HasPrefix(string(header), "# xend domain, format ") {
		if _, err := fmt.Sscanf(string(header)+"\n", storeHeader, &format, &r.number, &r.doing); err != nil {
			return r, fmt.Errorf("its first line can't be read: %q", header)
		}
	} else {
		form = b // written by hand
	}
	if format > storeFormat {
		return r, fmt.Errorf("it has format %d, and this xend knows only %d: it was written by a newer release", format, storeFormat)
	}
	forms, err := sxp.ParseLimited(form, sxp.Xend, sxp.Limits{Size: -1})
	if err != nil {
		return r, err
	}
	if len(forms) != 1 {
		return r, fmt.Errorf("it holds %d forms instead of one", len(forms))
	}
	if r.Config, err = ParseForm(forms[0]); err != nil {
		return r, err
	}
	if err := r.Validate(); err != nil {
		return r, err
	}
	if want := r.UUID + storeExt; name != want {
		return r, fmt.Errorf("it holds domain %s, whose file is %s", r.UUID, want)
	}
	return r, nil
}

func (r record) encode() []byte {
	b := fmt.Appendf(nil, storeHeader, storeFormat, r.number, r.doing)
	return append(append(b, sxp.Append(nil, r.SXP())...), '\n')
}

func (s *store) close() error { return s.dir.Close() }

// list returns the records in the order of their definition.
func (s *store) list() []record {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.SortedFunc(maps.Values(s.records), func(a, b record) int { return cmp.Compare(a.number, b.number) })
}

func (s *store) get(uuid string) (record, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r, ok := s.records[uuid]
	return r, ok
}

// put stores a record durably: a new one, or in the place of one with its uuid. Its name must be its own.
func (s *store) put(r record) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, o := range s.records {
		if o.Name == r.Name && o.UUID != r.UUID {
			return &TakenError{What: "name " + r.Name, By: o.UUID}
		}
	}
	file := r.UUID + storeExt
	old, known := s.records[r.UUID]
	var err error
	if known {
		r.number = old.number
		if err = s.dir.Replace(file, r.encode()); err != nil {
			// Which of the two is there is not known: the old one must be.
			err = errors.Join(err, s.dir.Replace(file, old.encode()))
		}
	} else {
		r.number = s.last + 1
		err = s.dir.Put(file, r.encode())
	}
	if err != nil {
		return fmt.Errorf("store domain %s: %w", r.Name, err)
	}
	s.last = max(s.last, r.number)
	s.records[r.UUID] = r
	return nil
}

// remove forgets a record durably; one that is not there is no error.
func (s *store) remove(uuid string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	r, ok := s.records[uuid]
	if !ok {
		return nil
	}
	if err := s.dir.MoveOut(uuid + storeExt); err != nil {
		return fmt.Errorf("delete domain %s: %w", r.Name, err)
	}
	delete(s.records, uuid)
	if err := s.dir.Discard(uuid + storeExt); err != nil {
		s.log.Warn("can't remove the file of a deleted domain", "domain", r.Name, "error", err)
	}
	return nil
}
