package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/xenvnet/xend/internal/paths"
)

// scriptTimeout bounds a vif script, as the toolstacks of Xen do.
const scriptTimeout = 30 * time.Second

// scriptGrace is how long it may take to end when it is told to.
const scriptGrace = 3 * time.Second

// backendPath is a vif's in xenstore.
func backendPath(id, number int) string { return fmt.Sprintf("%s/backend/vif/%d/%d", home, id, number) }

// findScript finds a script by its name, in the directories of scripts, or its path.
func (t *Toolstack) findScript(name string) (string, error) {
	if filepath.IsAbs(name) {
		return name, checkScript(name)
	}
	if name == "" || name != filepath.Base(name) || name == ".." || name == "." {
		return "", fmt.Errorf("script %q: neither a name in %s nor an absolute path", name, strings.Join(t.o.ScriptDirs, " or "))
	}
	for _, dir := range t.o.ScriptDirs {
		path := filepath.Join(dir, name)
		if _, err := os.Stat(path); err == nil {
			return path, checkScript(path)
		}
	}
	return "", fmt.Errorf("script %s: not in %s", name, strings.Join(t.o.ScriptDirs, " nor "))
}

func checkScript(path string) error {
	if err := checkProgram(path); err != nil {
		return errors.New(strings.Replace(err.Error(), "kernel ", "script ", 1))
	}
	return nil
}

// runScript runs a vif's script: NAME ARGUMENTS ACTION type_if=vif, with the variables of hotplug scripts.
func (t *Toolstack) runScript(ctx context.Context, d *record, v *vifRecord, action string) error {
	words := strings.Fields(v.Script)
	if len(words) == 0 {
		return fmt.Errorf("vif %d has no script", v.Number)
	}
	path, err := t.findScript(words[0])
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, scriptTimeout, fmt.Errorf("it took longer than %s", scriptTimeout))
	defer cancel()
	var stderr limited
	cmd := exec.CommandContext(ctx, path, append(words[1:], action, "type_if=vif")...)
	cmd.Dir = "/"
	cmd.Stderr = &stderr
	cmd.Env = t.scriptEnv(d, v)
	// What it started is stopped with it, and first asked to, for it may have something to undo.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = scriptGrace
	err = t.o.Host.Do(cmd.Run) // in the network of the vifs
	if ctx.Err() != nil {
		if cmd.Process != nil {
			_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // what is left of the group
		}
		return fmt.Errorf("%s %s: %w", words[0], action, context.Cause(ctx))
	}
	if err == nil {
		return nil
	}
	text, _ := t.xenstore().read(backendPath(d.ID, v.Number) + "/hotplug-error")
	if text == "" {
		text = strings.TrimSpace(string(stderr))
	}
	if text == "" {
		return fmt.Errorf("%s %s: %w", words[0], action, err)
	}
	if !strings.HasPrefix(text, words[0]+":") {
		text = words[0] + ": " + text
	}
	return errors.New(text)
}

// limited keeps the beginning of what is written to it.
type limited []byte

func (l *limited) Write(p []byte) (int, error) {
	const most = 2000
	*l = append(*l, p[:min(len(p), most-len(*l))]...)
	return len(p), nil
}

// scriptEnv is the environment of a script: the variables of hotplug scripts, and our xenstore tools first in $PATH.
func (t *Toolstack) scriptEnv(d *record, v *vifRecord) []string {
	path := os.Getenv("PATH")
	if path == "" {
		path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	}
	set := map[string]string{
		"PATH":        filepath.Join(t.o.Dir, toolsDir) + ":" + path,
		xenstoreEnv:   string(t.xenstore()),
		"vif":         v.Device,
		"XENBUS_PATH": strings.TrimPrefix(backendPath(d.ID, v.Number), home+"/"),
	}
	if t.o.Prefix != "" {
		set[paths.PrefixEnv] = t.o.Prefix
	}
	env := slices.DeleteFunc(os.Environ(), func(e string) bool {
		name, _, _ := strings.Cut(e, "=")
		_, replaced := set[name]
		return replaced || name == "NOTIFY_SOCKET"
	})
	for name, value := range set {
		env = append(env, name+"="+value)
	}
	return env
}

// toolsDir has the xenstore tools, which are links to this program.
const toolsDir = "bin"

// linkTools makes them. A program that was upgraded is linked anew.
func (t *Toolstack) linkTools() error {
	dir := filepath.Join(t.o.Dir, toolsDir)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for _, name := range xenstoreTools {
		link := filepath.Join(dir, name)
		if target, err := os.Readlink(link); err == nil && target == t.o.Program {
			continue
		}
		_ = os.Remove(link)
		if err := os.Symlink(t.o.Program, link); err != nil {
			return err
		}
	}
	return nil
}
