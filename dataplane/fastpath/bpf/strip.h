// SPDX-License-Identifier: Apache-2.0
//
// What the XDP program of an underlay's device and the TC program behind it have agreed on.
//
// XDP strips the outer headers of a packet, so that the driver builds the inner frame's skb and GRO joins
// inner segments, and puts a mark in front of the frame, which tells TC where it belongs. A stripped frame
// must never be taken for one that came by the wire. So XDP strips only
//
//   - where user space has seen our TC program first on the device, and made an entry in ingresses; and for a while only
//     after it has looked once more (until), since a dead daemon sees nobody who comes before us;
//   - while that TC program, of the same generation, answers: XDP marks a packet with a question now and
//     then, which TC notes. No answer, no stripping, whoever took the TC program away;
//   - by putting an address that nobody takes in the place of the inner destination, which TC puts right.

#pragma once

#include "tables.h"

#define MARK_MAGIC 0x76786e64
#define ANSWER_TTL 200000000 // ns that an answer is good for

enum mark_kind { MARK_NONE, MARK_ASK, MARK_STRIPPED };

// Metadata in front of the frame. Packets of one inner flow have the same, or GRO would not join them.
struct mark {
	__u32 magic;
	__u32 generation;
	__u8 mac[6]; // the inner destination
	__u16 kind;
	__u32 vnif;
	__u32 slot; // of the vnet's counters
	__u32 host_slot;
	__u32 zero;
};

// A device that has the XDP program.
struct ingress {
	__u64 answered;   // when the TC program last saw a mark
	__u64 until;      // strip until then: user space has seen that the TC program is first
	__u32 generation; // 0: strip nothing
	__u8 nobody[6];   // the destination that a stripped frame bears until TC has it
	__u8 zero[6];
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 64);
	__type(key, __u32); // ifindex
	__type(value, struct ingress);
} ingresses SEC(".maps");

// What XDP did, and TC with it.
enum strip_count {
	STRIP_DONE,    // stripped
	STRIP_ASKED,   // TC was asked first
	STRIP_NO_ROOM, // the driver has no room for a mark: left to TC
	STRIP_FOREIGN, // TC dropped a frame of another generation, or with a tag
	STRIP_MAX,
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, STRIP_MAX);
	__type(key, __u32);
	__type(value, __u64);
} strip_counters SEC(".maps");

static __always_inline void count_strip(__u32 what)
{
	__u64 *n = bpf_map_lookup_elem(&strip_counters, &what);
	if (n)
		(*n)++;
}

static __always_inline int same_mac(const __u8 *a, const __u8 *b)
{
	const __u16 *x = (const __u16 *)a, *y = (const __u16 *)b;
	return x[0] == y[0] && x[1] == y[1] && x[2] == y[2];
}

// take_mark reads the mark of a frame, answers it, and returns its kind; -1: the frame is to be dropped.
//
// The mark stays, since who writes into a packet directly gets a copy of one that a packet socket has, too, and the kernel leaves
// marks out of copies. A stripped frame that has its destination was taken before.
static __always_inline int take_mark(struct __sk_buff *skb, struct mark *m, __u64 now)
{
	struct mark *p = (void *)(long)skb->data_meta;
	if ((void *)(p + 1) > (void *)(long)skb->data || p->magic != MARK_MAGIC)
		return MARK_NONE;
	*m = *p;
	__u32 index = skb->ifindex;
	struct ingress *in = bpf_map_lookup_elem(&ingresses, &index);
	if (m->kind == MARK_STRIPPED && !(in && same_mac(m->mac, in->nobody))) {
		__u16 dst[3];
		if (bpf_skb_load_bytes(skb, 0, dst, sizeof(dst)) || same_mac((__u8 *)dst, m->mac))
			return MARK_NONE;
	}
	if (!in || in->generation != m->generation) {
		if (m->kind != MARK_STRIPPED)
			return MARK_NONE;
		count_strip(STRIP_FOREIGN);
		return -1;
	}
	touch(&in->answered, now);
	if (m->kind == MARK_STRIPPED && skb->vlan_present) { // a tag that the card took off is not in XDP's sight
		count_strip(STRIP_FOREIGN);
		return -1;
	}
	return m->kind;
}
