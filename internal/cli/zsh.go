package cli

import (
	"fmt"
	"strings"
)

// Zsh returns the completion of the table's program for zsh, from what Bash takes.
func (t *Table) Zsh(source string, lists map[Kind]string) string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	fn := "_" + t.Program

	line("#compdef %s", t.Program)
	line("# Generated from the command table in %s by go generate; edit that.", source)
	line("")
	for _, kind := range t.kinds() {
		if list, ok := lists[kind]; ok {
			line("%s_%s() {\n    local -a candidates\n    candidates=(${(f)\"$(set -- $program; %s 2>/dev/null)\"})\n    compadd -a candidates\n}\n", fn, kind, list)
		}
	}
	line("%s_commands() {\n    local -a commands\n    commands=(", fn)
	for _, c := range t.Commands {
		if c.Supported() {
			line("        %s", single(c.Name+":"+c.Summary))
		}
	}
	line("    )\n    _describe -t commands '%s command' commands\n}\n", t.Program)
	line("%s() {", fn)
	line("    local state line\n    local -a program\n    typeset -A opt_args")
	line("    _arguments -C \\")
	for _, o := range programOptions {
		line("        %s \\", zshOption(o))
	}
	line("        '1:command:%s_commands' '*::argument:->argument'", fn)
	line("    [[ $state == argument ]] || return")
	line("    program=(%s ${opt_args[--prefix]:+--prefix} ${opt_args[--prefix]})", t.Program)
	line("    case $words[1] in")
	for _, c := range t.Commands {
		if !c.Supported() {
			continue
		}
		var specs []string
		for _, o := range c.Options {
			specs = append(specs, zshOption(o))
		}
		for i, k := range c.Kinds {
			place := fmt.Sprint(i + 1)
			if i == len(c.Kinds)-1 && c.Max != len(c.Kinds) {
				place = "*"
			}
			action := fn + "_" + string(k)
			switch k {
			case File:
				action = "_files"
			case Name:
				action = fn + "_commands"
			case Keyword:
				action = "(" + strings.Join(c.Words, " ") + ")"
			}
			specs = append(specs, single(place+":"+string(k)+":"+action))
		}
		if len(specs) > 0 {
			line("    %s)\n        _arguments %s ;;", c.Name, strings.Join(specs, " "))
		}
	}
	line("    esac\n}\n\n%s \"$@\"", fn)
	return b.String()
}

// zshOption is an option as _arguments wants it: '(-l --long)'{-l,--long}'[help]'.
func zshOption(o Option) string {
	help := "[" + strings.NewReplacer("[", `\[`, "]", `\]`, ":", `\:`).Replace(o.Help) + "]"
	if o.Arg != "" {
		action := ""
		if o.Arg == "DIR" {
			action = "_files -/"
		}
		help += ":" + strings.ToLower(o.Arg) + ":" + action
	}
	forms := o.forms()
	if len(forms) == 1 {
		return single(forms[0] + help)
	}
	return fmt.Sprintf("'(%s)'{%s}%s", strings.Join(forms, " "), strings.Join(forms, ","), single(help))
}

// single quotes a text for a shell.
func single(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }
