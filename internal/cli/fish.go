package cli

import (
	"fmt"
	"strings"
)

// Fish returns the completion of the table's program for fish, from what Bash takes.
func (t *Table) Fish(source string, lists map[Kind]string) string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	fn := "__" + t.Program

	line("# fish completion for %s", t.Program)
	line("# Generated from the command table in %s by go generate; edit that.", source)
	line("")
	line("# The program with the options before the sub-command.")
	line("function %s_program\n    set -l words (commandline -opc)\n    echo %s", fn, t.Program)
	line("    if set -l i (contains -i -- --prefix $words)\n        and set -q words[(math $i + 1)]\n        printf '%%s\\n' --prefix $words[(math $i + 1)]\n    end\nend\n")
	for _, kind := range t.kinds() {
		if list, ok := lists[kind]; ok {
			line("function %s_%s\n    sh -c %s sh (%s_program) 2>/dev/null\nend\n", fn, kind, fishQuote(list), fn)
		}
	}
	line("complete -c %s -f", t.Program)
	for _, o := range programOptions {
		line("complete -c %s -n __fish_use_subcommand%s", t.Program, fishOption(o))
	}
	for _, c := range t.Commands {
		if !c.Supported() {
			continue
		}
		line("complete -c %s -n __fish_use_subcommand -a %s -d %s", t.Program, c.Name, fishQuote(c.Summary))
		in := fishQuote("__fish_seen_subcommand_from " + c.Name)
		for _, o := range c.Options {
			line("complete -c %s -n %s%s", t.Program, in, fishOption(o))
		}
		seen := map[Kind]bool{}
		for _, k := range c.Kinds {
			if seen[k] {
				continue
			}
			seen[k] = true
			what := " -a " + fishQuote("("+fn+"_"+string(k)+")")
			switch k {
			case File:
				what = " -F"
			case Name:
				what = " -a " + fishQuote(strings.Join(t.names(), " "))
			case Keyword:
				what = " -a " + fishQuote(strings.Join(c.Words, " "))
			}
			line("complete -c %s -n %s%s", t.Program, in, what)
		}
	}
	return b.String()
}

// names are the names of the supported commands.
func (t *Table) names() []string {
	var names []string
	for _, c := range t.Commands {
		if c.Supported() {
			names = append(names, c.Name)
		}
	}
	return names
}

// fishOption is an option as complete wants it.
func fishOption(o Option) string {
	s := ""
	if o.Short != 0 {
		s += " -s " + string(o.Short)
	}
	if o.Long != "" {
		s += " -l " + o.Long
	}
	switch o.Arg {
	case "":
	case "DIR":
		s += " -x -a '(__fish_complete_directories)'"
	default:
		s += " -x"
	}
	return s + " -d " + fishQuote(o.Help)
}

func fishQuote(s string) string {
	return "'" + strings.NewReplacer(`\`, `\\`, "'", `\'`).Replace(s) + "'"
}
