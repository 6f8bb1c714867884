package netscripts

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/xenvnet/xend/internal/paths"
)

// vifSetup is what udev calls: it runs the script that xenstore names, with the arguments that stand
// behind its name there before those of its own, or else vif-bridge.
func vifSetup(ctx context.Context, s *script) error {
	named := xenstore{s, s.variable("XENBUS_PATH")}.read(ctx, "script")
	words := strings.Split(named, " ")
	if plainName(filepath.Base(words[0])) == "vif-setup" {
		return fmt.Errorf("xenstore names %s as the script, which would run itself for ever", words[0])
	}
	if named == "" || words[0] == "vif-bridge" {
		path, err := s.find("vif-bridge")
		if err != nil { // not installed as a script of its own
			return s.inProcess(ctx, words[1:])
		}
		words[0] = path
	} else {
		path, err := s.find(words[0])
		if err != nil {
			return err
		}
		words[0] = path
	}
	env := os.Environ()
	if s.paths.Prefix != "" {
		env = append(env, paths.PrefixEnv+"="+s.paths.Prefix)
	}
	return fmt.Errorf("run %s: %w", words[0], syscall.Exec(words[0], append(words, s.args.words...), env))
}

// inProcess runs vif-bridge as a function.
func (s *script) inProcess(ctx context.Context, before []string) error {
	args, err := parseArguments(append(before, s.args.words...))
	if err != nil {
		return err
	}
	s.args, s.name = args, "vif-bridge"
	return vifBridge(ctx, s)
}

// find finds a script: by its path, in the scripts directory, or beside this program.
func (s *script) find(name string) (string, error) {
	var places []string
	if filepath.IsAbs(name) {
		places = []string{name}
	} else {
		places = []string{filepath.Join(s.conf.Paths.Scripts, name)}
		if self, err := os.Executable(); err == nil {
			dir := filepath.Dir(self)
			places = append(places, filepath.Join(dir, name), filepath.Join(dir, "scripts", name))
		}
	}
	for _, path := range places {
		if isProgram(path) {
			return path, nil
		}
	}
	return "", errors.New("there is no script " + strings.Join(places, " nor "))
}

func isProgram(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0
}
