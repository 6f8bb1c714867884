package daemon

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/coreos/go-systemd/v22/util"
)

// unitName is the daemon's unit under systemd.
const unitName = "xend.service"

// A unit is the daemon's as systemd has it. What it runs has a sandbox, and is started again after a crash,
// which a daemon that is started by hand has not.
type unit struct {
	// systemctl runs systemctl(1) and returns what it printed.
	systemctl func(args ...string) (string, error)
	exe       string // this program
}

// machineUnit returns the unit of this machine's daemon; nil where that of o is no service of systemd's: it
// lies below a prefix, has a configuration of its own, or is in another network namespace.
func machineUnit(o Options) *unit {
	if o.Paths.Prefix != "" || o.Config.XendConfig != "" || os.Getenv("XEND_CONFIG") != "" || !util.IsRunningSystemd() {
		return nil
	}
	ours, err := os.Readlink("/proc/self/ns/net")
	theirs, initErr := os.Readlink("/proc/1/ns/net")
	exe, exeErr := os.Executable()
	if errors.Join(err, initErr, exeErr) != nil || ours != theirs {
		return nil
	}
	return &unit{exe: exe, systemctl: func(args ...string) (string, error) {
		cmd := exec.Command("systemctl", args...)
		cmd.Stderr = os.Stderr
		out, err := cmd.Output()
		return string(out), err
	}}
}

// handOver has systemd do what is asked for (start, stop or restart), if the daemon is its to run. pid is the
// daemon that runs, 0 for none: one that was started by hand is none of systemd's business.
func (u *unit) handOver(verb string, pid int) (done bool, err error) {
	if u == nil {
		return false, nil
	}
	out, err := u.systemctl("show", "--property=LoadState,MainPID,ExecStart", unitName)
	if err != nil {
		return false, nil //nolint:nilerr // without an answer it is done by hand, as ever
	}
	properties := map[string]string{}
	for line := range strings.Lines(out) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		properties[key] = value
	}
	main, _ := strconv.Atoi(properties["MainPID"])
	switch {
	case properties["LoadState"] != "loaded", !u.runs(properties["ExecStart"]):
		return false, nil
	case pid != 0 && pid != main:
		return false, nil
	}
	if _, err := u.systemctl(verb, unitName); err != nil {
		return true, fmt.Errorf("systemctl %s %s: %w; 'journalctl -u xend' says why", verb, unitName, err)
	}
	return true, nil
}

// runs tells whether a unit's ExecStart property, "{ path=/usr/sbin/xend ; … }", is this program.
func (u *unit) runs(execStart string) bool {
	_, rest, ok := strings.Cut(execStart, "path=")
	path, _, _ := strings.Cut(rest, " ;")
	if !ok {
		return false
	}
	for _, p := range []*string{&path, &u.exe} {
		if real, err := filepath.EvalSymlinks(*p); err == nil {
			*p = real
		}
	}
	return path == u.exe
}
