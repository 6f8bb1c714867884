// SPDX-License-Identifier: Apache-2.0
//
// The way in on plain network cards: at native XDP, before the driver has made an skb, the outer headers
// of bulk TCP go, so that the kernel's GRO joins the inner segments; strip.h tells how that is kept safe.
// All else is left to the TC program, which looks at it as if this one were not there.

#include "strip.h"

// Without it the compiler reads such structures by bytes.
#define READ_BY_TWO __attribute__((packed, aligned(2)))

struct vudp {
	struct udphdr udp;
	__u8 vnet[VNET_HEADER];
	struct ethhdr in;
} READ_BY_TWO;

struct outer4 {
	struct ethhdr eth;
	struct iphdr ip;
	struct vudp v;
} READ_BY_TWO;

struct outer6 {
	struct ethhdr eth;
	struct ipv6hdr ip;
	struct vudp v;
} READ_BY_TWO;

// What the tables said of a sender a moment ago, and of the device while it strips: bulk TCP asks the same for each of its packets.
// A processor's own.
struct recent {
	struct id src, vnet;
	__u8 mac[6];
	__u8 nobody[6];
	__u32 ifindex, generation;
	__u32 vnif, slot, host_slot, mtu;
	__u32 zero;
	__u64 until, changes;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, RECENTS);
	__type(key, __u32);
	__type(value, struct recent);
} recents SEC(".maps");

// bulk reports whether the inner packet at p is a TCP segment that GRO may join: no SYN, which user space
// clamps, no fragment, no options of IPv4, no extension headers of IPv6.
static __always_inline int bulk(void *p, void *end, __be16 proto)
{
	struct tcphdr *tcp;
	if (proto == bpf_htons(ETH_P_IP)) {
		struct iphdr *ip = p;
		if ((void *)(ip + 1) > end || *(__u8 *)ip != 0x45 || ip->protocol != IPPROTO_TCP ||
		    (ip->frag_off & bpf_htons(0x3fff)))
			return 0;
		tcp = (void *)(ip + 1);
	} else if (proto == bpf_htons(ETH_P_IPV6)) {
		struct ipv6hdr *ip = p;
		if ((void *)(ip + 1) > end || ip->version != 6 || ip->nexthdr != IPPROTO_TCP)
			return 0;
		tcp = (void *)(ip + 1);
	} else {
		return 0;
	}
	return (void *)(tcp + 1) <= end && !tcp->syn;
}

