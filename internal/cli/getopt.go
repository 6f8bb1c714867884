package cli

import (
	"fmt"
	"slices"
	"strings"
)

// Invocation is a command as it was called.
type Invocation struct {
	Command *Command
	Args    []string
	values  map[string]string
}

// Has tells whether an option was given; name is its long form, or its letter if it has none.
func (in Invocation) Has(name string) bool {
	_, ok := in.values[name]
	return ok
}

// Value returns what an option was given, the last time if repeated, and "" without it.
func (in Invocation) Value(name string) string { return in.values[name] }

// CountOK tells whether the number of arguments is one that the command takes.
func (in Invocation) CountOK() bool {
	n := len(in.Args)
	return n >= in.Command.Min && (in.Command.Max < 0 || n <= in.Command.Max)
}

// Order says where options may stand.
type Order int

// Orders of options and arguments.
const (
	OptionsFirst Order = iota // the first argument ends the options
	Mixed                     // options may follow arguments
)

// helpOption is an option of every command, which usage lines do not mention.
var helpOption = Option{Long: "help", Help: "print what the command does and exit"}

// Parse reads the words after the command's name. Letters may be joined (-al), a long option may be
// shortened to a prefix of its own, and -- ends the options. Besides its own options every command
// has "help". The texts of errors are those that legacy programs print.
func (c *Command) Parse(args []string, order Order) (Invocation, error) {
	in := Invocation{Command: c, values: map[string]string{}}
	rest, err := parseOptions(slices.Concat(c.Options, []Option{helpOption}), args, order, func(o Option, value string) {
		in.values[o.name()] = value
	})
	in.Args = rest
	return in, err
}

// programOptions are what stands before the sub-command, for every program.
var programOptions = []Option{
	{Long: "prefix", Arg: "DIR", Help: "look for the daemon whose files lie below DIR, not for that of the machine"},
	{Short: 'h', Long: "help", Help: "print the sub-commands and exit"},
	{Long: "version", Help: "print the version and exit"},
}

// Line is a command line without what its sub-command has to read.
type Line struct {
	Prefix  string   // of --prefix, or ""
	Help    bool     // --help
	Version bool     // --version
	Rest    []string // from the sub-command on
}

// ReadLine reads a program's own options, which are --prefix, --help and --version.
func ReadLine(args []string) (Line, error) {
	var line Line
	rest, err := parseOptions(programOptions, args, OptionsFirst, func(o Option, value string) {
		switch o.Long {
		case "prefix":
			line.Prefix = value
		case "help":
			line.Help = true
		case "version":
			line.Version = true
		}
	})
	line.Rest = rest
	return line, err
}

// parseOptions calls set for every option in args and returns the arguments.
func parseOptions(options []Option, args []string, order Order, set func(Option, string)) ([]string, error) {
	var rest []string
	for len(args) > 0 {
		word := args[0]
		args = args[1:]
		var err error
		switch {
		case word == "--":
			return append(rest, args...), nil
		case strings.HasPrefix(word, "--"):
			args, err = parseLong(options, word[2:], args, set)
		case len(word) > 1 && word[0] == '-':
			args, err = parseShort(options, word[1:], args, set)
		case order == OptionsFirst:
			return append(append(rest, word), args...), nil
		default:
			rest = append(rest, word)
		}
		if err != nil {
			return nil, err
		}
	}
	return rest, nil
}

// parseLong reads --word and, where its value is a word of its own, the next one of args.
func parseLong(options []Option, word string, args []string, set func(Option, string)) ([]string, error) {
	name, value, hasValue := strings.Cut(word, "=")
	var found []Option
	for _, o := range options {
		if o.Long == name {
			found = []Option{o}
			break
		}
		if o.Long != "" && strings.HasPrefix(o.Long, name) {
			found = append(found, o)
		}
	}
	switch {
	case len(found) == 0:
		return nil, fmt.Errorf("option --%s not recognized", name)
	case len(found) > 1:
		return nil, fmt.Errorf("option --%s not a unique prefix", name)
	}
	o := found[0]
	switch {
	case o.Arg == "" && hasValue:
		return nil, fmt.Errorf("option --%s must not have an argument", o.Long)
	case o.Arg != "" && !hasValue:
		if len(args) == 0 {
			return nil, fmt.Errorf("option --%s requires argument", o.Long)
		}
		value, args = args[0], args[1:]
	}
	set(o, value)
	return args, nil
}

// parseShort reads the letters of -abc; what follows a letter that takes a value is its value.
func parseShort(options []Option, letters string, args []string, set func(Option, string)) ([]string, error) {
	for i := 0; i < len(letters); i++ {
		o, ok := findShort(options, letters[i])
		if !ok {
			return nil, fmt.Errorf("option -%s not recognized", letters[i:i+1])
		}
		if o.Arg == "" {
			set(o, "")
			continue
		}
		value := letters[i+1:]
		if value == "" {
			if len(args) == 0 {
				return nil, fmt.Errorf("option -%s requires argument", letters[i:i+1])
			}
			value, args = args[0], args[1:]
		}
		set(o, value)
		break
	}
	return args, nil
}

func findShort(options []Option, letter byte) (Option, bool) {
	for _, o := range options {
		if o.Short == letter {
			return o, true
		}
	}
	return Option{}, false
}
