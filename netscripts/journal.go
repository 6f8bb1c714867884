package netscripts

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/google/renameio/v2"
	"golang.org/x/sys/unix"
)

// The journal is one file per network namespace. While start or stop is under way it holds all that
// is needed to undo it, written and synced before each step. After a start it stays, with Done set,
// and says to stop what start found.
type journal struct {
	path string
	self namespace
}

// namespace tells one network namespace from all others, also from one that had the same inode before.
type namespace struct {
	Boot   string `json:"boot"`   // /proc/sys/kernel/random/boot_id
	Inode  uint64 `json:"inode"`  // of /proc/thread-self/ns/net
	Cookie uint64 `json:"cookie"` // SO_NETNS_COOKIE; 0 before Linux 5.14
}

// entry is the content of the file.
type entry struct {
	Namespace namespace `json:"namespace"`
	Pid       int       `json:"pid"` // who writes it
	// Started are the bridges that start made, for stop and for domains, in the order in which they were made.
	Started records `json:"started,omitempty"`
	// Unfinished is the transaction under way; nil for none.
	Unfinished *transaction `json:"unfinished,omitempty"`
}

// records are what starts left behind.
type records []record

// UnmarshalJSON also takes the form of earlier versions, which knew one bridge.
func (r *records) UnmarshalJSON(b []byte) error {
	if len(b) > 0 && b[0] == '{' {
		*r = make(records, 1)
		return json.Unmarshal(b, &(*r)[0])
	}
	return json.Unmarshal(b, (*[]record)(r))
}

// without leaves out the bridge with that index.
func (r records) without(bridge int) records {
	return slices.DeleteFunc(slices.Clone(r), func(o record) bool { return o.BridgeIndex == bridge })
}

// record is what start leaves behind for stop.
type record struct {
	Device      string `json:"device"`       // netdev, by the name that it had and shall have
	Port        string `json:"port"`         // and the one that it has
	BridgeIndex int    `json:"bridge_index"` //
	WasDown     bool   `json:"was_down"`     // netdev was down before start
}

func (s *script) openJournal() (*journal, error) {
	self, err := thisNamespace()
	if err != nil {
		return nil, err
	}
	return &journal{
		path: filepath.Join(s.paths.Run(), fmt.Sprintf("network-bridge-%d.json", self.Inode)),
		self: self,
	}, nil
}

func thisNamespace() (namespace, error) {
	var st unix.Stat_t
	if err := unix.Stat("/proc/thread-self/ns/net", &st); err != nil {
		return namespace{}, fmt.Errorf("identify the network namespace: %w", err)
	}
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return namespace{}, fmt.Errorf("identify this boot: %w", err)
	}
	ns := namespace{Boot: strings.TrimSpace(string(boot)), Inode: st.Ino}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return namespace{}, fmt.Errorf("identify the network namespace: %w", err)
	}
	defer unix.Close(fd)
	if cookie, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE); err == nil {
		ns.Cookie = cookie
	}
	return ns, nil
}

// read returns what the journal says, empty where there is none or where it is that of another boot
// or of a namespace that is gone.
func (j *journal) read() (entry, error) {
	none := entry{Namespace: j.self}
	b, err := os.ReadFile(j.path)
	if errors.Is(err, fs.ErrNotExist) {
		return none, nil
	}
	if err != nil {
		return none, err
	}
	var e entry
	if err := json.Unmarshal(b, &e); err != nil {
		return none, fmt.Errorf("the journal %s is damaged: %w; look at the machine's addresses and bridges, then remove that file", j.path, err)
	}
	if e.Namespace != j.self {
		return none, nil
	}
	return e, nil
}

// sweep removes what scripts left that were killed while they wrote: renameio's temporary files. The lock of
// the scripts is held, so nobody is writing one.
func (j *journal) sweep() {
	left, err := filepath.Glob(filepath.Join(filepath.Dir(j.path), "."+filepath.Base(j.path)+"[0-9]*"))
	if err != nil {
		return // the path has a bracket in it: they stay
	}
	for _, file := range left {
		os.Remove(file)
	}
}

// write makes e what the journal says, durably, or removes it if there is nothing to say.
func (j *journal) write(e entry) error {
	if len(e.Started) == 0 && e.Unfinished == nil {
		if err := os.Remove(j.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	}
	e.Namespace, e.Pid = j.self, os.Getpid()
	b, err := json.Marshal(e)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(j.path), 0o755); err != nil {
		return fmt.Errorf("write the journal: %w", err)
	}
	j.sweep()
	if err := renameio.WriteFile(j.path, b, 0o600); err != nil {
		return fmt.Errorf("write the journal: %w", err)
	}
	return nil
}
