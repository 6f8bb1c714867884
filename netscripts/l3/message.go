package l3

import (
	"bytes"
	"encoding/binary"
	"errors"
	"slices"

	"golang.org/x/sys/unix"
)

// Sizes of the fixed parts of messages: struct ifaddrmsg, rtmsg, ndmsg, nhmsg, rtnexthop.
const (
	addressHead   = 8
	routeHead     = 12
	neighbourHead = 12
	nexthopHead   = 8
	hopHead       = 8
)

// typeMask leaves an attribute's kind without its flag bits: NLA_TYPE_MASK.
const typeMask = 0x3fff

var errMalformed = errors.New("malformed netlink message")

// message is a netlink message without its header: a fixed part and attributes.
type message struct {
	head  []byte
	attrs []attribute
}

// attribute keeps its kind as it was read, flag bits included, since strict requests want them back.
type attribute struct {
	kind uint16
	data []byte
}

func (a attribute) is(kind uint16) bool { return a.kind&typeMask == kind }

// parse splits a message; its parts point into b.
func parse(b []byte, head int) (message, error) {
	if len(b) < head {
		return message{}, errMalformed
	}
	attrs, err := parseAttributes(b[head:])
	return message{head: b[:head], attrs: attrs}, err
}

// parseAttributes splits a sequence of attributes; rtnetlink(7).
func parseAttributes(b []byte) ([]attribute, error) {
	var list []attribute
	for len(b) > 0 {
		if len(b) < unix.SizeofRtAttr {
			return nil, errMalformed
		}
		n := int(binary.NativeEndian.Uint16(b))
		if n < unix.SizeofRtAttr || n > len(b) {
			return nil, errMalformed
		}
		list = append(list, attribute{binary.NativeEndian.Uint16(b[2:]), b[unix.SizeofRtAttr:n]})
		b = b[min(len(b), align(n)):]
	}
	return list, nil
}

func align(n int) int { return (n + unix.RTA_ALIGNTO - 1) &^ (unix.RTA_ALIGNTO - 1) }

// bytes puts a message together again.
func (m message) bytes() []byte { return appendAttributes(bytes.Clone(m.head), m.attrs) }

func appendAttributes(b []byte, attrs []attribute) []byte {
	for _, a := range attrs {
		n := unix.SizeofRtAttr + len(a.data)
		b = binary.NativeEndian.AppendUint16(b, uint16(n))
		b = binary.NativeEndian.AppendUint16(b, a.kind)
		b = append(b, a.data...)
		b = append(b, make([]byte, align(n)-n)...)
	}
	return b
}

// clone returns a copy that shares nothing that with, without and replaceIndex change.
func (m message) clone() message {
	return message{bytes.Clone(m.head), slices.Clone(m.attrs)}
}

func (m message) get(kind uint16) ([]byte, bool) {
	for _, a := range m.attrs {
		if a.is(kind) {
			return a.data, true
		}
	}
	return nil, false
}

// number is a 32-bit attribute, 0 where it is absent.
func (m message) number(kind uint16) uint32 {
	v, _ := m.get(kind)
	return number(v)
}

func number(v []byte) uint32 {
	if len(v) < 4 {
		return 0
	}
	return binary.NativeEndian.Uint32(v)
}

func putNumber(n uint32) []byte { return binary.NativeEndian.AppendUint32(nil, n) }

// with sets an attribute, in place of the one of that kind or at the end.
func (m *message) with(kind uint16, data []byte) {
	for i, a := range m.attrs {
		if a.is(kind) {
			m.attrs[i].data = data
			return
		}
	}
	m.attrs = append(m.attrs, attribute{kind, data})
}

// without removes attributes.
func (m *message) without(kinds ...uint16) {
	m.attrs = slices.DeleteFunc(m.attrs, func(a attribute) bool {
		return slices.ContainsFunc(kinds, a.is)
	})
}

// only keeps attributes of these kinds.
func (m *message) only(kinds ...uint16) {
	m.attrs = slices.DeleteFunc(m.attrs, func(a attribute) bool {
		return !slices.ContainsFunc(kinds, a.is)
	})
}

// key is a form in which equal messages are equal strings: attributes in order of their kinds.
func (m message) key() string {
	attrs := slices.Clone(m.attrs)
	for i := range attrs {
		attrs[i].kind &= typeMask
	}
	slices.SortStableFunc(attrs, func(a, b attribute) int { return int(a.kind) - int(b.kind) })
	return string(message{m.head, attrs}.bytes())
}

// hop is one entry of RTA_MULTIPATH: struct rtnexthop and attributes.
type hop struct {
	flags  uint8
	weight uint8 // less one
	index  uint32
	attrs  []attribute
}

func parseHops(b []byte) ([]hop, error) {
	var list []hop
	for len(b) > 0 {
		if len(b) < hopHead {
			return nil, errMalformed
		}
		n := int(binary.NativeEndian.Uint16(b))
		if n < hopHead || n > len(b) {
			return nil, errMalformed
		}
		attrs, err := parseAttributes(b[hopHead:n])
		if err != nil {
			return nil, err
		}
		list = append(list, hop{b[2], b[3], binary.NativeEndian.Uint32(b[4:]), attrs})
		b = b[min(len(b), align(n)):]
	}
	return list, nil
}

func appendHops(b []byte, hops []hop) []byte {
	for _, h := range hops {
		attrs := appendAttributes(nil, h.attrs)
		b = binary.NativeEndian.AppendUint16(b, uint16(hopHead+len(attrs)))
		b = append(b, h.flags, h.weight)
		b = binary.NativeEndian.AppendUint32(b, h.index)
		b = append(b, attrs...)
	}
	return b
}
