// Package lab is the toolstack of machines without Xen: a domain is a network namespace and a process,
// its vifs are veth pairs vif<domid>.<n> that the machine's own vif-script connects. So the whole way from a domain's
// configuration to frames on a vnet can be gone anywhere.
//
// Who holds a domain is its first process, the keeper (Main), pid 1 of a pid namespace and in a session of
// its own: it survives xend. When it ends, however it does, the kernel removes the namespaces and with them
// every process and every device of the domain. What else belongs to a domain (a directory, a cgroup, address rules)
// is found by the next xend, which knows from the keeper's own marks on the disk how far the domain had come.
package lab
