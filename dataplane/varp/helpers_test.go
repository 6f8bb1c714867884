package varp_test

import (
	"encoding/binary"
	"net/netip"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/xenvnet/xend/dataplane/varp"
	"github.com/xenvnet/xend/dataplane/wire"
	"github.com/xenvnet/xend/vnet"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const second = int64(time.Second)

// key returns the i-th of many keys, spread over ten vnets.
func key(i int) varp.Key {
	k := varp.Key{Vnet: vnet.ID{15: byte(10 + i%10)}, MAC: wire.MAC{0x00, 0x16}}
	binary.BigEndian.PutUint32(k.MAC[2:], uint32(i))
	return k
}

// host returns the i-th of many care-of addresses.
func host(i int) netip.Addr {
	return netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)})
}
