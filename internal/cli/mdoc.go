package cli

import (
	"fmt"
	"strings"
)

// Manual is what a manual page says besides the table of commands. Texts are mdoc(7) source.
type Manual struct {
	Section     int
	Date        string // "November 22, 2026"
	Line        string // what the program is, in one line
	Description string
	Before      []Section // before the commands
	After       []Section // after them
	Source      string    // which package the page is made from
}

// Section is a section of a manual page.
type Section struct{ Title, Text string }

// Mdoc returns the manual page of the table, in mdoc(7).
func (t *Table) Mdoc(m Manual) string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	sections := func(ss []Section) {
		for _, s := range ss {
			line(".Sh %s\n%s", s.Title, strings.TrimSpace(s.Text))
		}
	}

	line(`.\" Generated from the command table in %s by go generate; edit that.`, m.Source)
	line(".Dd %s", m.Date)
	line(".Dt %s %d", strings.ToUpper(t.Program), m.Section)
	line(".Os")
	line(".Sh NAME\n.Nm %s\n.Nd %s", t.Program, m.Line)
	line(".Sh SYNOPSIS\n.Nm")
	for _, o := range programOptions {
		line(".Op %s", mdocOption(o, " | "))
	}
	line(".Ar subcommand\n.Op Ar argument ...")
	line(".Sh DESCRIPTION\n%s", strings.TrimSpace(m.Description))
	line(".Pp\nOptions before the sub-command:")
	mdocOptions(&b, programOptions)
	sections(m.Before)
	line(".Sh COMMANDS")
	for _, group := range t.Groups() {
		line(".Ss %s", group)
		line(".Bl -tag -width Ds")
		for _, c := range t.supported(group) {
			line(".It Xo\n.Cm %s", c.Name)
			for _, o := range c.Options {
				line(".Op %s", mdocOption(o, " | "))
			}
			for _, a := range strings.Fields(c.Args) {
				line(".%s", mdocArgument(a))
			}
			line(".Xc")
			mdocText(&b, sentence(c.Summary))
			for _, p := range c.Details {
				line(".Pp")
				mdocText(&b, p)
			}
			if len(c.Options) > 0 {
				mdocOptions(&b, c.Options)
			}
		}
		line(".El")
	}
	if names := t.Unsupported(); len(names) > 0 {
		line(".Ss Other commands of the original")
		mdocText(&b, "These are known, and say that they are not supported by this version: "+strings.Join(names, ", ")+".")
	}
	sections(m.After)
	return b.String()
}

// mdocOption is an option as arguments of a macro: Fl s | -security Ar LEVEL.
func mdocOption(o Option, between string) string {
	var f []string
	if o.Short != 0 {
		f = append(f, string(o.Short))
	}
	if o.Long != "" {
		f = append(f, "-"+o.Long)
	}
	s := "Fl " + strings.Join(f, between)
	if o.Arg != "" {
		s += " Ar " + o.Arg
	}
	return s
}

func mdocOptions(b *strings.Builder, options []Option) {
	fmt.Fprintln(b, ".Bl -tag -width Ds")
	for _, o := range options {
		fmt.Fprintf(b, ".It %s\n", mdocOption(o, " , "))
		mdocText(b, sentence(o.Help))
	}
	fmt.Fprintln(b, ".El")
}

// mdocArgument is a word of Command.Args as a macro: [ID|IF...] becomes Op Ar ID | IF ... and
// key=VALUE a keyword and an argument.
func mdocArgument(a string) string {
	optional := strings.HasPrefix(a, "[")
	a = strings.Trim(a, "[]")
	a, many := strings.CutSuffix(a, "...")
	macro := "Ar " + strings.ReplaceAll(a, "|", " | ")
	if key, value, ok := strings.Cut(a, "="); ok {
		macro = "Cm " + key + " Ns = Ns Ar " + value
	}
	if many {
		macro += " ..."
	}
	if optional {
		macro = "Op " + macro
	}
	return macro
}

// mdocText writes plain text: a line for each sentence, broken where it is long, with what would be
// read as a macro or an escape hidden.
func mdocText(b *strings.Builder, text string) {
	for _, s := range sentences(text) {
		for _, l := range wrap(s, width) {
			l = strings.ReplaceAll(l, `\`, `\e`)
			if l[0] == '.' || l[0] == '\'' {
				l = `\&` + l
			}
			fmt.Fprintln(b, l)
		}
	}
}

// sentences splits text behind full stops that a blank and a capital letter follow.
func sentences(text string) []string {
	var ss []string
	start := 0
	for i := 0; i+2 < len(text); i++ {
		if text[i] == '.' && text[i+1] == ' ' && text[i+2] >= 'A' && text[i+2] <= 'Z' {
			ss = append(ss, text[start:i+1])
			start = i + 2
		}
	}
	return append(ss, text[start:])
}
