package port

import (
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// UDPGSO says whether the kernel carries UDP segmentation (GSO type UDP_L4) over packet sockets, as it
// does from Linux 6.2 on. Before that, a frame of that type is refused in either direction.
var UDPGSO = sync.OnceValue(func() bool {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return false
	}
	return atLeast(unix.ByteSliceToString(u.Release[:]), 6, 2)
})

// atLeast compares a kernel release such as "6.1.0-18-amd64".
func atLeast(release string, major, minor int) bool {
	a, rest, _ := strings.Cut(release, ".")
	b := rest
	if i := strings.IndexFunc(rest, func(r rune) bool { return r < '0' || r > '9' }); i >= 0 {
		b = rest[:i]
	}
	x, errX := strconv.Atoi(a)
	y, errY := strconv.Atoi(b)
	return errX == nil && errY == nil && (x > major || (x == major && y >= minor))
}
