// SPDX-License-Identifier: Apache-2.0
//
// The kernel's part of a vnet: known unicast goes past user space.
//
//   bridge -> vnif egress: vnet_out -> underlay device        (encapsulate)
//   underlay ingress: underlay_in  -> vnif ingress -> bridge  (decapsulate)
//
// Both programs take a packet only if they understand all of it and the tables, which user space
// fills, say that it is in order; every other packet goes on as if they were not there, to the packet
// sockets of the vnif and the UDP sockets of the underlay, which learn, flood, count and refuse. So
// nothing is learned here: what moved, what is new, what is not for this host and what is wrong are
// questions for user space.
//
// Outer packet, big-endian (vnet-wire.md): Ethernet, IPv4 without options or IPv6, UDP, then 22 bytes:
// message id 2, opcode, EtherIP field 00 40, vnet id, and the inner frame.

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

// A vnet that the fast path carries: security none.
struct vnet {
	__u8 id[16];
	__u32 slot; // of its counters, and of its MACs' keys
	__u32 vnif; // ifindex
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
};

// A host that may be sent to, and heard from.
struct host {
	__u64 heard;   // when a socket, behind the host's firewall, last took a packet from it
	__u64 renewed; // when a packet was last left to the socket, to renew that
	__u32 slot;
	__u32 flags;
};

enum { HOST_SEND = 1, HOST_RECEIVE = 2 };

// How to send by one address family; written while flags is 0.
struct underlay {
	__u8 addr[16]; // this host's, IPv4 mapped
	__u32 ifindex;
	__u32 mtu;
	__u32 flags;
	__u16 port;     // big-endian
	__u8 ttl;
	__u8 flow_port; // the source port is a hash of the inner flow
};

enum { UNDERLAY_SEND = 1, UNDERLAY_RECEIVE = 2 };

struct timing {
	__u64 mac_ttl;  // ns after which a MAC that was not heard is left to user space
	__u64 host_ttl; // ns after which a host that no socket heard is left to the sockets
	__u64 renew;    // ns after which a packet is left to the socket now and then
	__u64 renew_every;
};

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
	LEFT_MAX,
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_VNETS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u32); // ifindex of the vnif
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
	if (now - *at > 10000000)
		*at = now;
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

struct l3l4 {
	__u32 header; // bytes from the Ethernet header to the TCP payload
	__u32 total;  // bytes that the IP header says there are, from the Ethernet header on
};

// plain_tcp reads the headers of an inner super-frame at off: 0 if it is TCP in IPv4 without options or
// IPv6 without extension headers, neither fragment.
static __always_inline int plain_tcp(struct __sk_buff *skb, __u32 off, __be16 proto, struct l3l4 *r)
{
	__u32 l3 = off + ETH_HLEN, l4;
	if (proto == bpf_htons(ETH_P_IP)) {
		struct iphdr ip;
		if (bpf_skb_load_bytes(skb, l3, &ip, sizeof(ip)))
			return -1;
		if (ip.version != 4 || ip.ihl != 5 || ip.protocol != IPPROTO_TCP || (ip.frag_off & bpf_htons(0x3fff)))
			return -1;
		l4 = l3 + sizeof(ip);
		r->total = ETH_HLEN + bpf_ntohs(ip.tot_len);
	} else if (proto == bpf_htons(ETH_P_IPV6)) {
		struct ipv6hdr ip;
		if (bpf_skb_load_bytes(skb, l3, &ip, sizeof(ip)))
			return -1;
		if (ip.version != 6 || ip.nexthdr != IPPROTO_TCP)
			return -1;
		l4 = l3 + sizeof(ip);
		r->total = ETH_HLEN + sizeof(ip) + bpf_ntohs(ip.payload_len);
	} else {
		return -1;
	}
	__u8 doff;
	if (bpf_skb_load_bytes(skb, l4 + 12, &doff, 1))
		return -1;
	doff >>= 4;
	if (doff < 5)
		return -1;
	r->header = l4 - off + 4 * doff;
	return 0;
}

