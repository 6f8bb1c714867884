// SPDX-License-Identifier: Apache-2.0
//
// The kernel's part of a vnet: known unicast goes past user space.
//
//   bridge -> vnif egress: vnet_out -> underlay device        (encapsulate)
//   underlay ingress: underlay_in  -> vnif ingress -> bridge  (decapsulate)
//
// Where a bridge has no policy of its own, its domains' frames may pass it by:
//
//   vif ingress: vif_in -> underlay device          underlay ingress: underlay_in -> vif or its domain's end
//
// Where segments of TCP come one by one, they make a detour on their way in, by a pair of devices whose driver has GRO join
// them:
//
//   underlay ingress: underlay_in -> pair -> joined_in -> vnif ingress, or vif or its domain's end
//
// The programs take a packet only if they understand all of it and the tables, which user space
// fills, say that it is in order; every other packet goes on as if they were not there, to the packet
// sockets of the vnif and the UDP sockets of the underlay, which learn, flood, count and refuse. So
// nothing is learned here: what moved, what is new, what is not for this host and what is wrong are
// questions for user space.
//
// Outer packet, big-endian (vnet-wire.md): Ethernet, IPv4 without options or IPv6, UDP, then 22 bytes:
// message id 2, opcode, EtherIP field 00 40, vnet id, and the inner frame.

#include "strip.h"
#include "tables.h"

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

// What the tables said of a frame on its way out: where its destination is, and that its source is here. A processor's own.
struct recent_out {
	__u8 dst[6], src[6];
	__u32 ifindex;
	__u64 until, changes;
	struct id vnet, host, via;
	__u32 slot, host_slot, mtu;
	__u32 has_via;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, RECENTS);
	__type(key, __u32);
	__type(value, struct recent_out);
} recent_outs SEC(".maps");

// What they said of one on its way in: that its source is behind the host that sent it, and past which bridge it may go.
struct recent_in {
	__u8 dst[6], src[6];
	__u32 vnif;
	__u64 until, changes;
	struct id vnet, host;
	__u32 slot, host_slot, mtu;
	struct vif vif; // of the destination; 0: none
	__u32 ifindex;  // that it came by
	__u32 pair;     // where segments go that come by it; 0: they are not joined
	__u32 zero;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, RECENTS);
	__type(key, __u32);
	__type(value, struct recent_in);
} recent_ins SEC(".maps");

// The two addresses that a frame begins with.
#define PAIR (2 * ETH_ALEN)

static __always_inline int same_pair(const struct ethhdr *frame, const __u8 *b)
{
	__u32 a[PAIR / 4];
	copy(a, frame, PAIR);
	const __u32 *w = (const __u32 *)b;
	return a[0] == w[0] && a[1] == w[1] && a[2] == w[2];
}

static __always_inline void vnet_header(__u8 *to, const struct id *vnet)
{
	to[0] = 0;
	to[1] = 2; // VUDP
	to[2] = 0;
	to[3] = 0;
	to[4] = 0x00; // EtherIP version 4 where little-endian machines have it
	to[5] = 0x40;
	copy(to + 6, vnet->id, 16);
}

// make_room makes room in front of a frame's Ethernet header. The kernel has two ways, of which the one that knows of
// segments is for IP only.
static __always_inline int make_room(struct __sk_buff *skb, __u32 size, __u64 flags, __be16 proto)
{
	if (proto == bpf_htons(ETH_P_ARP))
		return bpf_skb_change_head(skb, size, 0);
	return bpf_skb_adjust_room(skb, size, BPF_ADJ_ROOM_MAC, flags);
}

// retype has the kernel take a packet for what its Ethernet header says: an encapsulated frame of ARP for IP, or no neighbour
// would be looked up for it. It looks at the type of a frame only when the last VLAN tag before it goes, so two come and go.
static __always_inline int retype(struct __sk_buff *skb)
{
	return bpf_skb_vlan_push(skb, bpf_htons(ETH_P_8021Q), 1) || bpf_skb_vlan_push(skb, bpf_htons(ETH_P_8021Q), 1) ||
	       bpf_skb_vlan_pop(skb) || bpf_skb_vlan_pop(skb);
}

