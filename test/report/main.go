// Command report reads what `go test -json` prints and shows it as go test does: a line for each package, and all
// that a failed one said. At the end it tells the slowest tests. Lines that are not JSON pass through.
package main

import (
	"bufio"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
)

// slowest is how many tests are listed.
const slowest = 10

// event is a line of `go test -json`; go doc test2json.
type event struct {
	Action, Package, ImportPath, Test, Output string
	Elapsed                                   float64 // seconds
}

func main() {
	failed, err := report(os.Stdin, os.Stdout)
	if err != nil {
		fmt.Fprintln(os.Stderr, "report:", err)
	}
	if failed || err != nil {
		os.Exit(1)
	}
}

// report tells whether a package failed.
func report(r io.Reader, w io.Writer) (failed bool, err error) {
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
				failed = true
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
