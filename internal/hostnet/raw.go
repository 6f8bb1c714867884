package hostnet

import (
	"bytes"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// The conversation with the kernel for those who keep its messages as they are: bodies of requests and answers of
// rtnetlink(7), without the header. Errors are the kernel's.

// ChangeRaw sends a request that changes something and waits for the acknowledgement.
func (h *Host) ChangeRaw(kind, flags int, body []byte) error { return h.change(kind, flags, raw(body)) }

// GetRaw sends a request with one answer.
func (h *Host) GetRaw(kind int, body []byte) ([]byte, error) { return h.get(kind, raw(body)) }

// DumpRaw sends a request for a list and returns copies of those entries that keep returns true for. The list is whole:
// one that changed while it was read is read again, and keep sees it again.
func (h *Host) DumpRaw(kind int, body []byte, keep func(b []byte) bool) ([][]byte, error) {
	var list [][]byte
	err := retry(func() error {
		if h.sockets == nil {
			return errClosed
		}
		list = nil
		req := nl.NewNetlinkRequest(kind, unix.NLM_F_DUMP)
		req.Sockets, req.Data = h.sockets, []nl.NetlinkRequestData{raw(body)}
		return req.ExecuteIter(unix.NETLINK_ROUTE, 0, func(b []byte) bool {
			if keep(b) {
				list = append(list, bytes.Clone(b))
			}
			return true
		})
	})
	if err != nil {
		return nil, err
	}
	return list, nil
}
