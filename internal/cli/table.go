// Package cli is what xm and vn have in common: a table of sub-commands, from which their lookup,
// their option parsing, their help, their bash completion and their manual pages are made.
package cli

import (
	"context"
	"slices"
	"strings"
)

// Option is an option of a command or of a program.
type Option struct {
	Short byte   // -s; 0 where there is only a long form
	Long  string // --security; "" where there is only a short form
	Arg   string // what the option takes, as help shows it ("LEVEL"); "" for a flag
	Help  string // one sentence, without a full stop, in lower case
}

// name is by what an Invocation knows the option.
func (o Option) name() string {
	if o.Long != "" {
		return o.Long
	}
	return string(o.Short)
}

// forms returns what a user may type: -s and --security.
func (o Option) forms() []string {
	var f []string
	if o.Short != 0 {
		f = append(f, "-"+string(o.Short))
	}
	if o.Long != "" {
		f = append(f, "--"+o.Long)
	}
	return f
}

// usage is the option in a usage line: [-s|--security LEVEL].
func (o Option) usage() string {
	s := strings.Join(o.forms(), "|")
	if o.Arg != "" {
		s += " " + o.Arg
	}
	return "[" + s + "]"
}

// Kind says what an argument is, for completion.
type Kind string

// The kinds of arguments that completion knows.
const (
	None    Kind = ""
	File    Kind = "file"
	Vnet    Kind = "vnet"    // the id of a vnet
	Domain  Kind = "domain"  // the name of a domain
	Device  Kind = "device"  // a network interface
	Peer    Kind = "peer"    // the address of a peer
	Name    Kind = "command" // the name of a sub-command
	Keyword Kind = "keyword" // one of Command.Words
)

// Command is a sub-command.
type Command struct {
	Name    string
	Group   string   // the heading that it stands under in help and manual
	Args    string   // its arguments in a usage line: "[ID...]"
	Min     int      // how many arguments it needs
	Max     int      // how many it takes; -1: any number
	Summary string   // a few words, in lower case, without a full stop
	Details []string // paragraphs that say the rest, in whole sentences
	Options []Option
	Kinds   []Kind   // of its arguments; the last one stands for all that follow
	Words   []string // what a Keyword may be

	// Aliases are other names, which are typed in full.
	Aliases []string

	// Later tells that the command came after the release whose abbreviations count (3.0.1), so
	// that it never makes one of those ambiguous.
	Later bool

	// Run does it. A nil Run is a command of the original that this program does not support.
	Run func(ctx context.Context, in Invocation) error
}

// Usage is the command in one line: "xm vnet-list [-l|--long] [ID...]".
func (c *Command) Usage(program string) string {
	words := []string{program, c.Name}
	for _, o := range c.Options {
		words = append(words, o.usage())
	}
	if c.Args != "" {
		words = append(words, c.Args)
	}
	return strings.Join(words, " ")
}

// Supported tells whether the command does something.
func (c *Command) Supported() bool { return c.Run != nil }

// Table is all that a program can do. Every program has the options --prefix, --help and --version
// before the sub-command.
type Table struct {
	Program  string
	Commands []*Command
}

// Find returns the command of exactly that name, or nil.
func (t *Table) Find(name string) *Command {
	for _, c := range t.Commands {
		if c.Name == name || slices.Contains(c.Aliases, name) {
			return c
		}
	}
	return nil
}

// Match returns the command called name, else those that name is the beginning of: one if name is
// an abbreviation, several if it is ambiguous. An abbreviation has at least two letters, and a
// later command does not match where one of the first release does.
func (t *Table) Match(name string) []*Command {
	if c := t.Find(name); c != nil {
		return []*Command{c}
	}
	if len(name) < 2 {
		return nil
	}
	var first, later []*Command
	for _, c := range t.Commands {
		switch {
		case !strings.HasPrefix(c.Name, name):
		case c.Later:
			later = append(later, c)
		default:
			first = append(first, c)
		}
	}
	if len(first) > 0 {
		return first
	}
	return later
}

// Groups returns the headings of the supported commands in the order of the table.
func (t *Table) Groups() []string {
	var groups []string
	for _, c := range t.Commands {
		if c.Supported() && !slices.Contains(groups, c.Group) {
			groups = append(groups, c.Group)
		}
	}
	return groups
}

// supported returns the supported commands of a group.
func (t *Table) supported(group string) []*Command {
	var cs []*Command
	for _, c := range t.Commands {
		if c.Supported() && c.Group == group {
			cs = append(cs, c)
		}
	}
	return cs
}

// Unsupported returns the names of the original's commands that this program lacks, sorted.
func (t *Table) Unsupported() []string {
	var names []string
	for _, c := range t.Commands {
		if !c.Supported() {
			names = append(names, c.Name)
		}
	}
	slices.Sort(names)
	return names
}