static __always_inline int encapsulate4(struct __sk_buff *skb, const struct id *vnet, const struct underlay *u,
					const struct id *to, __u64 flags, __u16 source, const struct ethhdr *in)
{
	struct outer4 h = {};
	flags |= BPF_F_ADJ_ROOM_ENCAP_L3_IPV4;
	if (make_room(skb, OUTER_LEN(h) - ETH_HLEN, flags, in->h_proto))
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
	h.ip.daddr = v4(to->id);
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
	vnet_header(h.vnet, vnet);
	copy(&h.in, in, sizeof(h.in));
	return bpf_skb_store_bytes(skb, 0, &h.eth, OUTER_LEN(h), 0) ? -2 : 0;
}

static __always_inline int encapsulate6(struct __sk_buff *skb, const struct id *vnet, const struct underlay *u,
					const struct id *to, __u64 flags, __u16 source, const struct ethhdr *in)
{
	struct outer6 h = {};
	flags |= BPF_F_ADJ_ROOM_ENCAP_L3_IPV6;
	if (make_room(skb, OUTER_LEN(h) - ETH_HLEN, flags, in->h_proto))
		return -1;
	__u32 payload = skb->len - ETH_HLEN - sizeof(h.ip);
	h.eth.h_proto = bpf_htons(ETH_P_IPV6);
	h.ip.version = 6;
	h.ip.payload_len = bpf_htons(payload);
	h.ip.nexthdr = IPPROTO_UDP;
	h.ip.hop_limit = u->ttl;
	__builtin_memcpy(&h.ip.saddr, u->addr, 16);
	__builtin_memcpy(&h.ip.daddr, to->id, 16);
	h.udp.source = source;
	h.udp.dest = u->port;
	h.udp.len = bpf_htons(payload); // checksum 0: RFC 6935
	vnet_header(h.vnet, vnet);
	copy(&h.in, in, sizeof(h.in));
	return bpf_skb_store_bytes(skb, 0, &h.eth, OUTER_LEN(h), 0) ? -2 : 0;
}

// vif_of finds the vif of a destination; none if the bridge must say where that is.
static __always_inline struct vif *vif_of(const struct mac_key *k)
{
	struct vif *vif = bpf_map_lookup_elem(&vifs, k);
	return vif && bpf_map_lookup_elem(&vif_devices, &vif->ifindex) ? vif : 0;
}

// moved forgets behind which port of the bridge a MAC is, once a frame from it comes by another: user space hears of that later.
static __always_inline int moved(const struct mac_key *k, const struct vif *vif, __u32 port)
{
	if (vif->ifindex == port)
		return 0;
	bpf_map_delete_elem(&vifs, k);
	return 1;
}

// from_port looks at a frame that the bridge sends by a vnif, where slot is that of its vnet.
static __always_inline void from_port(struct __sk_buff *skb, __u32 slot, const struct ethhdr *in)
{
	struct mac_key k = {.slot = slot};
	copy(k.mac, in->h_source, 6);
	struct vif *vif = bpf_map_lookup_elem(&vifs, &k);
	if (vif && skb->ingress_ifindex)
		moved(&k, vif, skb->ingress_ifindex);
}

// At a vif what is left goes to the bridge, and by it to the vnif, which counts it.
#undef OUT
#define OUT(why) (at_vif && why != LEFT_ERROR ? TC_ACT_UNSPEC : leave(0, why))

