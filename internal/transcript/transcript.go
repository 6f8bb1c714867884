// Package transcript reads the console blocks of the manual's pages, for the tests that run them.
package transcript

import (
	"bytes"
	"fmt"
	"os"
	"regexp"
	"strings"
)

// A Step is a command of a console block and the lines printed below it.
type Step struct {
	// Line is the command's in the file, from 1.
	Line int
	// Prompt is what stands before "# ": the host that the command is for, "" where there is one only.
	Prompt  string
	Command string
	// Output are the lines that are to come. A line "…" stands for any number of lines, "…" within a line for any text.
	Output []string
}

var prompt = regexp.MustCompile(`^([A-Za-z0-9]{0,8})# (.*)$`)

// Read reads the blocks that begin with ```console. "# " or "NAME# " begins a command, which lines that begin with "> "
// go on with; all else is output.
func Read(file string) ([]Step, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var all []Step
	in, open := false, false
	n := 0
	for line := range bytes.Lines(b) {
		n++
		text := strings.TrimSuffix(string(line), "\n")
		m := prompt.FindStringSubmatch(text)
		switch {
		case text == "```console":
			in = true
		case strings.HasPrefix(text, "```"):
			in, open = false, false
		case !in:
		case m != nil:
			all, open = append(all, Step{Line: n, Prompt: m[1], Command: m[2]}), true
		case len(all) == 0:
			return nil, fmt.Errorf("%s:%d: output before a command", file, n)
		case open && (text == ">" || strings.HasPrefix(text, "> ")):
			s := &all[len(all)-1]
			s.Command += "\n" + strings.TrimPrefix(strings.TrimPrefix(text, ">"), " ")
		default:
			open = false
			s := &all[len(all)-1]
			s.Output = append(s.Output, text)
		}
	}
	return all, nil
}

// Pattern is the regular expression that the output of a step has to match as a whole. Blanks at the ends of lines do
// not count.
func Pattern(output []string) *regexp.Regexp {
	var re strings.Builder
	re.WriteString(`(?s)\A`)
	for _, line := range output {
		if line == "…" {
			re.WriteString(`.*`)
			continue
		}
		re.WriteString(strings.ReplaceAll(regexp.QuoteMeta(strings.TrimRight(line, " ")), "…", `[^\n]*`) + ` *\n`)
	}
	re.WriteString(`\z`)
	return regexp.MustCompile(re.String())
}
