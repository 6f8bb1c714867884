package cli

import (
	"bufio"
	"fmt"
	"io"
	"strings"
)

// column is where the descriptions in help begin.
const column = 28

// width is how long a line of help gets.
const width = 79

// WriteList prints every supported command with its summary under its heading. With long it adds
// their options and the names of the original's other commands.
func (t *Table) WriteList(w io.Writer, long bool) {
	for _, group := range t.Groups() {
		fmt.Fprintf(w, "\n%s:\n", group)
		for _, c := range t.supported(group) {
			writeEntry(w, 4, strings.TrimSpace(c.Name+" "+c.Args), c.Summary)
			if long {
				writeOptions(w, 8, c.Options)
			}
		}
	}
	if names := t.Unsupported(); long && len(names) > 0 {
		fmt.Fprintf(w, "\nKnown, but not supported by this version:\n")
		for _, line := range wrap(strings.Join(names, ", "), width-4) {
			fmt.Fprintf(w, "    %s\n", line)
		}
	}
}

// WriteHelp prints all there is to know about one command.
func (t *Table) WriteHelp(w io.Writer, c *Command) {
	fmt.Fprintf(w, "Usage: %s\n\n", c.Usage(t.Program))
	for _, line := range wrap(sentence(c.Summary), width) {
		fmt.Fprintln(w, line)
	}
	for _, p := range c.Details {
		fmt.Fprintln(w)
		for _, line := range wrap(p, width) {
			fmt.Fprintln(w, line)
		}
	}
	if len(c.Options) > 0 {
		fmt.Fprintf(w, "\nOptions:\n")
		writeOptions(w, 4, c.Options)
	}
}

func writeOptions(w io.Writer, indent int, options []Option) {
	for _, o := range options {
		term := strings.Join(o.forms(), ", ")
		if o.Arg != "" {
			term += " " + o.Arg
		}
		writeEntry(w, indent, term, o.Help)
	}
}

// writeEntry prints a term and, from column on, what it means.
func writeEntry(w io.Writer, indent int, term, text string) {
	line := strings.Repeat(" ", indent) + term
	if len(line) > column-2 {
		fmt.Fprintln(w, line)
		line = ""
	}
	for _, part := range wrap(text, width-column) {
		fmt.Fprintf(w, "%-*s%s\n", column, line, part)
		line = ""
	}
}

// sentence makes a summary one.
func sentence(s string) string { return strings.ToUpper(s[:1]) + s[1:] + "." }

// wrap breaks text at blanks into lines of at most n bytes where words allow.
func wrap(text string, n int) []string {
	var lines []string
	line := ""
	for _, word := range strings.Fields(text) {
		switch {
		case line == "":
			line = word
		case len(line)+1+len(word) > n:
			lines = append(lines, line)
			line = word
		default:
			line += " " + word
		}
	}
	if line != "" {
		lines = append(lines, line)
	}
	return lines
}

// Flush ends what a program prints: an error of printing is one of the program.
func Flush(stdout *bufio.Writer, err error) error {
	if flushErr := stdout.Flush(); err == nil && flushErr != nil {
		return fmt.Errorf("cannot write: %w", flushErr)
	}
	return err
}