// send_out encapsulates a frame that a vnet's bridge sends by its vnif, or would send: at_vif.
static __always_inline int send_out(struct __sk_buff *skb, int at_vif, __u64 now)
{
	__u32 index = skb->ifindex, zero = 0;
	struct ethhdr in __attribute__((aligned(8)));
	if (load(skb, 0, &in, sizeof(in)))
		return OUT(LEFT_FORM);
	if (in.h_dest[0] & 1) {
		struct vnet *v = at_vif ? 0 : bpf_map_lookup_elem(&vnet_of_vnif, &index);
		if (v)
			from_port(skb, v->slot, &in);
		return OUT(LEFT_FLOOD);
	}
	// A tag in the skb's metadata would end up on the outer packet.
	if (skb->vlan_present || in.h_proto == bpf_htons(ETH_P_8021Q) || in.h_proto == bpf_htons(ETH_P_8021AD))
		return OUT(LEFT_TAG);
	struct timing *t = bpf_map_lookup_elem(&times, &zero);
	if (!t)
		return OUT(LEFT_OFF);

	__u32 at = (in.h_dest[5] ^ in.h_source[5] ^ index) % RECENTS;
	struct recent_out *r = bpf_map_lookup_elem(&recent_outs, &at);
	if (!r)
		return OUT(LEFT_OFF);
	struct mac *from = 0;
	__u64 changes = *(volatile __u64 *)&t->changes;
	if (now >= r->until || changes != r->changes || index != r->ifindex || !same_pair(&in, r->dst)) {
		struct vnet *v = bpf_map_lookup_elem(&vnet_of_vnif, &index);
		if (!v)
			return OUT(LEFT_VNET);
		if (!at_vif)
			from_port(skb, v->slot, &in);
		struct mac_key k = {.slot = v->slot};
		copy(k.mac, in.h_dest, 6);
		struct mac *to = bpf_map_lookup_elem(&macs, &k);
		if (!to || to->place != PLACE_REMOTE || older(to->seen, t->mac_ttl, now))
			return OUT(LEFT_MISS);
		copy(k.mac, in.h_source, 6);
		from = bpf_map_lookup_elem(&macs, &k);
		if (!from || from->place != PLACE_LOCAL)
			return OUT(LEFT_SOURCE);
		if (at_vif) {
			struct vif *vif = bpf_map_lookup_elem(&vifs, &k);
			if (!vif || moved(&k, vif, index)) // or somebody uses another's
				return TC_ACT_UNSPEC;
		}
		struct host *peer = bpf_map_lookup_elem(&hosts, (struct id *)to->host);
		if (!peer || !(peer->flags & HOST_SEND))
			return OUT(LEFT_HOST);
		if (at_vif && older(from->bridged, BRIDGE_EVERY, now)) {
			from->bridged = now;
			return TC_ACT_UNSPEC;
		}
		copy(r->dst, &in, PAIR);
		r->ifindex = index;
		r->vnet = *(struct id *)v->id;
		r->host = *(struct id *)to->host;
		r->via = *(struct id *)peer->via;
		r->has_via = peer->flags & HOST_VIA;
		r->slot = v->slot;
		r->host_slot = peer->slot;
		r->mtu = v->mtu;
		r->changes = changes;
		r->until = now + RECENT_SPAN;
	}

	int is4 = mapped(r->host.id);
	__u32 family = is4 ? 0 : 1;
	struct underlay *u = bpf_map_lookup_elem(&underlays, &family);
	if (!u || !(u->flags & UNDERLAY_SEND))
		return OUT(LEFT_OFF);
	__u32 overhead = (is4 ? sizeof(struct iphdr) : sizeof(struct ipv6hdr)) + sizeof(struct udphdr) + VNET_HEADER;

	__u64 flags = BPF_F_ADJ_ROOM_ENCAP_L4_UDP | BPF_F_ADJ_ROOM_ENCAP_L2_ETH | BPF_F_ADJ_ROOM_ENCAP_L2(ETH_HLEN) |
		      BPF_F_ADJ_ROOM_FIXED_GSO;
	struct inner p = {};
	read_inner(skb, 0, in.h_proto, &p);
	if (p.syn)
		return OUT(LEFT_SYN);
	if (p.part)
		return OUT(LEFT_FORM);
	if (p.crc)
		return OUT(LEFT_CHECKSUM);
	__u64 *place = flow_place(&p, 0);
	if (place && !older(*place, ORDER_SPAN, now) && !at_vif) {
		if (skb->len + overhead > u->mtu && !skb->gso_size)
			*place = now;
		return OUT(LEFT_ORDER);
	}
	if (place && !older(*place, ORDER_SPAN, now))
		return TC_ACT_UNSPEC;
	__u32 gso = skb->gso_size, bytes = skb->len, frames = 1;
	if (at_vif && !gso && bytes > r->mtu + ETH_HLEN)
		return TC_ACT_UNSPEC; // the bridge judges what its ports take
	if (!gso) {
		if (bytes + overhead > u->mtu) {
			if (place)
				*place = now;
			return OUT(LEFT_SIZE);
		}
	} else {
		if (!p.header) {
			if (place)
				*place = now;
			return OUT(LEFT_GSO);
		}
		if (bytes + overhead > 65535)
			return OUT(LEFT_SIZE); // the outer length field
		if (gso + p.header + overhead > u->mtu) {
			// The kernel takes what the packet grows by from each segment.
			__u32 grow = overhead + ETH_HLEN;
			if (gso <= grow || gso - grow + p.header + overhead > u->mtu)
				return OUT(LEFT_SIZE);
			flags &= ~BPF_F_ADJ_ROOM_FIXED_GSO;
		}
		frames = skb->gso_segs ?: 1;
	}
	__u16 source = u->port;
	if (u->flow_port)
		source = bpf_htons(0x8000 | ((p.ports ? p.flow >> 16 : bpf_get_hash_recalc(skb)) & 0x7fff));

	__u32 out = u->ifindex;
	// The way to the host is known as long as user space follows the routes; that saves looking it up for each packet.
	struct bpf_redir_neigh via = {};
	int known = r->has_via && now < t->alive;
	if (known && is4) {
		via.nh_family = AF_INET;
		via.ipv4_nh = v4(r->via.id);
	} else if (known) {
		via.nh_family = AF_INET6;
		__builtin_memcpy(via.ipv6_nh, r->via.id, 16);
	}
	if (from)
		touch(&from->seen, now);
	int err = is4 ? encapsulate4(skb, &r->vnet, u, &r->host, flags, source, &in)
		      : encapsulate6(skb, &r->vnet, u, &r->host, flags, source, &in);
	if (err == -1)
		return OUT(LEFT_ROOM);
	if (err || (in.h_proto == bpf_htons(ETH_P_ARP) && retype(skb)))
		return OUT(LEFT_ERROR);
	count(&vnet_counters, r->slot, 1, frames, bytes);
	count(&host_counters, r->host_slot, 1, frames, bytes);
	if (known)
		return bpf_redirect_neigh(out, &via, sizeof(via), 0);
	return bpf_redirect_neigh(out, 0, 0, 0); // by the route from that device
}

