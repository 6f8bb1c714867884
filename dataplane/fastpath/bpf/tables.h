// SPDX-License-Identifier: Apache-2.0
//
// What all programs of the fast path share: the tables, which user space fills, and how they are read.
// Every object has all of the tables; user space loads each table once and gives it to all objects.

#pragma once

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/pkt_cls.h>
#include <linux/tcp.h>
#include <linux/udp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define AF_INET 2
#define AF_INET6 10

// Since Linux 6.3; the same family inside and outside needs none, and what is redirected to a device's
// ingress gets its protocol anew from the Ethernet header.
#define DECAP_L3_IPV4 (1ULL << 7)
#define DECAP_L3_IPV6 (1ULL << 8)

#define VNET_HEADER 22
#define TCP_MIN 20
#define MAX_VNETS 4096
#define MAX_HOSTS 1024
#define MAX_VIF_MACS 16384
#define MAX_VIFS 512
#define MAX_QUEUES 1024

// A vnet that the fast path carries: security none.
struct vnet {
	__u8 id[16];
	__u32 slot; // of its counters, and of its MACs' keys
	__u32 vnif; // ifindex
	__u32 mtu;  // of the vnif; a longer frame is left
	__u32 zero;
};

// A MAC of a vnet.
struct mac_key {
	__u32 slot;
	__u8 mac[6];
	__u16 zero;
};

enum place { PLACE_LOCAL = 1, PLACE_REMOTE = 2 };

struct mac {
	__u8 host[16]; // care-of address, IPv4 mapped into IPv6; zero: on this host
	__u64 seen;    // bpf_ktime_get_ns of the last frame from it
	__u32 place;
	__u32 host_slot;
	__u64 bridged; // when a frame from it was last left to the bridge, so that the bridge does not forget it
};

// The port of the bridge that a MAC on this host is behind, if frames to and from it may pass the bridge by.
struct vif {
	__u32 ifindex;
	__u16 way;
	__u16 mtu; // a longer frame goes by the bridge, which judges it
};

enum vif_way { VIF_PEER = 1, VIF_EGRESS = 2 };

// Frames of a MAC go by the bridge once in so many ns: less than a third of the shortest time after which a bridge that
// is passed by forgets.
#define BRIDGE_EVERY 60000000000ULL

// A host that may be sent to, and heard from.
struct host {
	__u64 heard;   // when a socket, behind the host's firewall, last took a packet from it
	__u64 renewed; // when a packet was last left to the socket, to renew that
	__u32 slot;
	__u32 flags;
	__u8 via[16]; // with HOST_VIA: the neighbour by which the kernel's routes reach it, IPv4 mapped
};

enum { HOST_SEND = 1, HOST_RECEIVE = 2, HOST_VIA = 4 };

// How to send by one address family; written while flags is 0.
struct underlay {
	__u8 addr[16]; // this host's, IPv4 mapped
	__u32 ifindex;
	__u32 mtu;
	__u32 flags;
	__u16 port;     // big-endian
	__u8 ttl;
	__u8 flow_port; // the source port is a hash of the inner flow
	__u8 mac[6];    // of the device that has the address: what is for this host is sent to it
	__u16 zero;
};

enum { UNDERLAY_SEND = 1, UNDERLAY_RECEIVE = 2 };

struct timing {
	__u64 mac_ttl;  // ns after which a MAC that was not heard is left to user space
	__u64 host_ttl; // ns after which a host that no socket heard is left to the sockets
	__u64 renew;    // ns after which a packet is left to the socket now and then
	__u64 renew_every;
	__u64 alive;   // until when user space reads its sockets, and follows the routes, for certain: else nothing is left to renew
	__u64 version; // of what the tables mean; fastpath.go
	__u64 changes; // grows when user space has changed or taken out what was in a table: what is remembered of it is void
};

// How long programs remember what the tables said, for the next packets of a flow, if nothing has changed: by then ages are looked
// at again, and written.
#define RECENT_SPAN 4000000 // ns
#define RECENTS 64

struct counters {
	__u64 tx_frames, tx_bytes, rx_frames, rx_bytes;
};

// Why a packet was left to user space. The order is that of reasons in counters.go.
enum reason {
	LEFT_FLOOD,      // group destination
	LEFT_MISS,       // destination not known behind a host
	LEFT_SOURCE,     // source not known where it is
	LEFT_SIZE,       // does not fit the underlay
	LEFT_GSO,        // a super-frame that is not plain TCP
	LEFT_TAG,        // 802.1Q on its way out
	LEFT_HOST,       // host not heard by a socket lately, or not to be sent to
	LEFT_RENEW,      // to renew that
	LEFT_FORM,       // fragments, options, lengths that contradict each other
	LEFT_CHECKSUM,   // outer checksum that nobody has verified
	LEFT_VNET,       // not carried here
	LEFT_OFF,        // sending or receiving is off
	LEFT_SYN,        // user space clamps its MSS
	LEFT_ROOM,       // the kernel could not make room, or take it away
	LEFT_ERROR,      // half done: dropped
	LEFT_ORDER,      // its flow had others a moment ago that user space carries
	LEFT_QUEUE,      // lost in the pair that joins segments; user space adds what there was no room for
	LEFT_MAX,
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_VNETS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u32); // ifindex of the vnif, or of a vif whose frames may pass the bridge by
	__type(value, struct vnet);
} vnet_of_vnif SEC(".maps");

