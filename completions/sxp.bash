# bash completion for sxp
_sxp()
{
    local cur=${COMP_WORDS[COMP_CWORD]}
    case ${COMP_WORDS[COMP_CWORD - 1]} in
    -dialect) COMPREPLY=($(compgen -W 'xend c' -- "$cur")) ;;
    *)
        if [[ $cur == -* ]]; then
            COMPREPLY=($(compgen -W '-p -w -dialect --prefix --version' -- "$cur"))
        else
            compopt -o filenames 2>/dev/null
            local IFS=$'\n'
            COMPREPLY=($(compgen -f -- "$cur"))
        fi ;;
    esac
}
complete -F _sxp sxp
