package lab

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/google/renameio/v2"

	"github.com/xenvnet/xend/sxp"
	"github.com/xenvnet/xend/xendcompat/domain"
)

// Marks in a domain's directory, besides the keeper's own.
const (
	pausedFile  = "paused"  // it is paused
	doomedFile  = "doomed"  // it is being destroyed
	leavingFile = "leaving" // it may run on another host: a farewell
)

// record is what xend knows of a domain of its own and would not find out otherwise. It is no configuration: that is
// the Manager's, and durable. This is about processes and devices, and lives as long as they.
type record struct {
	ID      int
	UUID    string
	Name    string
	Config  configText
	Created time.Time
	Kernel  []string // program and arguments
	Network network  // at its start
	Limits  limits
	MaxMem  int     // MiB
	Pins    [][]int // of each virtual processor
	Vifs    []vifRecord
	// PID and Start are the keeper's; see process.
	PID   int
	Start string
	// Token names the migration by which it came; "" for none.
	Token string
}

// vifRecord is a vif that was made.
type vifRecord struct {
	Number int
	Device string // vif3.0
	Index  int    // of the device, whatever a script calls it
	MAC    string
	Script string // with arguments
	Params []domain.Param
}

// write keeps a record; a reader sees it whole or not at all.
func (d *record) write(dir string) error {
	b, err := json.Marshal(d)
	if err != nil {
		return err
	}
	return renameio.WriteFile(filepath.Join(dir, recordFile), b, 0o600)
}

func readRecord(dir string) (*record, error) {
	b, err := os.ReadFile(filepath.Join(dir, recordFile))
	if err != nil {
		return nil, err
	}
	d := &record{}
	if err := json.Unmarshal(b, d); err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Join(dir, recordFile), err)
	}
	if filepath.Base(dir) != strconv.Itoa(d.ID) {
		return nil, fmt.Errorf("%s: it is of domain %d", filepath.Join(dir, recordFile), d.ID)
	}
	return d, nil
}

// marked tells whether a mark is there.
func marked(dir, name string) bool {
	_, err := os.Lstat(filepath.Join(dir, name))
	return err == nil
}

func mark(dir, name string) error { return os.WriteFile(filepath.Join(dir, name), nil, 0o600) }

func unmark(dir, name string) error {
	err := os.Remove(filepath.Join(dir, name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// readExit tells how a domain ended that has ended. If the keeper left no note, it was killed.
func readExit(dir string) Exit {
	var e Exit
	b, err := os.ReadFile(filepath.Join(dir, exitFile))
	if err == nil && json.Unmarshal(b, &e) == nil && e.Reason != "" {
		return e
	}
	return Exit{Reason: Crash, Text: "killed"}
}

// nextFile counts ids, so that none is given twice until the next boot.
const nextFile = "next"

// nextID returns an id that no domain had since boot, nor any device is called after.
func (t *Toolstack) nextID() (int, error) {
	path := filepath.Join(t.o.Dir, nextFile)
	b, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return 0, err
	}
	id, _ := strconv.Atoi(string(b))
	links, err := t.o.Host.Links()
	if err != nil {
		return 0, err
	}
	taken := map[int]bool{}
	for _, l := range links {
		var a, b int
		if n, _ := fmt.Sscanf(l.Name, "vif%d.%d", &a, &b); n == 2 {
			taken[a] = true
		}
	}
	for id = max(1, id); taken[id] || marked(t.dir(id), ""); id++ {
	}
	return id, renameio.WriteFile(path, []byte(strconv.Itoa(id+1)), 0o600)
}

// configText is a configuration as the text of its form.
type configText domain.Config

// MarshalJSON writes the form.
func (c configText) MarshalJSON() ([]byte, error) {
	return json.Marshal(domain.Config(c).SXP().String())
}

// UnmarshalJSON reads the form.
func (c *configText) UnmarshalJSON(b []byte) error {
	var text string
	if err := json.Unmarshal(b, &text); err != nil {
		return err
	}
	forms, err := sxp.Parse([]byte(text), sxp.Xend)
	if err != nil {
		return err
	}
	if len(forms) != 1 {
		return fmt.Errorf("%d forms instead of one configuration", len(forms))
	}
	read, err := domain.ParseForm(forms[0])
	*c = configText(read)
	return err
}
