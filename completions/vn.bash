# bash completion for vn
# Generated from the command table in cmd/vn by go generate; edit that.

_vn_vnet()
{
    "$@" vnets | sed -n 's/.*(vnetif \([^)]*\)).*/\1/p'
}

_vn_device()
{
    ls /sys/class/net
}

_vn_peer()
{
    "$@" peers | sed -n 's/.*(addr \([^)]*\)).*/\1/p'
}

_vn()
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
    vnets)
        options='-a --all -l --long --json'
        kind=vnet
        ;;
    vnifs)
        options='--json'
        kind=vnet
        ;;
    vnet-create)
        options='-s --security -b --bridge -v --vnetif'
        ;;
    vnet-delete)
        options='-b --bridge'
        ((argument)) || kind=vnet
        ;;
    vifs)
        options='--vnet --json'
        ;;
    vif-add)
        options='-i --interface'
        case $argument in
        0) kind=vnet ;;
        1) kind=device ;;
        esac
        ;;
    vif-delete)
        options='-i --interface'
        case $argument in
        0) kind=vnet ;;
        1) kind=device ;;
        esac
        ;;
    varp)
        options='--vnet --host --json'
        ;;
    varp-flush)
        ;;
    peers)
        options='--host --json'
        ;;
    peer-add)
        options='-p --port'
        ;;
    peer-delete)
        ((argument)) || kind=peer
        ;;
    bridges)
        options='-l --long --json'
        kind=device
        ;;
    stats)
        options='-a --all --vnet --host --json -l --long'
        ;;
    check)
        options='-v --verbose --json'
        ;;
    trace)
        options='--json'
        ;;
    events)
        options='-f --follow -w --warnings -g --grep -n --lines --json'
        ;;
    topology)
        options='-f --format --json'
        ;;
    top)
        options='-m --macs --sample -d --delay -n --rounds -s --sort --vnet --host --json'
        ;;
    capture)
        options='-r --read -w --write -c --count'
        ((argument)) || kind=vnet
        ;;
    key-generate)
        ;;
    key-status)
        options='--vnet --host -l --long --json'
        ;;
    key-rotate)
        options='-f --force'
        kind=keyword
        candidates='add use remove'
        ;;
    mtu)
        options='--host -l --long --json'
        ;;
    insmod)
        ((argument)) || kind=keyword
        candidates='varp_mcaddr='
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
        candidates='vnets vnifs vnet-create vnet-delete vifs vif-add vif-delete varp varp-flush peers peer-add peer-delete bridges stats check trace events topology top capture key-generate key-status key-rotate mtu insmod help' ;;
    vnet)
        candidates=$(_vn_vnet "${program[@]}" 2>/dev/null) ;;
    device)
        candidates=$(_vn_device "${program[@]}" 2>/dev/null) ;;
    peer)
        candidates=$(_vn_peer "${program[@]}" 2>/dev/null) ;;
    esac
    # Not compgen -W, which would expand what stands in names.
    for candidate in $candidates; do
        [[ $candidate == "$cur"* ]] && COMPREPLY+=("$candidate")
    done
    if declare -F __ltrim_colon_completions >/dev/null; then
        __ltrim_colon_completions "$cur"
    fi
}
complete -F _vn vn
