# fish completion for vn
# Generated from the command table in cmd/vn by go generate; edit that.

# The program with the options before the sub-command.
function __vn_program
    set -l words (commandline -opc)
    echo vn
    if set -l i (contains -i -- --prefix $words)
        and set -q words[(math $i + 1)]
        printf '%s\n' --prefix $words[(math $i + 1)]
    end
end

function __vn_vnet
    sh -c '"$@" vnets | sed -n \'s/.*(vnetif \\([^)]*\\)).*/\\1/p\'' sh (__vn_program) 2>/dev/null
end

function __vn_device
    sh -c 'ls /sys/class/net' sh (__vn_program) 2>/dev/null
end

function __vn_peer
    sh -c '"$@" peers | sed -n \'s/.*(addr \\([^)]*\\)).*/\\1/p\'' sh (__vn_program) 2>/dev/null
end

complete -c vn -f
complete -c vn -n __fish_use_subcommand -l prefix -x -a '(__fish_complete_directories)' -d 'look for the daemon whose files lie below DIR, not for that of the machine'
complete -c vn -n __fish_use_subcommand -s h -l help -d 'print the sub-commands and exit'
complete -c vn -n __fish_use_subcommand -l version -d 'print the version and exit'
complete -c vn -n __fish_use_subcommand -a vnets -d 'print the vnets, or those whose id or interface is given'
complete -c vn -n '__fish_seen_subcommand_from vnets' -s a -l all -d 'with the interface, the local addresses and the addresses of other hosts'
complete -c vn -n '__fish_seen_subcommand_from vnets' -s l -l long -d 'with the interface'
complete -c vn -n '__fish_seen_subcommand_from vnets' -l json -d 'as JSON'
complete -c vn -n '__fish_seen_subcommand_from vnets' -a '(__vn_vnet)'
complete -c vn -n __fish_use_subcommand -a vnifs -d 'print the interfaces of the vnets, or of those given, in the layout of ifconfig'
complete -c vn -n '__fish_seen_subcommand_from vnifs' -l json -d 'as JSON'
complete -c vn -n '__fish_seen_subcommand_from vnifs' -a '(__vn_vnet)'
complete -c vn -n __fish_use_subcommand -a vnet-create -d 'create a vnet until the daemon restarts'
complete -c vn -n '__fish_seen_subcommand_from vnet-create' -s s -l security -x -d 'none (the default), auth or conf'
complete -c vn -n '__fish_seen_subcommand_from vnet-create' -s b -l bridge -x -d 'put the interface on this bridge, and make it if need be'
complete -c vn -n '__fish_seen_subcommand_from vnet-create' -s v -l vnetif -x -d 'name of the interface, by default vnif and the id'
complete -c vn -n __fish_use_subcommand -a vnet-delete -d 'delete a vnet that vnet-create made'
complete -c vn -n '__fish_seen_subcommand_from vnet-delete' -s b -l bridge -d 'delete the bridge that its interface was on, too, if nothing else is on it'
complete -c vn -n '__fish_seen_subcommand_from vnet-delete' -a '(__vn_vnet)'
complete -c vn -n __fish_use_subcommand -a vifs -d 'print the addresses that live on this host'
complete -c vn -n '__fish_seen_subcommand_from vifs' -l vnet -x -d 'only those of that vnet'
complete -c vn -n '__fish_seen_subcommand_from vifs' -l json -d 'as JSON'
complete -c vn -n __fish_use_subcommand -a vif-add -d 'say that MAC VMAC of vnet VNET lives on this host'
complete -c vn -n '__fish_seen_subcommand_from vif-add' -s i -l interface -d 'VMAC is the name of an interface; its MAC is meant'
complete -c vn -n '__fish_seen_subcommand_from vif-add' -a '(__vn_vnet)'
complete -c vn -n '__fish_seen_subcommand_from vif-add' -a '(__vn_device)'
complete -c vn -n __fish_use_subcommand -a vif-delete -d 'forget MAC VMAC of vnet VNET'
complete -c vn -n '__fish_seen_subcommand_from vif-delete' -s i -l interface -d 'VMAC is the name of an interface; its MAC is meant'
complete -c vn -n '__fish_seen_subcommand_from vif-delete' -a '(__vn_vnet)'
complete -c vn -n '__fish_seen_subcommand_from vif-delete' -a '(__vn_device)'
complete -c vn -n __fish_use_subcommand -a varp -d 'print the settings of the data plane, and which address lives on which other host'
complete -c vn -n '__fish_seen_subcommand_from varp' -l vnet -x -d 'only those of that vnet'
complete -c vn -n '__fish_seen_subcommand_from varp' -l host -x -d 'only those of that host'
complete -c vn -n '__fish_seen_subcommand_from varp' -l json -d 'as JSON'
complete -c vn -n __fish_use_subcommand -a varp-flush -d 'forget which address lives on which other host'
complete -c vn -n __fish_use_subcommand -a peers -d 'print the hosts to which group packets are forwarded'
complete -c vn -n '__fish_seen_subcommand_from peers' -l host -x -d 'only those of that host'
complete -c vn -n '__fish_seen_subcommand_from peers' -l json -d 'as JSON'
complete -c vn -n __fish_use_subcommand -a peer-add -d 'forward group packets to HOST until the daemon restarts'
complete -c vn -n '__fish_seen_subcommand_from peer-add' -s p -l port -x -d 'its UDP port, by default 1798'
complete -c vn -n __fish_use_subcommand -a peer-delete -d 'no longer forward group packets to HOST'
complete -c vn -n '__fish_seen_subcommand_from peer-delete' -a '(__vn_peer)'
complete -c vn -n __fish_use_subcommand -a bridges -d 'print the bridges of this host and their ports, or only those given, or those with the ports given'
complete -c vn -n '__fish_seen_subcommand_from bridges' -s l -l long -d 'with bridge ids, as brctl show prints them'
complete -c vn -n '__fish_seen_subcommand_from bridges' -l json -d 'as JSON'
complete -c vn -n '__fish_seen_subcommand_from bridges' -a '(__vn_device)'
complete -c vn -n __fish_use_subcommand -a stats -d 'print what vnets and hosts sent and received, where the packets went, and what was dropped, and why'
complete -c vn -n '__fish_seen_subcommand_from stats' -s a -l all -d 'also idle vnets, and the reasons that did not occur'
complete -c vn -n '__fish_seen_subcommand_from stats' -l vnet -x -d 'only what went to and fro in that vnet'
complete -c vn -n '__fish_seen_subcommand_from stats' -l host -x -d 'only what went to and fro between this host and that one'
complete -c vn -n '__fish_seen_subcommand_from stats' -l json -d 'as JSON'
complete -c vn -n '__fish_seen_subcommand_from stats' -s l -l long -d 'drops and the fast path as an S-expression'
complete -c vn -n __fish_use_subcommand -a check -d 'ask all other hosts, look at this one, and say what is wrong and how to mend it'
complete -c vn -n '__fish_seen_subcommand_from check' -s v -l verbose -d 'also what is well, and what each host answered'
complete -c vn -n '__fish_seen_subcommand_from check' -l json -d 'as JSON'
complete -c vn -n __fish_use_subcommand -a trace -d 'say where something is, who says so, and which way frames to it go, with a probe'
complete -c vn -n '__fish_seen_subcommand_from trace' -l json -d 'as JSON'
complete -c vn -n __fish_use_subcommand -a events -d 'print what an operator must know, the newest last'
complete -c vn -n '__fish_seen_subcommand_from events' -s f -l follow -d 'go on, until ctrl-C, as more comes'
complete -c vn -n '__fish_seen_subcommand_from events' -s w -l warnings -d 'only those that ask for something'
complete -c vn -n '__fish_seen_subcommand_from events' -s g -l grep -x -d 'only those that contain TEXT, in whatever case'
complete -c vn -n '__fish_seen_subcommand_from events' -s n -l lines -x -d 'the last N only'
complete -c vn -n '__fish_seen_subcommand_from events' -l json -d 'as JSON'
complete -c vn -n __fish_use_subcommand -a topology -d 'draw this host\'s vnets, or those that are named, their domains, and the other hosts'
complete -c vn -n '__fish_seen_subcommand_from topology' -s f -l format -x -d 'draw it so'
complete -c vn -n '__fish_seen_subcommand_from topology' -l json -d 'the same as --format json'
complete -c vn -n __fish_use_subcommand -a top -d 'show live what vnets and hosts send and receive, and what is dropped, the busiest first'
complete -c vn -n '__fish_seen_subcommand_from top' -s m -l macs -d 'also the MACs of this host, estimated from a sample'
complete -c vn -n '__fish_seen_subcommand_from top' -l sample -x -d 'look at one frame in N for that, by default 64'
complete -c vn -n '__fish_seen_subcommand_from top' -s d -l delay -x -d 'the time between two looks, by default 1'
complete -c vn -n '__fish_seen_subcommand_from top' -s n -l rounds -x -d 'end after N looks'
complete -c vn -n '__fish_seen_subcommand_from top' -s s -l sort -x -d 'by bytes (the default), packets or name'
complete -c vn -n '__fish_seen_subcommand_from top' -l vnet -x -d 'only that vnet'
complete -c vn -n '__fish_seen_subcommand_from top' -l host -x -d 'only that host'
complete -c vn -n '__fish_seen_subcommand_from top' -l json -d 'as JSON, what was counted between two looks'
complete -c vn -n __fish_use_subcommand -a capture -d 'capture a vnet\'s frames on its interface and on the underlay device together, and say what became of each'
complete -c vn -n '__fish_seen_subcommand_from capture' -s r -l read -x -d 'read a pcap or pcapng file that was captured on an underlay device, tcpdump\'s for instance'
complete -c vn -n '__fish_seen_subcommand_from capture' -s w -l write -x -d 'write a pcapng file, with comments, for Wireshark (- is the standard output)'
complete -c vn -n '__fish_seen_subcommand_from capture' -s c -l count -x -d 'end after N packets'
complete -c vn -n '__fish_seen_subcommand_from capture' -a '(__vn_vnet)'
complete -c vn -n __fish_use_subcommand -a key-generate -d 'make the key of vnet ID, or the one for all vnets that have none of their own'
complete -c vn -n __fish_use_subcommand -a key-status -d 'print with which keys vnets are protected, and which hosts take part'
complete -c vn -n '__fish_seen_subcommand_from key-status' -l vnet -x -d 'only those of that vnet'
complete -c vn -n '__fish_seen_subcommand_from key-status' -l host -x -d 'only those of that host'
complete -c vn -n '__fish_seen_subcommand_from key-status' -s l -l long -d 'as an S-expression'
complete -c vn -n '__fish_seen_subcommand_from key-status' -l json -d 'as JSON'
complete -c vn -n __fish_use_subcommand -a key-rotate -d 'change a key without loss, in the steps add, use and remove'
complete -c vn -n '__fish_seen_subcommand_from key-rotate' -s f -l force -d 'use a key although hosts do not have it, or remove one although hosts still send with it'
complete -c vn -n '__fish_seen_subcommand_from key-rotate' -a 'add use remove'
complete -c vn -n __fish_use_subcommand -a mtu -d 'print how large a packet may be, to the group and to each host'
complete -c vn -n '__fish_seen_subcommand_from mtu' -l host -x -d 'only those of that host'
complete -c vn -n '__fish_seen_subcommand_from mtu' -s l -l long -d 'as an S-expression'
complete -c vn -n '__fish_seen_subcommand_from mtu' -l json -d 'as JSON'
complete -c vn -n __fish_use_subcommand -a insmod -d 'make sure that the data plane runs, with group ADDR if given'
complete -c vn -n '__fish_seen_subcommand_from insmod' -a 'varp_mcaddr='
complete -c vn -n __fish_use_subcommand -a help -d 'print the commands, or all about one'
complete -c vn -n '__fish_seen_subcommand_from help' -s l -l long -d 'with options'
complete -c vn -n '__fish_seen_subcommand_from help' -a 'vnets vnifs vnet-create vnet-delete vifs vif-add vif-delete varp varp-flush peers peer-add peer-delete bridges stats check trace events topology top capture key-generate key-status key-rotate mtu insmod help'
