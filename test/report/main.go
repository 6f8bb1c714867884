// Command report runs a command that calls `go test -json` and shows what it prints as go test does: a line for each
// package, and all that a failed one said. At the end it tells the slowest tests. Lines that are not JSON pass through.
//
//	report [-again 'go test -race'] COMMAND...
//
// With -again, a package that failed is tested once more, by itself: these are tests of real kernels in real time, on
// machines that have other things to do. One that passes then is told as unsteady, at the end, where it is not
// overlooked; one that fails again has failed, and so has all if more than two did.
package main

import (
	"bufio"
	"cmp"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
)

const (
	slowest = 10 // tests are listed
	most    = 2  // failed packages are tested once more
)

// event is a line of `go test -json`; go doc test2json.
type event struct {
	Action, Package, ImportPath, Test, Output string
	Elapsed                                   float64 // seconds
}

func main() {
	second := flag.String("again", "", "test what failed once more, by this `command`")
	flag.Parse()
	cmd := exec.Command(flag.Arg(0), flag.Args()[min(1, flag.NArg()):]...)
	cmd.Stderr = os.Stderr
	if err := run(cmd, strings.Fields(*second), os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "report:", err)
		os.Exit(1)
	}
}

// run runs a command and reports; nil if all has passed, perhaps by a second try.
func run(cmd *exec.Cmd, second []string, w io.Writer) error {
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	failed, readErr := report(out, w)
	if err := cmp.Or(cmd.Wait(), readErr); err == nil || len(failed) == 0 || len(failed) > most || len(second) == 0 || readErr != nil {
		return err
	}
	for _, pkg := range failed {
		fmt.Fprintf(w, "\n%s once more, by itself:\n", pkg)
		cmd := exec.Command(second[0], append(slices.Clone(second[1:]), "-count=1", pkg)...)
		cmd.Stdout, cmd.Stderr = w, w
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("%s failed twice: %w", pkg, err)
		}
	}
	fmt.Fprintf(w, "\nUNSTEADY: %s failed, then passed. Find out why.\n", strings.Join(failed, ", "))
	return nil
}

// report tells which packages failed.
func report(r io.Reader, w io.Writer) (failed []string, err error) {
	said := map[string][]string{} // by packages that run
	var tests []event
	lines := bufio.NewReader(r)
	for {
		line, err := lines.ReadString('\n')
		if line != "" {
			var e event
			if !strings.HasPrefix(line, "{") || json.Unmarshal([]byte(line), &e) != nil {
				fmt.Fprint(w, line)
				e = event{}
			}
			switch {
			case e.Action == "output":
				said[e.Package] = append(said[e.Package], e.Output)
			case e.Action == "build-output":
				fmt.Fprint(w, e.Output)
			case e.Test != "" && e.Elapsed > 0 && !strings.Contains(e.Test, "/"):
				tests = append(tests, e)
			case e.Test == "" && (e.Action == "pass" || e.Action == "skip"):
				if n := len(said[e.Package]); n > 0 {
					fmt.Fprint(w, said[e.Package][n-1])
				}
				delete(said, e.Package)
			case e.Test == "" && e.Action == "fail":
				failed = append(failed, e.Package)
				fmt.Fprint(w, strings.Join(said[e.Package], ""))
				delete(said, e.Package)
			}
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return failed, err
		}
	}
	slices.SortStableFunc(tests, func(a, b event) int { return cmp.Compare(b.Elapsed, a.Elapsed) })
	fmt.Fprintf(w, "\nThe slowest tests:\n")
	for _, e := range tests[:min(len(tests), slowest)] {
		fmt.Fprintf(w, "%8.1f s  %s %s\n", e.Elapsed, strings.TrimPrefix(e.Package, "github.com/xenvnet/xend/"), e.Test)
	}
	return failed, nil
}
