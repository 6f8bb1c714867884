package wire

// MAC is an Ethernet address.
type MAC [6]byte

// Multicast reports whether m is a multicast or broadcast address.
func (m MAC) Multicast() bool { return m[0]&1 != 0 }

// IsZero reports whether m is 00:00:00:00:00:00, which no interface has.
func (m MAC) IsZero() bool { return m == MAC{} }

// String gives m as aa:bb:cc:dd:ee:ff.
func (m MAC) String() string {
	const digits = "0123456789abcdef"
	var b [17]byte
	for i, x := range m {
		if i > 0 {
			b[3*i-1] = ':'
		}
		b[3*i], b[3*i+1] = digits[x>>4], digits[x&15]
	}
	return string(b[:])
}

// Destination returns the destination MAC of an Ethernet frame of at least FrameLen bytes.
func Destination(frame []byte) MAC { return MAC(frame[0:6]) }

// Source returns the source MAC of an Ethernet frame of at least FrameLen bytes.
func Source(frame []byte) MAC { return MAC(frame[6:12]) }