// opens reports whether an inner packet at off is a TCP segment with SYN, in IPv4 or in IPv6 without extension
// headers.
static __always_inline int opens(struct __sk_buff *skb, __u32 off, __be16 proto)
{
	__u32 l3 = off + ETH_HLEN, l4;
	__u8 b[10], flags;
	if (bpf_skb_load_bytes(skb, l3, b, sizeof(b)))
		return 0;
	if (proto == bpf_htons(ETH_P_IP)) {
		if (b[9] != IPPROTO_TCP || (b[6] & 0x1f) || b[7])
			return 0; // a later fragment has no TCP header
		l4 = l3 + 4 * (b[0] & 15);
	} else if (proto == bpf_htons(ETH_P_IPV6)) {
		if (b[6] != IPPROTO_TCP)
			return 0;
		l4 = l3 + sizeof(struct ipv6hdr);
	} else {
		return 0;
	}
	return !bpf_skb_load_bytes(skb, l4 + 13, &flags, 1) && (flags & 2);
}

// What stands in front of the inner packet; the pad aligns the IP header.
struct outer4 {
	__u16 pad;
	struct ethhdr eth;
	struct iphdr ip;
	struct udphdr udp;
	__u8 vnet[VNET_HEADER];
	struct ethhdr in;
};

struct outer6 {
	__u16 pad;
	struct ethhdr eth;
	struct ipv6hdr ip;
	struct udphdr udp;
	__u8 vnet[VNET_HEADER];
	struct ethhdr in;
};

#define OUTER_LEN(h) (sizeof(h) - sizeof((h).pad))

static __always_inline void vnet_header(__u8 *to, const struct vnet *v)
{
	to[0] = 0;
	to[1] = 2; // VUDP
	to[2] = 0;
	to[3] = 0;
	to[4] = 0x00; // EtherIP version 4 where little-endian machines have it
	to[5] = 0x40;
	__builtin_memcpy(to + 6, v->id, 16);
}

static __always_inline int encapsulate4(struct __sk_buff *skb, const struct vnet *v, const struct underlay *u,
					const struct mac *to, __u64 flags, __u16 source, const struct ethhdr *in)
{
	struct outer4 h = {};
	flags |= BPF_F_ADJ_ROOM_ENCAP_L3_IPV4;
	if (bpf_skb_adjust_room(skb, OUTER_LEN(h) - ETH_HLEN, BPF_ADJ_ROOM_MAC, flags))
		return -1;
	__u32 total = skb->len - ETH_HLEN;
	h.eth.h_proto = bpf_htons(ETH_P_IP); // the addresses are the neighbour's, by bpf_redirect_neigh
	h.ip.version = 4;
	h.ip.ihl = 5;
	h.ip.tot_len = bpf_htons(total);
	h.ip.id = bpf_get_prandom_u32(); // no DF: a narrower path fragments
	h.ip.ttl = u->ttl;
	h.ip.protocol = IPPROTO_UDP;
	h.ip.saddr = v4(u->addr);
	h.ip.daddr = v4(to->host);
	__u32 sum = 0;
	__u16 *w = (__u16 *)&h.ip;
#pragma unroll
	for (int i = 0; i < 10; i++)
		sum += w[i];
	sum = (sum & 0xffff) + (sum >> 16);
	sum += sum >> 16;
	h.ip.check = ~sum;
	h.udp.source = source;
	h.udp.dest = u->port;
	h.udp.len = bpf_htons(total - sizeof(h.ip));
	vnet_header(h.vnet, v);
	h.in = *in;
	return bpf_skb_store_bytes(skb, 0, &h.eth, OUTER_LEN(h), 0) ? -2 : 0;
}

