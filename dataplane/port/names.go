// Package port is a vnif: a veth pair whose one end, the vnif, users see and put on a bridge, and whose
// other end, the partner, is read and written here through a packet socket. A Survey tells what there is of the
// devices, a Maker looks after them; they outlive the daemon. A Port moves frames in batches.
package port

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"

	"github.com/xenvnet/xend/vnet"
)

// Group is the link group of everything that xend made, so that `ip link show group 1798` lists it.
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

// Alias marks the devices of a vnet: the vnif, its partner, and the bridge if xend made it.
func Alias(id vnet.ID) string { return vnet.AliasPrefix + id.String() }

// parseAlias tells whose an alias is.
func parseAlias(alias string) (vnet.ID, bool) {
	text, found := strings.CutPrefix(alias, vnet.AliasPrefix)
	if !found {
		return vnet.ID{}, false
	}
	id, err := vnet.ParseID(text)
	return id, err == nil
}

// The names that only xend gives: the partner's, and those under which devices are made, until they bear their alias
// and may have their own. A device of such a name is a leftover of a daemon that was killed meanwhile.
const (
	partnerPrefix = "vnp"
	vnifPrefix    = "vnn"
	bridgePrefix  = "vnb"
)

// PartnerName is the name of the vnif's other end: "vnp97", or with a hash where the id is long. At most
// 14 characters.
func PartnerName(id vnet.ID) string { return partnerPrefix + suffix(id) }

func newVnifName(id vnet.ID) string   { return vnifPrefix + suffix(id) }
func newBridgeName(id vnet.ID) string { return bridgePrefix + suffix(id) }

// JoinPrefix begins the names of the pair by which the fast path joins segments of TCP, which belongs to no vnet.
const JoinPrefix = partnerPrefix + "-gro"

// Reserved says whether a name is one that only xend gives.
func Reserved(name string) bool {
	_, _, ok := cutName(name)
	return ok || strings.HasPrefix(name, JoinPrefix)
}

// OwnNames are the names that a vnet's devices bear, for ever or while they are made, besides those that its
// configuration gives.
func OwnNames(id vnet.ID) []string {
	return []string{PartnerName(id), newVnifName(id), newBridgeName(id)}
}

// digits is how many of an id's digits fit into a name.
const digits = 10

// suffix is the id's hexadecimal digits without leading zeros if those are at most ten, else a
// hyphen and the first ten digits of its SHA-256.
func suffix(id vnet.ID) string {
	if s := strings.TrimLeft(hex.EncodeToString(id[:]), "0"); len(s) <= digits {
		return s
	}
	sum := sha256.Sum256([]byte(id.String()))
	return "-" + hex.EncodeToString(sum[:])[:digits]
}

// cutName takes a name that only xend gives apart.
func cutName(name string) (prefix, suffix string, ok bool) {
	if len(name) <= len(partnerPrefix) {
		return "", "", false
	}
	prefix, suffix = name[:len(partnerPrefix)], name[len(partnerPrefix):]
	switch prefix {
	case partnerPrefix, vnifPrefix, bridgePrefix:
	default:
		return "", "", false
	}
	text, hashed := strings.CutPrefix(suffix, "-")
	if text == "" || len(text) > digits || hashed && len(text) != digits || !hashed && text[0] == '0' ||
		strings.Trim(text, "0123456789abcdef") != "" {
		return "", "", false
	}
	return prefix, suffix, true
}

// parseSuffix is the id whose suffix that is; zero of one that is hashed.
func parseSuffix(suffix string) (id vnet.ID) {
	if suffix[0] != '-' {
		n, _ := strconv.ParseUint(suffix, 16, 64) // cutName has looked
		binary.BigEndian.PutUint64(id[len(id)-8:], n)
	}
	return id
}