// now_ns is some ms behind, and cheap: nothing here is told by less.
static __always_inline __u64 now_ns(void) { return bpf_ktime_get_coarse_ns(); }

// vnet_out is at the egress of a vnif: what the bridge sends to the other hosts.
SEC("tc")
int vnet_out(struct __sk_buff *skb)
{
	return send_out(skb, 0, now_ns());
}

// vif_in is at the ingress of a vif whose frames may pass the bridge by: what its domain sends to the other hosts.
SEC("tc")
int vif_in(struct __sk_buff *skb)
{
	__u64 now = now_ns();
	if (!may_bypass(now))
		return TC_ACT_UNSPEC;
	return send_out(skb, 1, now);
}

// to_bridge reports whether the bridge must have a frame from a MAC that is behind another host, or it would forget where that is.
static __always_inline int to_bridge(struct mac *from, __u64 now)
{
	if (!older(from->bridged, BRIDGE_EVERY, now))
		return 0;
	from->bridged = now;
	return 1;
}

// deliver gives a frame to its vnet: to the bridge by the vnif, or past the bridge to the vif of its destination, which may be
// none. proto is what is in the frame.
static __always_inline int deliver(struct __sk_buff *skb, const struct vif *vif, __u32 vnif, __be16 proto, __u64 now)
{
	if (!vif->ifindex || !may_bypass(now) || (!skb->gso_size && skb->len > vif->mtu + ETH_HLEN))
		return bpf_redirect(vnif, BPF_F_INGRESS);
	int ip = proto == bpf_htons(ETH_P_IP) || proto == bpf_htons(ETH_P_IPV6);
	// Before Linux 6.3 a packet of the other family is still taken for what was outside, and would be lost where it must be cut.
	if (ip && skb->protocol != proto && retype(skb))
		return IN(LEFT_ERROR);
	if (vif->way == VIF_EGRESS)
		return bpf_redirect(vif->ifindex, 0);
	// What goes straight to the domain's end keeps what the kernel thinks of it; a pair makes that anew.
	if (!ip || skb->protocol != proto)
		return bpf_redirect(vif->ifindex, 0);
	if (skb->pkt_type != PACKET_HOST)
		bpf_skb_change_type(skb, PACKET_HOST);
	return bpf_redirect_peer(vif->ifindex, 0);
}

