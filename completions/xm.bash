# bash completion for xm
# Generated from the command table in cmd/xm by go generate; edit that.

_xm_vnet()
{
    "$@" vnet-list
}

_xm_domain()
{
    "$@" list | awk 'NR > 1 { print $1 }'
}

_xm()
{
    local cur words cword
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
            case ${words[i]} in
            --prefix)
                program+=("${words[i]}" "${words[i + 1]}")
                ((++i)) ;;
            -*) program+=("${words[i]}") ;;
            *) command=${words[i]} ;;
            esac
        elif [[ ${words[i]} != -* ]]; then
            ((++argument))
        fi
    done
    case ${words[cword - 1]} in
    --prefix)
        [[ -n $command ]] || { COMPREPLY=($(compgen -d -- "$cur")); return; } ;;
    esac

    local options= kind= candidates= candidate
    case $command in
    vnet-create)
        ((argument)) || kind=file
        ;;
    vnet-list)
        options='-l --long'
        kind=vnet
        ;;
    vnet-delete)
        ((argument)) || kind=vnet
        ;;
    list)
        options='-l --long'
        kind=domain
        ;;
    info)
        ;;
    log)
        ;;
    dmesg)
        options='-c --clear'
        ;;
    help)
        options='-l --long'
        ((argument)) || kind=command
        ;;
    '')
        options='--prefix -h --help --version'
        kind=command ;;
    esac

    if [[ $cur == -* ]]; then
        COMPREPLY=($(compgen -W "$options" -- "$cur"))
        return
    fi
    case $kind in
    file)
        compopt -o filenames 2>/dev/null
        local IFS=$'\n'
        COMPREPLY=($(compgen -f -- "$cur"))
        return ;;
    command)
        candidates='vnet-create vnet-list vnet-delete list info log dmesg help' ;;
    vnet)
        candidates=$(_xm_vnet "${program[@]}" 2>/dev/null) ;;
    domain)
        candidates=$(_xm_domain "${program[@]}" 2>/dev/null) ;;
    esac
    # Not compgen -W, which would expand what stands in names.
    for candidate in $candidates; do
        [[ $candidate == "$cur"* ]] && COMPREPLY+=("$candidate")
    done
    if declare -F __ltrim_colon_completions >/dev/null; then
        __ltrim_colon_completions "$cur"
    fi
}
complete -F _xm xm