static __always_inline int encapsulate6(struct __sk_buff *skb, const struct vnet *v, const struct underlay *u,
					const struct mac *to, __u64 flags, __u16 source, const struct ethhdr *in)
{
	struct outer6 h = {};
	flags |= BPF_F_ADJ_ROOM_ENCAP_L3_IPV6;
	if (bpf_skb_adjust_room(skb, OUTER_LEN(h) - ETH_HLEN, BPF_ADJ_ROOM_MAC, flags))
		return -1;
	__u32 payload = skb->len - ETH_HLEN - sizeof(h.ip);
	h.eth.h_proto = bpf_htons(ETH_P_IPV6);
	h.ip.version = 6;
	h.ip.payload_len = bpf_htons(payload);
	h.ip.nexthdr = IPPROTO_UDP;
	h.ip.hop_limit = u->ttl;
	__builtin_memcpy(&h.ip.saddr, u->addr, 16);
	__builtin_memcpy(&h.ip.daddr, to->host, 16);
	h.udp.source = source;
	h.udp.dest = u->port;
	h.udp.len = bpf_htons(payload); // checksum 0: RFC 6935
	vnet_header(h.vnet, v);
	h.in = *in;
	return bpf_skb_store_bytes(skb, 0, &h.eth, OUTER_LEN(h), 0) ? -2 : 0;
}

// vnet_out is at the egress of a vnif: what the bridge sends to the other hosts.
SEC("tc")
int vnet_out(struct __sk_buff *skb)
{
	__u32 index = skb->ifindex, zero = 0;
	struct vnet *v = bpf_map_lookup_elem(&vnet_of_vnif, &index);
	if (!v)
		return OUT(LEFT_VNET);
	struct ethhdr in;
	if (bpf_skb_load_bytes(skb, 0, &in, sizeof(in)))
		return OUT(LEFT_FORM);
	if (in.h_dest[0] & 1)
		return OUT(LEFT_FLOOD);
	// A tag in the skb's metadata would end up on the outer packet.
	if (skb->vlan_present || in.h_proto == bpf_htons(ETH_P_8021Q) || in.h_proto == bpf_htons(ETH_P_8021AD))
		return OUT(LEFT_TAG);
	struct timing *t = bpf_map_lookup_elem(&times, &zero);
	if (!t)
		return OUT(LEFT_OFF);
	__u64 now = bpf_ktime_get_ns();

	struct mac_key k = {.slot = v->slot};
	__builtin_memcpy(k.mac, in.h_dest, 6);
	struct mac *to = bpf_map_lookup_elem(&macs, &k);
	if (!to || to->place != PLACE_REMOTE || older(to->seen, t->mac_ttl, now))
		return OUT(LEFT_MISS);
	__builtin_memcpy(k.mac, in.h_source, 6);
	struct mac *from = bpf_map_lookup_elem(&macs, &k);
	if (!from || from->place != PLACE_LOCAL)
		return OUT(LEFT_SOURCE);
	struct host *peer = bpf_map_lookup_elem(&hosts, (struct id *)to->host);
	if (!peer || !(peer->flags & HOST_SEND))
		return OUT(LEFT_HOST);

	int is4 = mapped(to->host);
	__u32 family = is4 ? 0 : 1;
	struct underlay *u = bpf_map_lookup_elem(&underlays, &family);
	if (!u || !(u->flags & UNDERLAY_SEND))
		return OUT(LEFT_OFF);
	__u32 overhead = (is4 ? sizeof(struct iphdr) : sizeof(struct ipv6hdr)) + sizeof(struct udphdr) + VNET_HEADER;

	__u64 flags = BPF_F_ADJ_ROOM_ENCAP_L4_UDP | BPF_F_ADJ_ROOM_ENCAP_L2_ETH | BPF_F_ADJ_ROOM_ENCAP_L2(ETH_HLEN) |
		      BPF_F_ADJ_ROOM_FIXED_GSO;
	if (opens(skb, 0, in.h_proto))
		return OUT(LEFT_SYN);
	__u32 gso = skb->gso_size, bytes = skb->len, frames = 1;
	if (!gso) {
		if (bytes + overhead > u->mtu)
			return OUT(LEFT_SIZE);
	} else {
		struct l3l4 l;
		if (plain_tcp(skb, 0, in.h_proto, &l))
			return OUT(LEFT_GSO);
		if (bytes + overhead > 65535)
			return OUT(LEFT_SIZE); // the outer length field
		if (gso + l.header + overhead > u->mtu) {
			// The kernel takes what the packet grows by from each segment.
			__u32 grow = overhead + ETH_HLEN;
			if (gso <= grow || gso - grow + l.header + overhead > u->mtu)
				return OUT(LEFT_SIZE);
			flags &= ~BPF_F_ADJ_ROOM_FIXED_GSO;
		}
		frames = skb->gso_segs ?: 1;
	}
	__u16 source = u->port;
	if (u->flow_port)
		source = bpf_htons(0x8000 | (bpf_get_hash_recalc(skb) & 0x7fff));

	__u32 out = u->ifindex, slot = v->slot, host_slot = peer->slot;
	touch(&from->seen, now);
	int err = is4 ? encapsulate4(skb, v, u, to, flags, source, &in) : encapsulate6(skb, v, u, to, flags, source, &in);
	if (err == -1)
		return OUT(LEFT_ROOM);
	if (err)
		return OUT(LEFT_ERROR);
	count(&vnet_counters, slot, 1, frames, bytes);
	count(&host_counters, host_slot, 1, frames, bytes);
	return bpf_redirect_neigh(out, 0, 0, 0); // by the route from that device
}