// pass_on gives a frame of a MAC that is behind another host to its vnet: by the bridge, or past it to the vif of its destination, if
// that may be.
static __always_inline int pass_on(struct __sk_buff *skb, const struct vif *vif, struct mac *from, __u32 vnif, __be16 proto, __u64 now)
{
	if (!vif || !from || to_bridge(from, now))
		return bpf_redirect(vnif, BPF_F_INGRESS);
	return deliver(skb, vif, vnif, proto, now);
}

// put_in takes a frame that XDP stripped to its vnet.
static __always_inline int put_in(struct __sk_buff *skb, const struct mark *m, __u64 now)
{
	if (bpf_skb_store_bytes(skb, 0, m->mac, 6, 0))
		return IN(LEFT_ERROR);
	// The card may have verified the outer packet, which says nothing of the inner one.
	if (!skb->gso_size)
		bpf_csum_level(skb, BPF_CSUM_LEVEL_RESET);
	__u32 frames = skb->gso_segs ?: 1, bytes = skb->len;
	count(&vnet_counters, m->slot, 0, frames, bytes);
	count(&host_counters, m->host_slot, 0, frames, bytes);
	struct mac_key k = {.slot = m->slot};
	copy(k.mac, m->mac, 6);
	struct vif *vif = vif_of(&k);
	struct mac *from = 0;
	if (vif) { // else nobody asks for its source
		if (bpf_skb_load_bytes(skb, 6, k.mac, 6))
			return IN(LEFT_ERROR);
		from = bpf_map_lookup_elem(&macs, &k);
	}
	return pass_on(skb, vif, from, m->vnif, skb->protocol, now);
}

// Where segments of TCP come one by one, they go by a pair of devices that is there for nothing else, and GRO of the pair's
// driver joins them. A tag tells which vnet they are of: its slot, and 1.
struct join {
	__u64 until;   // good until then: a dead daemon does not see when the pair is down
	__u32 ifindex; // of the pair's end that they are sent to
	__u32 zero;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 64);
	__type(key, __u32); // ifindex of the underlay's device
	__type(value, struct join);
} joins SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MAX_VNETS);
	__type(key, __u32);   // slot of a vnet
	__type(value, __u32); // ifindex of its vnif; 0: none
} vnif_of_slot SEC(".maps");

// What is under way in a queue of the pair.
struct queue {
	__u64 sent, received; // segments; the same, if none are
	__u64 last;           // when the last one was sent
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MAX_QUEUES);
	__type(key, __u32); // processor
	__type(value, struct queue);
} queues SEC(".maps");

// A segment that is no longer than this has little to gain.
#define SHORT 256

// detour reports whether an inner packet of TCP goes by the pair: not if it is short, or joined already, unless one that it might
// overtake is still on the way. Each processor has a queue of its own in the pair, so a flow stays in order as long as one
// processor takes all of it from the card.
static __always_inline int detour(__u32 bytes, __u32 gso, __u32 frames, __u64 now)
{
	__u32 cpu = bpf_get_smp_processor_id();
	struct queue *j = bpf_map_lookup_elem(&queues, &cpu);
	if (!j)
		return 1;
	if (gso || bytes <= SHORT) {
		if (j->sent == j->received)
			return 0;
		if (older(j->last, 2 * RECENT_SPAN, now)) { // some were lost
			j->received = j->sent;
			return 0;
		}
	}
	j->sent += frames;
	j->last = now;
	return 1;
}

// join sends an inner packet to the pair.
static __always_inline int join(struct __sk_buff *skb, __u32 pair, __u32 slot)
{
	skb->queue_mapping = skb->mark = bpf_get_smp_processor_id() + 1; // 0 is for none
	if (bpf_skb_vlan_push(skb, bpf_htons(ETH_P_8021Q), slot + 1))
		return IN(LEFT_ERROR);
	return bpf_redirect(pair, 0);
}