// underlay_xdp is at the native XDP hook of an underlay's physical device whose TC ingress has underlay_in.
SEC("xdp")
int underlay_xdp(struct xdp_md *x)
{
	void *data = (void *)(long)x->data, *end = (void *)(long)x->data_end;
	struct ethhdr *eth = data;
	if ((void *)(eth + 1) > end)
		return XDP_PASS;
	__u32 family, zero = 0, start, length = end - data;
	struct id src = {}, dst = {};
	struct vudp *h;
	if (eth->h_proto == bpf_htons(ETH_P_IP)) {
		struct outer4 *o = data;
		if ((void *)(o + 1) > end || *(__u8 *)&o->ip != 0x45 || o->ip.protocol != IPPROTO_UDP ||
		    (o->ip.frag_off & bpf_htons(0x3fff)) || ETH_HLEN + bpf_ntohs(o->ip.tot_len) != length || !sums((void *)o + ETH_HLEN))
			return XDP_PASS;
		family = 0;
		((__u32 *)src.id)[2] = ((__u32 *)dst.id)[2] = bpf_htonl(0xffff);
		((__u32 *)src.id)[3] = o->ip.saddr;
		((__u32 *)dst.id)[3] = o->ip.daddr;
		start = sizeof(*o) - ETH_HLEN;
		h = &o->v;
	} else if (eth->h_proto == bpf_htons(ETH_P_IPV6)) {
		struct outer6 *o = data;
		if ((void *)(o + 1) > end || o->ip.version != 6 || o->ip.nexthdr != IPPROTO_UDP ||
		    ETH_HLEN + sizeof(o->ip) + bpf_ntohs(o->ip.payload_len) != length)
			return XDP_PASS;
		family = 1;
		__builtin_memcpy(src.id, &o->ip.saddr, 16);
		__builtin_memcpy(dst.id, &o->ip.daddr, 16);
		start = sizeof(*o) - ETH_HLEN;
		h = &o->v;
	} else {
		return XDP_PASS;
	}
	struct underlay *u = bpf_map_lookup_elem(&underlays, &family);
	struct timing *t = bpf_map_lookup_elem(&times, &zero);
	if (!u || !t || h->udp.dest != u->port || !(u->flags & UNDERLAY_RECEIVE) || !same(dst.id, u->addr))
		return XDP_PASS;
	// The card's verdict on the outer checksum is not known here.
	if (h->udp.check || bpf_ntohs(h->udp.len) != length - (start - sizeof(struct udphdr) - VNET_HEADER))
		return XDP_PASS;
	if (h->vnet[0] != 0 || h->vnet[1] != 2 || (h->vnet[5] >> 4 != 4 && h->vnet[4] >> 4 != 4) || (h->in.h_dest[0] & 1))
		return XDP_PASS;
	if (!bulk(h + 1, end, h->in.h_proto))
		return XDP_PASS;
	if (!same_mac(eth->h_dest, u->mac))
		return XDP_PASS; // for another host, which the card let through

	__u32 index = x->ingress_ifindex;
	__u64 now = bpf_ktime_get_coarse_ns(); // some ms behind: nothing here is told by less
	struct id id;
	copy(id.id, h->vnet + 6, 16);
	struct mac_key k = {};
	copy(k.mac, h->in.h_source, 6);
	__u32 at = (k.mac[5] ^ id.id[15] ^ src.id[15]) % RECENTS;
	struct recent *r = bpf_map_lookup_elem(&recents, &at);
	if (!r)
		return XDP_PASS;
	__u64 changes = *(volatile __u64 *)&t->changes;
	struct mark m = {
		.magic = MARK_MAGIC,
		.kind = MARK_STRIPPED,
	};
	if (now >= r->until || changes != r->changes || index != r->ifindex || !same(r->src.id, src.id) || !same(r->vnet.id, id.id) || !same_mac(r->mac, k.mac)) {
		struct ingress *in = bpf_map_lookup_elem(&ingresses, &index);
		if (!in || !in->generation || now >= in->until)
			return XDP_PASS; // not allowed, or the daemon is dead
		struct vnet *v = bpf_map_lookup_elem(&vnet_of_id, &id);
		struct host *peer = bpf_map_lookup_elem(&hosts, &src);
		if (!v || !peer || !(peer->flags & HOST_RECEIVE) || older(peer->heard, t->host_ttl, now))
			return XDP_PASS;
		if (older(peer->heard, t->renew, now) && now < t->alive && older(peer->renewed, t->renew_every, now))
			return XDP_PASS; // TC leaves it to the socket
		k.slot = v->slot;
		struct mac *from = bpf_map_lookup_elem(&macs, &k);
		if (!from || from->place != PLACE_REMOTE || !same(from->host, src.id) || older(from->seen, t->mac_ttl, now))
			return XDP_PASS;
		touch(&from->seen, now);
		r->src = src;
		r->vnet = id;
		__builtin_memcpy(r->mac, k.mac, 6);
		r->vnif = v->vnif;
		r->slot = v->slot;
		r->mtu = v->mtu;
		r->host_slot = peer->slot;
		r->ifindex = index;
		r->generation = in->generation;
		__builtin_memcpy(r->nobody, in->nobody, 6);
		r->changes = changes;
		r->until = now + RECENT_SPAN;
		if (older(in->answered, ANSWER_TTL, now)) {
			r->until = 0;
			m.kind = MARK_ASK;
		}
	}
	if (length - start > r->mtu + ETH_HLEN)
		return XDP_PASS;

	m.generation = r->generation;
	if (m.kind == MARK_STRIPPED) {
		m.vnif = r->vnif;
		m.slot = r->slot;
		m.host_slot = r->host_slot;
		copy(m.mac, h->in.h_dest, 6);
	}
	// The outer headers go first: a mark that is there already would have to be moved with the frame's beginning.
	int stripped = m.kind == MARK_STRIPPED ? start : 0;
	if (stripped && bpf_xdp_adjust_head(x, stripped)) {
		count_strip(STRIP_NO_ROOM);
		return XDP_PASS;
	}
	if (bpf_xdp_adjust_meta(x, -(int)sizeof(m))) {
		count_strip(STRIP_NO_ROOM);
		// What was there is there still.
		return stripped && bpf_xdp_adjust_head(x, -stripped) ? XDP_DROP : XDP_PASS;
	}
	data = (void *)(long)x->data;
	end = (void *)(long)x->data_end;
	struct mark *meta = (void *)(long)x->data_meta;
	eth = data;
	if ((void *)(meta + 1) > data || (void *)(eth + 1) > end)
		return XDP_DROP; // cannot be
	if (m.kind == MARK_STRIPPED) {
		__builtin_memcpy(eth->h_dest, r->nobody, 6);
		count_strip(STRIP_DONE);
	} else {
		count_strip(STRIP_ASKED);
	}
	*meta = m;
	return XDP_PASS;
}

char LICENSE[] SEC("license") = "Apache-2.0";