struct id {
	__u8 id[16];
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_VNETS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct id);
	__type(value, struct vnet);
} vnet_of_id SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 262144);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct mac_key);
	__type(value, struct mac);
} macs SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_VIF_MACS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct mac_key);
	__type(value, struct vif);
} vifs SEC(".maps");

// The devices of vifs. The kernel itself takes out one that goes away, which user space hears of later.
struct {
	__uint(type, BPF_MAP_TYPE_DEVMAP_HASH);
	__uint(max_entries, MAX_VIFS);
	__type(key, __u32);
	__type(value, __u32); // both: ifindex
} vif_devices SEC(".maps");

// Until when frames may pass bridges by (bpf_ktime_get_ns): user space has looked whether they have a policy.
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} bypass_until SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_HOSTS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct id); // address, IPv4 mapped into IPv6
	__type(value, struct host);
} hosts SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 2); // IPv4, IPv6
	__type(key, __u32);
	__type(value, struct underlay);
} underlays SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct timing);
} times SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, MAX_VNETS);
	__type(key, __u32);
	__type(value, struct counters);
} vnet_counters SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, MAX_HOSTS);
	__type(key, __u32);
	__type(value, struct counters);
} host_counters SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 2 * LEFT_MAX); // out, in
	__type(key, __u32);
	__type(value, __u64);
} left SEC(".maps");

static __always_inline int leave(__u32 way, enum reason why)
{
	__u32 k = way * LEFT_MAX + why;
	__u64 *n = bpf_map_lookup_elem(&left, &k);
	if (n)
		(*n)++;
	return why == LEFT_ERROR ? TC_ACT_SHOT : TC_ACT_UNSPEC;
}
#define OUT(why) leave(0, why)
#define IN(why) leave(1, why)

// touch stores the time only if it has grown old: a store per packet makes cores fight for the line.
static __always_inline void touch(__u64 *at, __u64 now)
{
	if ((__s64)(now - *at) > 10000000)
		*at = now;
}

// may_bypass reports whether frames may pass bridges by.
static __always_inline int may_bypass(__u64 now)
{
	__u32 zero = 0;
	__u64 *until = bpf_map_lookup_elem(&bypass_until, &zero);
	return until && now < *until;
}

// older reports whether a time lies more than span before now; 0 is never. Another processor may have
// stored a time a little after now.
static __always_inline int older(__u64 at, __u64 span, __u64 now)
{
	return !at || (now > at && now - at > span);
}

static __always_inline int same(const __u8 *a, const __u8 *b)
{
	const __u64 *x = (const __u64 *)a, *y = (const __u64 *)b;
	return x[0] == y[0] && x[1] == y[1];
}

static __always_inline int mapped(const __u8 *a)
{
	const __u32 *w = (const __u32 *)a;
	return w[0] == 0 && w[1] == 0 && w[2] == bpf_htonl(0xffff);
}

static __always_inline __u32 v4(const __u8 *a)
{
	return ((const __u32 *)a)[3];
}

static __always_inline void count(void *map, __u32 slot, __u32 out, __u32 frames, __u32 bytes)
{
	struct counters *c = bpf_map_lookup_elem(map, &slot);
	if (!c)
		return;
	if (out) {
		c->tx_frames += frames;
		c->tx_bytes += bytes;
	} else {
		c->rx_frames += frames;
		c->rx_bytes += bytes;
	}
}

// copy copies n bytes, an even number, between places that are aligned to 2, as all in a frame is behind a pad of 2.
#define copy(to, from, n) __builtin_memcpy(__builtin_assume_aligned(to, 2), __builtin_assume_aligned(from, 2), n)

// load copies n bytes of a packet, a constant number, to a place that is aligned to 4: as a rule without a call, else as
// bpf_skb_load_bytes does.
static __always_inline int load(struct __sk_buff *skb, __u32 off, void *to, __u32 n)
{
	void *p = (void *)(long)skb->data + off;
	if (p + n > (void *)(long)skb->data_end)
		return bpf_skb_load_bytes(skb, off, to, n); // it is not all in the first piece, or is not there
	// The kernel reads what is not aligned; the compiler would do so by bytes.
	__builtin_memcpy(__builtin_assume_aligned(to, 4), __builtin_assume_aligned(p, 4), n);
	return 0;
}