// lost counts a packet that has no place any more.
static __always_inline int lost(void)
{
	IN(LEFT_QUEUE);
	return TC_ACT_SHOT;
}

// joined_in is at the ingress of the pair's other end. Nothing goes on from there but what has a place in a vnet.
SEC("tc")
int joined_in(struct __sk_buff *skb)
{
	struct ethhdr in __attribute__((aligned(8)));
	__u64 now = now_ns();
	if (!skb->vlan_present)
		return TC_ACT_SHOT; // who sent that?
	__u32 slot = skb->vlan_tci - 1, frames = skb->gso_segs ?: 1, queue = skb->mark - 1;
	struct queue *j = bpf_map_lookup_elem(&queues, &queue);
	if (j)
		j->received += frames;
	skb->mark = 0;
	__u32 *vnif = bpf_map_lookup_elem(&vnif_of_slot, &slot);
	if (!vnif || !*vnif)
		return lost();
	if (load(skb, 0, &in, sizeof(in)) || bpf_skb_vlan_pop(skb))
		return IN(LEFT_ERROR);
	struct mac_key k = {.slot = slot};
	copy(k.mac, in.h_source, 6);
	struct mac *from = bpf_map_lookup_elem(&macs, &k);
	if (!from || from->place != PLACE_REMOTE) // it moved this moment
		return lost();
	__u32 bytes = skb->len;
	count(&vnet_counters, slot, 0, frames, bytes);
	struct host *peer = bpf_map_lookup_elem(&hosts, (struct id *)from->host);
	if (peer)
		count(&host_counters, peer->slot, 0, frames, bytes);
	copy(k.mac, in.h_dest, 6);
	return pass_on(skb, vif_of(&k), from, *vnif, in.h_proto, now);
}

// What a packet of a vnet begins with. IP and what is before it end where UDP begins, as long as they may be.
struct outer {
	__u8 ip[2 + ETH_HLEN + sizeof(struct ipv6hdr)];
	struct udphdr udp;
	__u8 vnet[VNET_HEADER];
	struct ethhdr in;
} __attribute__((aligned(8)));

#define LEN4 (ETH_HLEN + sizeof(struct iphdr))
#define LEN6 (ETH_HLEN + sizeof(struct ipv6hdr))
#define FRONT (sizeof(struct udphdr) + VNET_HEADER + ETH_HLEN)

// first_part notes the flow of a frame that came in fragments, of which this is the first: the socket gets it later than
// what comes next.
static __always_inline void first_part(struct __sk_buff *skb, __u32 udp_at, __u32 family, __u64 now)
{
	struct outer h;
	struct underlay *u = bpf_map_lookup_elem(&underlays, &family);
	if (!u || bpf_skb_load_bytes(skb, udp_at, &h.udp, FRONT) || h.udp.dest != u->port || h.vnet[1] != 2)
		return;
	struct inner p = {};
	read_inner(skb, udp_at + sizeof(struct udphdr) + VNET_HEADER, h.in.h_proto, &p);
	__u64 *place = flow_place(&p, 1);
	if (place)
		*place = now;
}

