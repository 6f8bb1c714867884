package hostnet

import (
	"encoding/binary"
	"errors"
	"sync/atomic"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// errMalformed is a kernel message that is shorter than its header.
var errMalformed = errors.New("malformed netlink message")

// raw is a message part that is serialised already.
type raw []byte

func (r raw) Len() int          { return len(r) }
func (r raw) Serialize() []byte { return r }

var _ nl.NetlinkRequestData = raw(nil)

// change sends a request that changes something and waits for the acknowledgement.
func (h *Host) change(kind, flags int, parts ...nl.NetlinkRequestData) error {
	return retry(func() error {
		_, err := h.execute(kind, flags|unix.NLM_F_ACK, 0, parts)
		return err
	})
}

// get sends a request with one answer.
func (h *Host) get(kind int, parts ...nl.NetlinkRequestData) ([]byte, error) {
	var answer []byte
	err := retry(func() error {
		msgs, err := h.execute(kind, 0, 0, parts)
		if err != nil {
			return err
		}
		if len(msgs) == 0 {
			return errMalformed
		}
		answer = msgs[0]
		return nil
	})
	return answer, err
}

// dump sends a request for a list. The list is whole: an interrupted dump is repeated.
func (h *Host) dump(kind int, answer uint16, parts ...nl.NetlinkRequestData) ([][]byte, error) {
	var list [][]byte
	err := retry(func() error {
		var err error
		list, err = h.execute(kind, unix.NLM_F_DUMP, answer, parts)
		return err
	})
	if err != nil {
		return nil, err
	}
	listed.Add(uint64(len(list)))
	return list, nil
}

// listed is Listed.
var listed atomic.Uint64

// Listed is how many entries of lists (devices, addresses, routes, …) this process has asked kernels for: what is listed again and again
// where it need not be, shows in how that grows.
func Listed() uint64 { return listed.Load() }

func (h *Host) execute(kind, flags int, answer uint16, parts []nl.NetlinkRequestData) ([][]byte, error) {
	if h.sockets == nil {
		return nil, errClosed // the library would use the calling thread's namespace
	}
	req := nl.NewNetlinkRequest(kind, flags)
	req.Sockets, req.Data = h.sockets, parts
	return req.Execute(unix.NETLINK_ROUTE, answer)
}

// eachAttribute calls fn for the attributes in b; rtnetlink(7). Flag bits of the type are cleared.
// What follows a malformed attribute is ignored.
func eachAttribute(b []byte, fn func(kind uint16, value []byte)) {
	for len(b) >= unix.SizeofRtAttr {
		n := int(binary.NativeEndian.Uint16(b))
		if n < unix.SizeofRtAttr || n > len(b) {
			return
		}
		fn(binary.NativeEndian.Uint16(b[2:])&nlaTypeMask, b[unix.SizeofRtAttr:n])
		b = b[min(len(b), (n+unix.RTA_ALIGNTO-1)&^(unix.RTA_ALIGNTO-1)):]
	}
}

func attribute(kind int, value []byte) *nl.RtAttr { return nl.NewRtAttr(kind, value) }

func textAttribute(kind int, s string) *nl.RtAttr { return nl.NewRtAttr(kind, nl.ZeroTerminated(s)) }

func numberAttribute(kind int, n uint32) *nl.RtAttr { return nl.NewRtAttr(kind, nl.Uint32Attr(n)) }

// text reads a string attribute, whose terminating zero some kernels leave out.
func text(v []byte) string {
	for i, c := range v {
		if c == 0 {
			return string(v[:i])
		}
	}
	return string(v)
}

// number reads a 32-bit attribute; a short one is 0.
func number(v []byte) uint32 {
	if len(v) < 4 {
		return 0
	}
	return binary.NativeEndian.Uint32(v)
}

// nlaTypeMask clears NLA_F_NESTED and NLA_F_NET_BYTEORDER of an attribute's type.
const nlaTypeMask = 1<<14 - 1
