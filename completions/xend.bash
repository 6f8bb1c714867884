# bash completion for xend
_xend()
{
    local cur=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD - 1]}
    case $previous in
    --prefix) COMPREPLY=($(compgen -d -- "$cur")) ;;
    --config) COMPREPLY=($(compgen -f -- "$cur")) ;;
    *) COMPREPLY=($(compgen -W 'start stop restart reload status check help --check --json -v --prefix --config --foreground --version --help' -- "$cur")) ;;
    esac
}
complete -F _xend xend
