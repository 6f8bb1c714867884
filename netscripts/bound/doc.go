// Package bound knows what the kernel and programs bind to a device by its interface index, which stays with the
// device when another one takes over its name and place: rules of nftables and of traffic control, multicast routing,
// sockets and their memberships of groups. Rules of nftables can be moved; of the rest it says what there is.
//
// It works in the network namespace of the calling thread.
package bound
