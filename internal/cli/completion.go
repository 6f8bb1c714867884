package cli

import (
	"fmt"
	"strings"
)

// Bash returns the completion of the table's program for bash. Lists gives, for kinds of arguments,
// a pipeline that prints the candidates one a line; in it "$@" is the program with the options that
// the user gave before the sub-command. File and Keyword need none.
func (t *Table) Bash(source string, lists map[Kind]string) string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	fn := "_" + t.Program

	line("# bash completion for %s", t.Program)
	line("# Generated from the command table in %s by go generate; edit that.", source)
	line("")
	for _, kind := range t.kinds() {
		if list, ok := lists[kind]; ok {
			line("%s_%s()\n{\n    %s\n}\n", fn, kind, list)
		}
	}
	line("%s()\n{", fn)
	line(`    local cur words cword
    if declare -F _get_comp_words_by_ref >/dev/null; then
        _get_comp_words_by_ref -n : cur words cword # ids hold colons
    else
        words=("${COMP_WORDS[@]}") cword=$COMP_CWORD cur=${COMP_WORDS[COMP_CWORD]}
    fi
    COMPREPLY=()

    # The sub-command, what stands before it, and the number of the argument in question.
    local command= argument=0 i
    local -a program=("${words[0]}")
    for ((i = 1; i < cword; i++)); do
        if [[ -z $command ]]; then
            case ${words[i]} in`)
	for _, o := range programOptions {
		if o.Arg != "" {
			line(`            %s)
                program+=("${words[i]}" "${words[i + 1]}")
                ((++i)) ;;`, strings.Join(o.forms(), " | "))
		}
	}
	line(`            -*) program+=("${words[i]}") ;;
            *) command=${words[i]} ;;
            esac`)
	line("        elif [[ ${words[i]} != -* ]]; then")
	line("            ((++argument))")
	line("        fi")
	line("    done")
	for _, o := range programOptions {
		if o.Arg != "" {
			line(`    case ${words[cword - 1]} in
    %s)
        [[ -n $command ]] || { COMPREPLY=($(compgen -d -- "$cur")); return; } ;;
    esac`, strings.Join(o.forms(), " | "))
		}
	}

	line("\n    local options= kind= candidates= candidate")
	line("    case $command in")
	var names []string
	for _, c := range t.Commands {
		if !c.Supported() {
			continue
		}
		names = append(names, c.Name)
		line("    %s)", c.Name)
		if forms := allForms(c.Options); forms != "" {
			line("        options='%s'", forms)
		}
		switch n := len(c.Kinds); {
		case n == 1 && c.Max == 1:
			line("        ((argument)) || kind=%s", c.Kinds[0])
		case n == 1:
			line("        kind=%s", c.Kinds[0])
		case n > 1:
			line("        case $argument in")
			for i, k := range c.Kinds {
				line("        %d) kind=%s ;;", i, k)
			}
			line("        esac")
		}
		if len(c.Words) > 0 {
			line("        candidates='%s'", strings.Join(c.Words, " "))
		}
		line("        ;;")
	}
	line("    '')")
	line("        options='%s'", allForms(programOptions))
	line("        kind=%s ;;", Name)
	line("    esac")
	line(`
    if [[ $cur == -* ]]; then
        COMPREPLY=($(compgen -W "$options" -- "$cur"))
        return
    fi
    case $kind in
    %s)
        compopt -o filenames 2>/dev/null
        local IFS=$'\n'
        COMPREPLY=($(compgen -f -- "$cur"))
        return ;;
    %s)
        candidates='%s' ;;`, File, Name, strings.Join(names, " "))
	for _, kind := range t.kinds() {
		if _, ok := lists[kind]; ok {
			line("    %s)\n        candidates=$(%s_%s \"${program[@]}\" 2>/dev/null) ;;", kind, fn, kind)
		}
	}
	line(`    esac
    # Not compgen -W, which would expand what stands in names.
    for candidate in $candidates; do
        [[ $candidate == "$cur"* ]] && COMPREPLY+=("$candidate")
    done
    if declare -F __ltrim_colon_completions >/dev/null; then
        __ltrim_colon_completions "$cur"
    fi
}
complete -F %s %s`, fn, t.Program)
	return b.String()
}

// kinds returns the kinds of arguments that supported commands take, each once.
func (t *Table) kinds() []Kind {
	var ks []Kind
	seen := map[Kind]bool{}
	for _, c := range t.Commands {
		for _, k := range c.Kinds {
			if c.Supported() && !seen[k] {
				seen[k] = true
				ks = append(ks, k)
			}
		}
	}
	return ks
}

func allForms(options []Option) string {
	var f []string
	for _, o := range options {
		f = append(f, o.forms()...)
	}
	return strings.Join(f, " ")
}
