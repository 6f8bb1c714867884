# fish completion for xm
# Generated from the command table in cmd/xm by go generate; edit that.

# The program with the options before the sub-command.
function __xm_program
    set -l words (commandline -opc)
    echo xm
    if set -l i (contains -i -- --prefix $words)
        and set -q words[(math $i + 1)]
        printf '%s\n' --prefix $words[(math $i + 1)]
    end
end

function __xm_vnet
    sh -c '"$@" vnet-list' sh (__xm_program) 2>/dev/null
end

function __xm_domain
    sh -c '"$@" list | awk \'NR > 1 { print $1 }\'' sh (__xm_program) 2>/dev/null
end

complete -c xm -f
complete -c xm -n __fish_use_subcommand -l prefix -x -a '(__fish_complete_directories)' -d 'look for the daemon whose files lie below DIR, not for that of the machine'
complete -c xm -n __fish_use_subcommand -s h -l help -d 'print the sub-commands and exit'
complete -c xm -n __fish_use_subcommand -l version -d 'print the version and exit'
complete -c xm -n __fish_use_subcommand -a vnet-create -d 'create a vnet as described in file CONFIG'
complete -c xm -n '__fish_seen_subcommand_from vnet-create' -F
complete -c xm -n __fish_use_subcommand -a vnet-list -d 'list the vnets'
complete -c xm -n '__fish_seen_subcommand_from vnet-list' -s l -l long -d 'print configurations, not ids'
complete -c xm -n '__fish_seen_subcommand_from vnet-list' -a '(__xm_vnet)'
complete -c xm -n __fish_use_subcommand -a vnet-delete -d 'delete vnet ID'
complete -c xm -n '__fish_seen_subcommand_from vnet-delete' -a '(__xm_vnet)'
complete -c xm -n __fish_use_subcommand -a list -d 'list the domains, or those named'
complete -c xm -n '__fish_seen_subcommand_from list' -s l -l long -d 'print all that is known, as S-expressions'
complete -c xm -n '__fish_seen_subcommand_from list' -a '(__xm_domain)'
complete -c xm -n __fish_use_subcommand -a info -d 'print facts about this host and its hypervisor'
complete -c xm -n __fish_use_subcommand -a log -d 'print the daemon\'s log'
complete -c xm -n __fish_use_subcommand -a dmesg -d 'print the hypervisor\'s messages'
complete -c xm -n '__fish_seen_subcommand_from dmesg' -s c -l clear -d 'empty the hypervisor\'s buffer; print nothing'
complete -c xm -n __fish_use_subcommand -a help -d 'print the sub-commands, or all about one'
complete -c xm -n '__fish_seen_subcommand_from help' -s l -l long -d 'with options, and with the original\'s commands that are not supported'
complete -c xm -n '__fish_seen_subcommand_from help' -a 'vnet-create vnet-list vnet-delete list info log dmesg help'
