package l3

import (
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// Layout of struct tcmsg and the parents of filters: linux/rtnetlink.h, linux/pkt_sched.h.
const (
	filterHead    = 20
	filterParent  = 12
	parentIngress = 0xfffffff2
	parentEgress  = 0xfffffff3
	parentOld     = 0xffff0000 // of the ingress queue before clsact
)

// inDevice is the number of the attribute that names the device which a packet came by, for each kind of filter:
// TCA_FLOWER_INDEV, TCA_U32_INDEV, TCA_FW_INDEV of linux/pkt_cls.h. The kernel keeps the device's index.
var inDevice = map[string]uint16{"flower": 2, "u32": 8, "fw": 3}

// Classifiers lists the devices, by index, that have a filter of traffic control which asks whether a packet came by
// the device of that name.
func (c *Conn) Classifiers(devices []int, name string) ([]int, error) {
	var list []int
	for _, index := range devices {
		found := false
		for _, parent := range []uint32{0, parentIngress, parentEgress, parentOld} {
			head := make([]byte, filterHead)
			binary.NativeEndian.PutUint32(head[4:], uint32(index))
			binary.NativeEndian.PutUint32(head[filterParent:], parent)
			_, err := c.dump(unix.RTM_GETTFILTER, head, func(b []byte) bool {
				m, err := parse(b, filterHead)
				if err != nil {
					return false
				}
				kind, _ := m.get(unix.TCA_KIND)
				options, _ := m.get(unix.TCA_OPTIONS)
				attrs, err := parseAttributes(options)
				if number, ok := inDevice[text(kind)]; ok && err == nil {
					v, _ := message{attrs: attrs}.get(number)
					found = found || text(v) == name
				}
				return false
			})
			// A device without that queue, or one that is gone.
			if err != nil && !isGone(err) && !isUnsupported(err) && !errors.Is(err, unix.EINVAL) {
				return nil, fmt.Errorf("list the traffic filters of device %d: %w", index, err)
			}
		}
		if found {
			list = append(list, index)
		}
	}
	return list, nil
}
