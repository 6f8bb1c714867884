// Package port is a vnif: a veth pair whose one end, the vnif, users see and put on a bridge, and whose
// other end, the peer, is read and written here through a packet socket. Ensure and Remove look
// after the devices, which outlive the daemon; a Port moves frames in batches.
package port

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/xenvnet/xend/internal/hostnet"
	"github.com/xenvnet/xend/vnet"
)

// Group is the link group of every peer, so that `ip link show group 1798` lists them.
const Group = 1798

// DefaultMTU is the MTU of vnif and bridge where none is configured: what domains expect.
const DefaultMTU = 1500

// The bounds of a vnet's MTU: what IPv6 needs at least, and what keeps a frame with its headers in one IP
// packet.
const (
	minMTU = 1280
	maxMTU = 65000
)

// CheckMTU tells why vnifs and bridges can't have that MTU, in bytes.
func CheckMTU(mtu int) error {
	if mtu < minMTU || mtu > maxMTU {
		return fmt.Errorf("mtu %d is not between %d and %d", mtu, minMTU, maxMTU)
	}
	return nil
}

// aliasPrefix begins the interface alias of everything that xend made.
const aliasPrefix = "xend vnet "

// Alias marks the devices of a vnet: the vnif, its peer, and the bridge if xend made it.
func Alias(id vnet.ID) string { return aliasPrefix + id.String() }

// parseAlias tells whose an alias is.
func parseAlias(alias string) (vnet.ID, bool) {
	text, found := strings.CutPrefix(alias, aliasPrefix)
	if !found {
		return vnet.ID{}, false
	}
	id, err := vnet.ParseID(text)
	return id, err == nil
}

// Owner tells which vnet a device belongs to that xend made for one.
func Owner(l hostnet.Link) (vnet.ID, bool) { return parseAlias(l.Alias) }

// PeerName is the name of the vnif's other end: "vnp97", or with a hash where the id is long. At most
// 14 characters.
func PeerName(id vnet.ID) string { return "vnp" + suffix(id) }

// The names under which devices are made, until they bear their alias and may have their own: a device
// of such a name is a leftover of a daemon that was killed meanwhile.
func newVnifName(id vnet.ID) string   { return "vnn" + suffix(id) }
func newBridgeName(id vnet.ID) string { return "vnb" + suffix(id) }

// suffix is the id's hexadecimal digits without leading zeros if those are at most ten, else a
// hyphen and the first ten digits of its SHA-256.
func suffix(id vnet.ID) string {
	const digits = 10
	if s := strings.TrimLeft(hex.EncodeToString(id[:]), "0"); len(s) <= digits {
		return s
	}
	sum := sha256.Sum256([]byte(id.String()))
	return "-" + hex.EncodeToString(sum[:])[:digits]
}
