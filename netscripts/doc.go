// Package netscripts is the network scripts of a Xen host as functions: network-bridge, which puts a
// bridge under a machine's network device without cutting the machine off, network-vnet, and
// vif-bridge, which the hotplug system runs for each virtual interface. They keep the names,
// arguments, environment and effects of the shell scripts that they replace, work by netlink, and
// need neither xend nor the xenstore tools.
//
// A run works in the network namespace of the calling thread, so a caller that has entered another
// one must have locked its thread. Nothing of this package runs on a goroutine of its own.
package netscripts
