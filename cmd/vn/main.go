// Command vn looks into the data plane and changes it while it runs, with the commands and the
// output of the original's vn. It speaks with the daemon over the low-level control socket, and with
// the kernel over netlink about devices and bridges.
//
// Besides the original's commands it sends two of ours, whose replies are one form each. Drops,
// one (drop …) for every reason that the data plane knows, those without packets included, and one (from …) for
// each place from which most of what was dropped as not_underlay came:
//
//	(vn.stats)
//	(stats
//	 (drop (reason unknown_vnet) (packets 12) (help "frame for a vnet that this host does not have"))
//	 (drop …)
//	 (from (device vnet97) (addr 192.0.2.7) (packets 3))
//	)
//
// What fits where: how full frames are carried (mode: fragment or pmtu), the MTU of the vnifs (0: none), and a
// path for the group and for each peer and each host in the VARP cache; mtu is that of the path, and
// ip, udp and header are the bytes that each layer adds to a frame (EtherIP without UDP: udp 0), esp is there only for
// vnets with security:
//
//	(vn.mtu)
//	(mtu
//	 (mode fragment)
//	 (mtu 1500)
//	 (path (to group) (addr 224.10.0.1) (device eth0) (mtu 1500) (ip 20) (udp 8) (header 22))
//	 (path (to peer) (addr 192.0.2.2) (device eth0) (mtu 1500) (ip 20) (udp 8) (header 22))
//	 (path (to group) (addr 224.10.0.1) (device eth0) (mtu 1500) (ip 20) (udp 8) (header 22) (esp 42))
//	)
package main

import (
	"context"
	"os"
)

//go:generate go test -run TestGenerated -update

func main() {
	os.Exit(newApp(os.Stdout, os.Stderr).run(context.Background(), os.Args[1:]))
}
