package lab

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/google/renameio/v2"
)

// xenstoreEnv tells the xenstore tools where the tree lies.
const xenstoreEnv = "XEND_LAB_XENSTORE"

// xenstoreTools are those that vif scripts, ours and Xen's own, use.
var xenstoreTools = []string{"xenstore-read", "xenstore-write", "xenstore-exists", "xenstore-list", "xenstore-rm"}

func isXenstoreTool(name string) bool { return slices.Contains(xenstoreTools, name) }

// valueFile holds the value of a node, whose directory has the nodes below it. No node may be called that.
const valueFile = "@value"

// xenstore is a tree of nodes in a directory.
type xenstore string

// home is what relative paths are below: Domain-0's.
const home = "/local/domain/0"

// maxNode bounds a path and a value, as the real one does; in bytes.
const maxNode = 4096

func (x xenstore) file(path string) (string, error) {
	if !strings.HasPrefix(path, "/") {
		path = home + "/" + path
	}
	if len(path) > maxNode {
		return "", fmt.Errorf("path too long: %d bytes", len(path))
	}
	for _, name := range strings.Split(path, "/") {
		if name == ".." || name == "." || name == valueFile || strings.ContainsRune(name, 0) {
			return "", fmt.Errorf("bad path %q", path)
		}
	}
	return filepath.Join(string(x), path), nil
}

func (x xenstore) read(path string) (string, error) {
	dir, err := x.file(path)
	if err != nil {
		return "", err
	}
	b, err := os.ReadFile(filepath.Join(dir, valueFile))
	return string(b), err
}

func (x xenstore) write(path, value string) error {
	dir, err := x.file(path)
	if err != nil {
		return err
	}
	if len(value) > maxNode {
		return fmt.Errorf("value too long: %d bytes", len(value))
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	// Whole or not at all: a script may read it now.
	return renameio.WriteFile(filepath.Join(dir, valueFile), []byte(value), 0o600)
}

func (x xenstore) remove(path string) error {
	dir, err := x.file(path)
	if err != nil {
		return err
	}
	return os.RemoveAll(dir)
}

func (x xenstore) list(path string) ([]string, error) {
	dir, err := x.file(path)
	if err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(dir)
	var names []string
	for _, e := range entries {
		if e.IsDir() {
			names = append(names, e.Name())
		}
	}
	return names, err
}

// xenstoreTool is one of the tools: options are accepted and mean nothing here.
func xenstoreTool(root, name string, args []string, stdout, stderr io.Writer) int {
	if root == "" {
		fmt.Fprintf(stderr, "%s: $%s is not set: this stand-in serves the scripts of a lab's domains only\n", name, xenstoreEnv)
		return 1
	}
	args = slices.DeleteFunc(slices.Clone(args), func(a string) bool { return strings.HasPrefix(a, "-") && len(a) == 2 })
	x := xenstore(root)
	fail := func(err error) int {
		var path *fs.PathError
		if errors.As(err, &path) {
			err = path.Err
		}
		fmt.Fprintf(stderr, "%s: %v\n", name, err)
		return 1
	}
	if len(args) == 0 || (name == "xenstore-write" && len(args)%2 != 0) {
		fmt.Fprintf(stderr, "usage: %s PATH…\n", name)
		return 1
	}
	step := 1
	if name == "xenstore-write" {
		step = 2
	}
	for i := 0; i < len(args); i += step {
		var err error
		switch name {
		case "xenstore-read":
			var value string
			if value, err = x.read(args[i]); err == nil {
				fmt.Fprintln(stdout, value)
			}
		case "xenstore-exists":
			_, err = x.read(args[i])
			if err != nil {
				return 1
			}
		case "xenstore-list":
			var names []string
			names, err = x.list(args[i])
			for _, n := range names {
				fmt.Fprintln(stdout, n)
			}
		case "xenstore-rm":
			err = x.remove(args[i])
		case "xenstore-write":
			err = x.write(args[i], args[i+1])
		}
		if err != nil {
			return fail(err)
		}
	}
	return 0
}
