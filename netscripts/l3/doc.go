// Package l3 carries what makes a network device speak IP — addresses, routes, next-hop objects,
// neighbours, per-device settings — from one device to another, or back to where it was.
//
// Everything is kept as the messages in which the kernel reported it, so that attributes which no
// library knows survive: next-hop ids, protocols and metrics of addresses, preferences, encapsulations.
// Only the interface index is replaced. What a dump reports in another form than a request takes it
// (remaining lifetimes, flags of the moment) is translated; the code says where.
//
// A Conn works in the network namespace of its host. Settings live in /proc/sys and
// belong to the namespace of the calling thread, which must be the same.
package l3