// sums reports whether the checksum of an IPv4 header without options is right; it is aligned to 2.
static __always_inline int sums(const void *ip)
{
	const __u16 *w = ip;
	__u32 sum = 0;
#pragma unroll
	for (int i = 0; i < 10; i++)
		sum += w[i];
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return sum == 0xffff;
}

// What the programs must know of an inner packet. All is zero if it is neither IPv4 nor IPv6, or too short for either.
struct inner {
	__u32 flow;   // a hash of its addresses and ports, unless it is a part; IPv4 options count as ports
	__u32 header; // of plain TCP, bytes from the Ethernet header to the payload: IPv4 without options or IPv6 without extension headers, no part
	__u32 total;  // bytes that its header says there are, from the Ethernet header on
	__u8 ip;      // it is one
	__u8 part;    // a fragment: user space has all parts of a packet, in order, since some do not fit the underlay
	__u8 crc;     // SCTP: its checksum may not be there yet, and a host in user space could not tell
	__u8 syn;     // TCP with SYN: user space clamps its MSS
	__u8 ports;   // TCP or UDP: the hash is the same for all packets of a connection
};

#define has_ports(proto) ((proto) == IPPROTO_TCP || (proto) == IPPROTO_UDP)

#define mix(h, w) (((h) ^ (w)) * 0x9e3779b1)

// read_inner reads the packet in a frame that begins at off. As a rule that is a single copy out of the skb.
static __always_inline void read_inner(struct __sk_buff *skb, __u32 off, __be16 proto, struct inner *r)
{
	__u32 w[14] = {}, l3 = off + ETH_HLEN;
	const __u8 *b = (const __u8 *)w;
	if (proto == bpf_htons(ETH_P_IP)) {
		if (load(skb, l3, w, 36) && bpf_skb_load_bytes(skb, l3, w, 24) && bpf_skb_load_bytes(skb, l3, w, 20))
			return;
		int plain = b[0] == 0x45;
		r->total = ETH_HLEN + ((__u32)b[2] << 8 | b[3]);
		r->part = (b[6] & 0x3f) || b[7];
		r->crc = b[9] == IPPROTO_SCTP;
		if (b[9] == IPPROTO_TCP && !(b[6] & 0x1f) && !b[7]) { // a later fragment has no TCP header
			__u8 flags = b[33];
			if ((b[0] & 15) != 5 && bpf_skb_load_bytes(skb, l3 + 4 * (b[0] & 15) + 13, &flags, 1))
				flags = 0;
			r->syn = (flags & 2) != 0;
			if (plain && !r->part && b[32] >> 4 >= 5)
				r->header = ETH_HLEN + sizeof(struct iphdr) + 4 * (b[32] >> 4);
		}
		r->ports = plain && !r->part && has_ports(b[9]);
		r->flow = mix(mix(mix(0, w[3]), w[4]), w[5]);
	} else if (proto == bpf_htons(ETH_P_IPV6)) {
		if (load(skb, l3, w, 56) && bpf_skb_load_bytes(skb, l3, w, 44) && bpf_skb_load_bytes(skb, l3, w, 40))
			return;
		r->total = ETH_HLEN + sizeof(struct ipv6hdr) + ((__u32)b[4] << 8 | b[5]);
		r->part = b[6] == IPPROTO_FRAGMENT;
		r->crc = b[6] == IPPROTO_SCTP;
		if (b[6] == IPPROTO_TCP) {
			r->syn = (b[53] & 2) != 0;
			if (b[0] >> 4 == 6 && b[52] >> 4 >= 5)
				r->header = ETH_HLEN + sizeof(struct ipv6hdr) + 4 * (b[52] >> 4);
		}
		r->ports = has_ports(b[6]);
		__u32 h = 0;
#pragma unroll
		for (int i = 2; i < 11; i++)
			h = mix(h, w[i]);
		r->flow = h;
	} else {
		return;
	}
	r->ip = 1;
}

// Flows of which user space carries some frames, those that do not fit: when it last did. For ORDER_SPAN it carries all
// of such a flow, so that none overtakes another. Flows may share a place.
#define ORDER_FLOWS 4096
#define ORDER_SPAN 100000000ULL

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 2 * ORDER_FLOWS); // out, in
	__type(key, __u32);
	__type(value, __u64);
} ordered SEC(".maps");

// flow_place finds the place of the flow of an inner packet that is no part.
static __always_inline __u64 *flow_place(const struct inner *in, __u32 way)
{
	if (!in->ip)
		return 0;
	__u32 k = way * ORDER_FLOWS + (in->flow >> 20) % ORDER_FLOWS;
	return bpf_map_lookup_elem(&ordered, &k);
}
