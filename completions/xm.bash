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
    create)
        options='-f --defconfig -F --config -n --dryrun -p --paused -c --console -q --quiet -s --skipdtd'
        kind=file
        ;;
    list)
        options='-l --long --state'
        kind=domain
        ;;
    destroy)
        ((argument)) || kind=domain
        ;;
    shutdown)
        options='-a --all -w --wait -H --halt -R --reboot'
        kind=domain
        ;;
    reboot)
        options='-a --all -w --wait'
        kind=domain
        ;;
    pause)
        ((argument)) || kind=domain
        ;;
    unpause)
        ((argument)) || kind=domain
        ;;
    rename)
        case $argument in
        0) kind=domain ;;
        1) kind= ;;
        esac
        ;;
    console)
        ((argument)) || kind=domain
        ;;
    save)
        case $argument in
        0) kind=domain ;;
        1) kind=file ;;
        esac
        ;;
    restore)
        options='-p --paused'
        ((argument)) || kind=file
        ;;
    migrate)
        options='-l --live -p --port -s --ssl'
        case $argument in
        0) kind=domain ;;
        1) kind= ;;
        esac
        ;;
    domid)
        ((argument)) || kind=domain
        ;;
    domname)
        ;;
    mem-set)
        case $argument in
        0) kind=domain ;;
        1) kind= ;;
        esac
        ;;
    mem-max)
        case $argument in
        0) kind=domain ;;
        1) kind= ;;
        esac
        ;;
    vcpu-list)
        kind=domain
        ;;
    vcpu-pin)
        case $argument in
        0) kind=domain ;;
        1) kind= ;;
        esac
        ;;
    vcpu-set)
        case $argument in
        0) kind=domain ;;
        1) kind= ;;
        esac
        ;;
    sysrq)
        case $argument in
        0) kind=domain ;;
        1) kind= ;;
        esac
        ;;
    dump-core)
        options='-L --live -C --crash'
        case $argument in
        0) kind=domain ;;
        1) kind=file ;;
        esac
        ;;
    top)
        options='-d --delay -n --iterations -b --batch'
        ;;
    block-attach)
        case $argument in
        0) kind=domain ;;
        1) kind= ;;
        esac
        ;;
    block-detach)
        options='-f --force'
        case $argument in
        0) kind=domain ;;
        1) kind= ;;
        esac
        ;;
    block-list)
        options='-l --long'
        ((argument)) || kind=domain
        ;;
    network-attach)
        case $argument in
        0) kind=domain ;;
        1) kind= ;;
        esac
        ;;
    network-detach)
        options='-f --force'
        case $argument in
        0) kind=domain ;;
        1) kind= ;;
        esac
        ;;
    network-list)
        options='-l --long'
        ((argument)) || kind=domain
        ;;
    new)
        options='-f --defconfig -F --config -n --dryrun -q --quiet'
        kind=file
        ;;
    start)
        options='-p --paused -c --console'
        ((argument)) || kind=domain
        ;;
    delete)
        ((argument)) || kind=domain
        ;;
    suspend)
        ((argument)) || kind=domain
        ;;
    resume)
        options='-p --paused'
        ((argument)) || kind=domain
        ;;
    trigger)
        case $argument in
        0) kind=domain ;;
        1) kind= ;;
        esac
        ;;
    uptime)
        options='-s --short'
        kind=domain
        ;;
    sched-credit)
        options='-d --domain -w --weight -c --cap'
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
        candidates='vnet-create vnet-list vnet-delete create list destroy shutdown reboot pause unpause rename console save restore migrate domid domname mem-set mem-max vcpu-list vcpu-pin vcpu-set sysrq dump-core top block-attach block-detach block-list network-attach network-detach network-list new start delete suspend resume trigger uptime sched-credit info log dmesg help' ;;
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