// underlay_in is at the ingress of an underlay's physical device, and nowhere else: what a vnet's own
// bridge brings is never decapsulated.
SEC("tc")
int underlay_in(struct __sk_buff *skb)
{
	struct mark m;
	__u64 now = now_ns();
	switch (take_mark(skb, &m, now)) {
	case MARK_STRIPPED:
		return put_in(skb, &m, now);
	case -1:
		return TC_ACT_SHOT;
	}
	if (skb->vlan_present)
		return TC_ACT_UNSPEC;
	__u32 zero = 0, family, udp_at;
	struct id src = {}, dst = {};
	__u32 claimed; // bytes that the outer header says there are
	struct outer h;
	const struct ethhdr *eth;
	if (skb->protocol == bpf_htons(ETH_P_IP)) {
		// What is shorter is no packet of ours, or a part of one that is no first part.
		if (bpf_skb_load_bytes(skb, 0, h.ip + sizeof(h.ip) - LEN4, LEN4 + FRONT))
			return TC_ACT_UNSPEC;
		eth = (void *)(h.ip + sizeof(h.ip) - LEN4);
		const struct iphdr *ip = (void *)(h.ip + sizeof(h.ip) - sizeof(*ip));
		if (ip->protocol != IPPROTO_UDP)
			return TC_ACT_UNSPEC;
		if (*(const __u8 *)ip != 0x45)
			return TC_ACT_UNSPEC;
		if (ip->frag_off & bpf_htons(0x3fff)) {
			if (!(ip->frag_off & bpf_htons(0x1fff)))
				first_part(skb, LEN4, 0, now);
			return TC_ACT_UNSPEC; // the kernel puts fragments together for the sockets
		}
		if (!sums(ip))
			return TC_ACT_UNSPEC; // the kernel drops it
		family = 0;
		udp_at = LEN4;
		((__u32 *)src.id)[2] = ((__u32 *)dst.id)[2] = bpf_htonl(0xffff);
		((__u32 *)src.id)[3] = ip->saddr;
		((__u32 *)dst.id)[3] = ip->daddr;
		claimed = bpf_ntohs(ip->tot_len);
	} else if (skb->protocol == bpf_htons(ETH_P_IPV6)) {
		if (bpf_skb_load_bytes(skb, 0, h.ip + sizeof(h.ip) - LEN6, LEN6 + FRONT))
			return TC_ACT_UNSPEC;
		eth = (void *)(h.ip + sizeof(h.ip) - LEN6);
		const struct ipv6hdr *ip = (void *)(h.ip + sizeof(h.ip) - sizeof(*ip));
		if (ip->version == 6 && ip->nexthdr == IPPROTO_FRAGMENT) {
			const __u8 *part = (const __u8 *)&h.udp; // the fragment header, where UDP would be
			if (part[0] == IPPROTO_UDP && !part[2] && !(part[3] & 0xf8))
				first_part(skb, LEN6 + 8, 1, now);
			return TC_ACT_UNSPEC;
		}
		if (ip->version != 6 || ip->nexthdr != IPPROTO_UDP)
			return TC_ACT_UNSPEC;
		family = 1;
		udp_at = LEN6;
		copy(src.id, &ip->saddr, 16);
		copy(dst.id, &ip->daddr, 16);
		claimed = sizeof(*ip) + bpf_ntohs(ip->payload_len);
	} else {
		return TC_ACT_UNSPEC;
	}
	struct underlay *u = bpf_map_lookup_elem(&underlays, &family);
	struct timing *t = bpf_map_lookup_elem(&times, &zero);
	if (!u || !t || h.udp.dest != u->port)
		return TC_ACT_UNSPEC;
	// Only what is for this host. A port of the bridge that has its address may have another MAC, and then its type
	// is not PACKET_HOST.
	if (!same_mac(eth->h_dest, u->mac))
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
	struct inner p = {};
	read_inner(skb, start, h.in.h_proto, &p);
	if (ETH_HLEN + claimed != skb->len || bpf_ntohs(h.udp.len) != claimed - (udp_at - ETH_HLEN))
		return IN(LEFT_FORM);
	if (gso) {
		// A train of several datagrams arrives whole as well: only what is one inner frame is ours.
		if (!p.header || start + p.total != skb->len)
			return IN(LEFT_GSO);
	}
	if (h.udp.check && bpf_csum_level(skb, BPF_CSUM_LEVEL_QUERY) < 0)
		return IN(LEFT_CHECKSUM); // the socket verifies

	struct id id;
	copy(id.id, h.vnet + 6, 16);
	__u32 at = (h.in.h_dest[5] ^ h.in.h_source[5] ^ id.id[15] ^ src.id[15]) % RECENTS;
	struct recent_in *r = bpf_map_lookup_elem(&recent_ins, &at);
	if (!r)
		return IN(LEFT_OFF);
	struct mac *from = 0;
	__u32 index = skb->ifindex;
	__u64 changes = *(volatile __u64 *)&t->changes;
	if (now >= r->until || changes != r->changes || index != r->ifindex || !same_pair(&h.in, r->dst) || !same(id.id, r->vnet.id) ||
	    !same(src.id, r->host.id)) {
		struct vnet *v = bpf_map_lookup_elem(&vnet_of_id, &id);
		if (!v)
			return IN(LEFT_VNET);
		struct host *peer = bpf_map_lookup_elem(&hosts, &src);
		if (!peer || !(peer->flags & HOST_RECEIVE) || older(peer->heard, t->host_ttl, now))
			return IN(LEFT_HOST);
		if (older(peer->heard, t->renew, now) && now < t->alive && older(peer->renewed, t->renew_every, now)) {
			peer->renewed = now;
			return IN(LEFT_RENEW);
		}
		struct mac_key k = {.slot = v->slot};
		copy(k.mac, h.in.h_source, 6);
		from = bpf_map_lookup_elem(&macs, &k);
		if (!from || from->place != PLACE_REMOTE || !same(from->host, src.id) || older(from->seen, t->mac_ttl, now))
			return IN(LEFT_SOURCE);
		copy(k.mac, h.in.h_dest, 6);
		struct vif none = {}, *vif = vif_of(&k);
		struct join *j = bpf_map_lookup_elem(&joins, &index);
		// A daemon that takes over knows this program's tables, so this one must be among them.
		__u32 slot = v->slot, *vnif = bpf_map_lookup_elem(&vnif_of_slot, &slot);
		r->pair = j && now < j->until && vnif && *vnif == v->vnif ? j->ifindex : 0;
		copy(r->dst, &h.in, PAIR);
		r->vnif = v->vnif;
		r->vnet = id;
		r->host = src;
		r->slot = v->slot;
		r->host_slot = peer->slot;
		r->mtu = v->mtu;
		r->vif = vif ? *vif : none;
		r->ifindex = index;
		r->changes = changes;
		r->until = now + RECENT_SPAN;
	}
	if (!gso && skb->len - start > r->mtu + ETH_HLEN + (h.in.h_proto == bpf_htons(ETH_P_8021Q) ? 4 : 0))
		return IN(LEFT_SIZE); // user space refuses it
	if (p.syn)
		return IN(LEFT_SYN);
	if (h.in.h_proto == bpf_htons(ETH_P_8021Q)) {
		__be16 type;
		if (bpf_skb_load_bytes(skb, start + ETH_HLEN + 2, &type, sizeof(type)))
			return IN(LEFT_FORM);
		struct inner tagged = {};
		read_inner(skb, start + 4, type, &tagged);
		p.part = tagged.part;
	}
	if (p.part)
		return IN(LEFT_FORM);
	__u64 *place = flow_place(&p, 1);
	if (place && !older(*place, ORDER_SPAN, now))
		return IN(LEFT_ORDER);
	__u32 frames = skb->gso_segs ?: 1, bytes = skb->len - start;
	if (from)
		touch(&from->seen, now);
	__u64 flags = BPF_F_ADJ_ROOM_FIXED_GSO;
	if (family == 0 && h.in.h_proto == bpf_htons(ETH_P_IPV6))
		flags |= DECAP_L3_IPV6;
	if (family == 1 && h.in.h_proto != bpf_htons(ETH_P_IPV6))
		flags |= DECAP_L3_IPV4;
	// The outer Ethernet header stays, and becomes the inner one. Before Linux 6.3 the kernel refuses the flags for other
	// families; deliver cares for such frames.
	if (bpf_skb_adjust_room(skb, -(int)start, BPF_ADJ_ROOM_MAC, flags) &&
	    (flags == BPF_F_ADJ_ROOM_FIXED_GSO || bpf_skb_adjust_room(skb, -(int)start, BPF_ADJ_ROOM_MAC, BPF_F_ADJ_ROOM_FIXED_GSO)))
		return IN(LEFT_ROOM);
	if (bpf_skb_store_bytes(skb, 0, &h.in, sizeof(h.in), 0))
		return IN(LEFT_ERROR);
	if (r->pair && p.header && detour(bytes, gso, frames, now))
		return join(skb, r->pair, r->slot);
	count(&vnet_counters, r->slot, 0, frames, bytes);
	count(&host_counters, r->host_slot, 0, frames, bytes);
	if (from && r->vif.ifindex && may_bypass(now) && to_bridge(from, now))
		return bpf_redirect(r->vnif, BPF_F_INGRESS);
	return deliver(skb, &r->vif, r->vnif, h.in.h_proto, now);
}

char LICENSE[] SEC("license") = "Apache-2.0";