// underlay_in is at the ingress of an underlay's physical device, and nowhere else: what a vnet's own
// bridge brings is never decapsulated.
SEC("tc")
int underlay_in(struct __sk_buff *skb)
{
	// Only what is for this host, and never what it sent itself.
	if (skb->pkt_type != PACKET_HOST)
		return TC_ACT_UNSPEC;
	if (skb->vlan_present)
		return TC_ACT_UNSPEC;
	__u32 zero = 0, family, udp_at;
	struct id src = {}, dst = {};
	__u32 claimed; // bytes that the outer header says there are
	if (skb->protocol == bpf_htons(ETH_P_IP)) {
		struct iphdr ip;
		if (bpf_skb_load_bytes(skb, ETH_HLEN, &ip, sizeof(ip)))
			return TC_ACT_UNSPEC;
		if (ip.protocol != IPPROTO_UDP)
			return TC_ACT_UNSPEC;
		if (ip.version != 4 || ip.ihl != 5 || (ip.frag_off & bpf_htons(0x3fff)))
			return TC_ACT_UNSPEC; // the kernel puts fragments together for the sockets
		family = 0;
		udp_at = ETH_HLEN + sizeof(ip);
		((__u32 *)src.id)[2] = ((__u32 *)dst.id)[2] = bpf_htonl(0xffff);
		((__u32 *)src.id)[3] = ip.saddr;
		((__u32 *)dst.id)[3] = ip.daddr;
		claimed = bpf_ntohs(ip.tot_len);
	} else if (skb->protocol == bpf_htons(ETH_P_IPV6)) {
		struct ipv6hdr ip;
		if (bpf_skb_load_bytes(skb, ETH_HLEN, &ip, sizeof(ip)))
			return TC_ACT_UNSPEC;
		if (ip.version != 6 || ip.nexthdr != IPPROTO_UDP)
			return TC_ACT_UNSPEC;
		family = 1;
		udp_at = ETH_HLEN + sizeof(ip);
		__builtin_memcpy(src.id, &ip.saddr, 16);
		__builtin_memcpy(dst.id, &ip.daddr, 16);
		claimed = sizeof(ip) + bpf_ntohs(ip.payload_len);
	} else {
		return TC_ACT_UNSPEC;
	}
	struct {
		struct udphdr udp;
		__u8 vnet[VNET_HEADER];
		struct ethhdr in;
	} __attribute__((packed)) h;
	if (bpf_skb_load_bytes(skb, udp_at, &h, sizeof(h)))
		return TC_ACT_UNSPEC;
	struct underlay *u = bpf_map_lookup_elem(&underlays, &family);
	struct timing *t = bpf_map_lookup_elem(&times, &zero);
	if (!u || !t || h.udp.dest != u->port)
		return TC_ACT_UNSPEC;
	// From here on it is ours, and a packet that is left is counted.
	if (!(u->flags & UNDERLAY_RECEIVE))
		return IN(LEFT_OFF);
	if (!same(dst.id, u->addr))
		return IN(LEFT_FLOOD); // the group, or another address of this host
	if (h.vnet[0] != 0 || h.vnet[1] != 2)
		return IN(LEFT_FORM); // VARP, VFWD
	if (h.vnet[5] >> 4 != 4 && h.vnet[4] >> 4 != 4)
		return IN(LEFT_FORM);
	if (h.in.h_dest[0] & 1)
		return IN(LEFT_FLOOD); // head-end replication: copies are told apart in user space
	__u32 start = udp_at + sizeof(struct udphdr) + VNET_HEADER, gso = skb->gso_size;
	if (ETH_HLEN + claimed != skb->len || bpf_ntohs(h.udp.len) != claimed - (udp_at - ETH_HLEN))
		return IN(LEFT_FORM);
	if (gso) {
		// A train of several datagrams arrives whole as well: only what is one inner frame is ours.
		struct l3l4 l;
		if (plain_tcp(skb, start, h.in.h_proto, &l) || start + l.total != skb->len)
			return IN(LEFT_GSO);
	}
	if (h.udp.check && bpf_csum_level(skb, BPF_CSUM_LEVEL_QUERY) < 0)
		return IN(LEFT_CHECKSUM); // the socket verifies

	struct id id;
	__builtin_memcpy(id.id, h.vnet + 6, 16);
	struct vnet *v = bpf_map_lookup_elem(&vnet_of_id, &id);
	if (!v)
		return IN(LEFT_VNET);
	__u64 now = bpf_ktime_get_ns();
	struct host *peer = bpf_map_lookup_elem(&hosts, &src);
	if (!peer || !(peer->flags & HOST_RECEIVE))
		return IN(LEFT_HOST);
	if (older(peer->heard, t->host_ttl, now))
		return IN(LEFT_HOST);
	if (older(peer->heard, t->renew, now) && older(peer->renewed, t->renew_every, now)) {
		peer->renewed = now;
		return IN(LEFT_RENEW);
	}
	struct mac_key k = {.slot = v->slot};
	__builtin_memcpy(k.mac, h.in.h_source, 6);
	struct mac *from = bpf_map_lookup_elem(&macs, &k);
	if (!from || from->place != PLACE_REMOTE || !same(from->host, src.id) || older(from->seen, t->mac_ttl, now))
		return IN(LEFT_SOURCE);

	if (opens(skb, start, h.in.h_proto))
		return IN(LEFT_SYN);
	__u32 frames = skb->gso_segs ?: 1, bytes = skb->len - start, slot = v->slot, vnif = v->vnif, host_slot = peer->slot;
	touch(&from->seen, now);
	__u64 flags = BPF_F_ADJ_ROOM_FIXED_GSO;
	if (family == 0 && h.in.h_proto == bpf_htons(ETH_P_IPV6))
		flags |= DECAP_L3_IPV6;
	if (family == 1 && h.in.h_proto != bpf_htons(ETH_P_IPV6))
		flags |= DECAP_L3_IPV4;
	// The outer Ethernet header stays, and becomes the inner one.
	if (bpf_skb_adjust_room(skb, -(int)start, BPF_ADJ_ROOM_MAC, flags))
		return IN(LEFT_ROOM);
	if (bpf_skb_store_bytes(skb, 0, &h.in, sizeof(h.in), 0))
		return IN(LEFT_ERROR);
	count(&vnet_counters, slot, 0, frames, bytes);
	count(&host_counters, host_slot, 0, frames, bytes);
	return bpf_redirect(vnif, BPF_F_INGRESS);
}

char LICENSE[] SEC("license") = "Apache-2.0";
