package netscripts

import (
	"context"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// xenstoreTimeout bounds one call of a xenstore tool, which waits for ever where its daemon hangs.
const xenstoreTimeout = 5 * time.Second

// xenstore is a backend's directory in xenstore, by way of the xenstore tools. Without the tools,
// without their daemon or without a path everything reads as absent and writing does nothing.
type xenstore struct {
	s    *script
	path string // the backend path; "" for none
}

// read returns the value of a key below the path, "" if there is none.
func (x xenstore) read(ctx context.Context, key string) string {
	out, err := x.run(ctx, "xenstore-read", x.path+"/"+key)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(out)
}

// write sets a key below the path. That it cannot be set is told and no error: the machine may have
// no xenstore.
func (x xenstore) write(ctx context.Context, key, value string) {
	if out, err := x.run(ctx, "xenstore-write", x.path+"/"+key, value); err != nil {
		x.s.warn("xenstore-write %s/%s: %v: %s", x.path, key, err, strings.TrimSpace(out))
	}
}

func (x xenstore) run(ctx context.Context, tool string, args ...string) (string, error) {
	if x.path == "" {
		return "", nil
	}
	program := x.s.program(tool)
	if program == "" {
		return "", nil
	}
	ctx, cancel := context.WithTimeout(ctx, xenstoreTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, args...)
	// A child of the tool that keeps the pipe open must not keep us.
	cmd.WaitDelay = time.Second
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// program finds a program in $PATH; "" if there is none.
func (s *script) program(name string) string {
	for _, dir := range filepath.SplitList(s.Getenv("PATH")) {
		if path := filepath.Join(dir, name); isProgram(path) {
			return path
		}
	}
	return ""
}
