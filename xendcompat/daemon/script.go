package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/xenvnet/xend/internal/paths"
)

// scriptGrace is how long a script may take to undo what it did when it is stopped.
const scriptGrace = 5 * time.Second

// script is a network script as configured.
type script struct {
	command string        // name and arguments with single blanks between them
	dir     string        // where scripts are looked for first
	beside  string        // then, the directory of the xend program
	timeout time.Duration // for its run
	log     string        // the file that keeps what it prints
	prefix  string        // "" or what $XEND_PREFIX is for the script
}

// find returns the script's path. A name with a slash is a path, below dir if it is relative.
func (s script) find(name string) (string, error) {
	switch {
	case name == "":
		return "", errors.New("it begins with a blank instead of a name")
	case filepath.IsAbs(name):
		return name, nil
	}
	tried := []string{filepath.Join(s.dir, name)}
	if !strings.Contains(name, "/") {
		tried = append(tried, filepath.Join(s.beside, name))
	}
	for _, path := range tried {
		if _, err := os.Stat(path); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("%s not found in %s", name, strings.Join(tried, " nor "))
}

// start runs the script as "NAME start ARGUMENTS" and logs how it ended, of which nothing depends.
func (s script) start(ctx context.Context, log *slog.Logger) {
	words := strings.Split(s.command, " ")
	path, err := s.find(words[0])
	if err != nil {
		log.Error("network script not run", "script", s.command, "error", err)
		return
	}
	began := time.Now()
	err = s.run(ctx, path, append([]string{"start"}, words[1:]...))
	took := time.Since(began).Round(time.Millisecond)
	var exit *exec.ExitError
	switch {
	case err == nil:
		log.Info("network script done", "script", path, "status", 0, "took", took)
	case errors.As(err, &exit) && exit.Exited():
		log.Error("network script failed", "script", path, "status", exit.ExitCode(), "took", took, "output", s.log)
	default:
		log.Error("network script failed", "script", path, "error", err, "took", took, "output", s.log)
	}
}

func (s script) run(ctx context.Context, path string, args []string) error {
	out, err := openOutput(s.log)
	if err != nil {
		return err
	}
	defer out.Close()
	ctx, cancel := context.WithTimeoutCause(ctx, s.timeout, fmt.Errorf("it took longer than %s", s.timeout))
	defer cancel()
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.Env = s.environ()
	cmd.Dir = "/"
	// What it started is stopped with it, and first asked to, for it may have something to undo.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = scriptGrace
	err = cmd.Run()
	if ctx.Err() != nil {
		if cmd.Process != nil {
			_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // what is left of the group
		}
		return context.Cause(ctx)
	}
	return err
}

// environ is this process's environment for a script.
func (s script) environ() []string {
	env := slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "NOTIFY_SOCKET=") })
	if os.Getenv("PATH") == "" {
		env = append(env, "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
	}
	env = append(env, paths.StartEnv+"=yes")
	if s.prefix != "" {
		env = append(env, paths.PrefixEnv+"="+s.prefix)
	}
	return env
}

func openOutput(path string) (*os.File, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	return os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o640)
}
