package esp

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"net/netip"
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/xenvnet/xend/dataplane/wire"
	"github.com/xenvnet/xend/vnet"
)

// hexBytes is a hex string of the vectors.
type hexBytes []byte

func (h *hexBytes) UnmarshalJSON(b []byte) error {
	var s string
	if err := json.Unmarshal(b, &s); err != nil {
		return err
	}
	var err error
	*h, err = hex.DecodeString(s)
	return err
}

// vectors are what another program, which shares no code with ours, made of the protocol.
type vectors struct {
	Keys []struct {
		Name      string
		Key, Vnet hexBytes
		PRK, KID  hexBytes
		MACKey    hexBytes `json:"mac_key"`
	}
	SA []struct {
		Name   string
		Key    string `json:"vnet_key"`
		Nonce  hexBytes
		Epoch  uint32
		Level  string
		Lane   uint8
		SPI    uint32
		AESKey hexBytes `json:"aes_key"`
		Salt   hexBytes
	}
	Messages []struct {
		Name   string
		Key    string `json:"vnet_key"`
		Fields struct {
			Challenge, Instance, Nonce, Echo hexBytes
			SPI                              uint32
			Addr4, Addr6                     hexBytes
			Level                            uint8
			Epoch                            uint32
			MN                               uint64
			Nexts                            []uint64
		}
		UDP hexBytes `json:"udp4500"`
	}
	ESP []struct {
		Name      string
		SA        string
		Seq       uint64
		IV        hexBytes
		Payload   hexBytes `json:"udp_payload"`
		Plaintext hexBytes
		Packet    hexBytes
	}
	Bad []struct {
		Name   string
		Packet hexBytes
		Reason string
	}
	Infer []struct {
		Around int64
		Low    uint32
		Seq    int64
	}
	Window []struct {
		Size  int
		Next  uint64
		Steps [][2]any
	}
}

func loadVectors(t testing.TB) *vectors {
	b, err := os.ReadFile("testdata/vectors.json")
	require.NoError(t, err)
	v := new(vectors)
	require.NoError(t, json.Unmarshal(b, v))
	return v
}

func (v *vectors) key(t testing.TB, name string) *vnetKey {
	for _, k := range v.Keys {
		if k.Name == name {
			return newVnetKey(Secret(k.Key), vnet.ID(k.Vnet))
		}
	}
	require.Fail(t, "no key", name)
	return nil
}

func (v *vectors) level(t testing.TB, name string) vnet.Security {
	l, err := vnet.ParseSecurity(name)
	require.NoError(t, err)
	return l
}

func TestVectorKeys(t *testing.T) {
	v := loadVectors(t)
	require.Len(t, v.Keys, 3)
	for _, k := range v.Keys {
		got := v.key(t, k.Name)
		require.EqualValues(t, k.PRK, got.prk)
		require.EqualValues(t, k.KID, got.kid[:])
		require.EqualValues(t, k.MACKey, got.mac)
	}
}

func TestVectorMessages(t *testing.T) {
	v := loadVectors(t)
	for _, m := range v.Messages {
		k, f := v.key(t, m.Key), m.Fields
		b := make([]byte, wire.MarkerLen)
		var addr4, addr6 netip.Addr
		if f.Addr4 != nil {
			addr4, _ = netip.AddrFromSlice(f.Addr4)
		}
		if f.Addr6 != nil {
			addr6, _ = netip.AddrFromSlice(f.Addr6)
		}
		body := m.UDP[wire.MarkerLen:]
		require.True(t, k.verify(body), m.Name)
		if f.Nexts == nil {
			want := wire.Ask{KID: k.kid, Challenge: [16]byte(f.Challenge), SPI: f.SPI, Addr4: addr4, Addr6: addr6}
			require.EqualValues(t, m.UDP, k.sign(want.Append(b), wire.MarkerLen), m.Name)
			var got wire.Ask
			require.NoError(t, got.Decode(body))
			require.Equal(t, want, got)
			continue
		}
		want := wire.Key{
			KID: k.kid, Level: f.Level, Instance: [16]byte(f.Instance), Nonce: [16]byte(f.Nonce), Epoch: f.Epoch, SPI: f.SPI,
			Number: f.MN, Addr4: addr4, Addr6: addr6, Lanes: len(f.Nexts),
		}
		if f.Echo != nil {
			want.Echo = [16]byte(f.Echo)
		}
		copy(want.Next[:], f.Nexts)
		require.EqualValues(t, m.UDP, k.sign(want.Append(b), wire.MarkerLen), m.Name)
		var got wire.Key
		require.NoError(t, got.Decode(body))
		require.Equal(t, want, got)
	}
}

// receiver returns a table in which a sending SA of the vectors is confirmed, with next as given.
func (v *vectors) receiver(t testing.TB, name string, lanes int, next uint64) *Table {
	for _, sa := range v.SA {
		if sa.Name != name {
			continue
		}
		k := v.key(t, sa.Key)
		table := NewTable(nil)
		here, err := table.Add(Config{ID: k.id, Level: v.level(t, sa.Level), Keys: []Secret{k.secret}, Threads: 1}, 0)
		require.NoError(t, err)
		m := &wire.Key{
			KID: k.kid, Level: levelOf(here.level), Nonce: [16]byte(sa.Nonce), Epoch: sa.Epoch, SPI: sa.SPI &^ 0xff, Number: 1, Lanes: lanes,
			Addr4: netip.MustParseAddr("10.9.0.1"),
		}
		for i := range lanes {
			m.Next[i] = next
		}
		require.Equal(t, Taken, here.createLocked(here.keys[0], nil, m, senderID{k.kid, m.Instance}, true, Arrival{}, 0))
		return table
	}
	require.Fail(t, "no SA", name)
	return nil
}

func TestVectorPackets(t *testing.T) {
	v := loadVectors(t)
	require.Len(t, v.ESP, 21)
	for _, p := range v.ESP {
		t.Run(p.Name, func(t *testing.T) {
			for _, sa := range v.SA {
				if sa.Name != p.SA {
					continue
				}
				k := v.key(t, sa.Key)
				s := newSending(k, v.level(t, sa.Level), [16]byte(sa.Nonce), sa.Epoch, sa.SPI&^0xff, int(sa.Lane)+1, 0)
				lane := &s.lanes[sa.Lane]
				require.Equal(t, sa.SPI, lane.spi)
				require.EqualValues(t, sa.Salt, lane.key.salt[:])
				require.EqualValues(t, append(sa.AESKey, sa.Salt...), k.expand(string(laneInfo(k, sa.Nonce, sa.Epoch, levelOf(lane.level), sa.Lane)), 36))

				ours := bytes.Equal(p.IV, binaryUint64(p.Seq)) && len(p.Packet) == wire.ESPLen(len(p.Payload))
				if ours {
					lane.next.Store(p.Seq)
					got, err := lane.Append([]byte("head"), p.Payload)
					require.NoError(t, err)
					require.Equal(t, "head", string(got[:4]))
					require.Equal(t, hex.EncodeToString(p.Packet), hex.EncodeToString(got[4:]))
				}

				for _, room := range []int{0, Headroom} {
					table := v.receiver(t, p.SA, wire.MaxLanes, p.Seq)
					buf := append(bytes.Repeat([]byte{0xee}, room), p.Packet...)
					opened, refusal := table.Open(new(Opener), buf, room)
					require.Equal(t, Taken, refusal)
					require.EqualValues(t, p.Payload, opened.Message)
					require.Equal(t, bytes.Repeat([]byte{0xee}, room), buf[:room])
					_, refusal = table.Open(new(Opener), append(buf[:0:0], p.Packet...), 0)
					require.Equal(t, Replay, refusal)
				}
			}
		})
	}
}

func TestVectorBad(t *testing.T) {
	v := loadVectors(t)
	require.Len(t, v.Bad, 26)
	for _, b := range v.Bad {
		t.Run(b.Name, func(t *testing.T) {
			table := v.receiver(t, "sa0", 10, 1)
			var here *Vnet
			table.Vnets(func(x *Vnet) { here = x })
			var refusal Refusal
			if wire.DecodeSecured(b.Packet) == wire.SecuredMessage {
				table.Vnets(func(x *Vnet) { x.dropLocked(func(*receiving) bool { return true }) }) // no entries
				var verdict Verdict
				verdict, _ = table.Message(b.Packet[wire.MarkerLen:], Arrival{}, 0, nil)
				refusal = verdict.Refusal
				require.Empty(t, here.senders)
			} else {
				_, refusal = table.Open(new(Opener), b.Packet, 0)
				after := here.sas[[16]byte(v.SA[0].Nonce)]
				for i := range after.lanes {
					if refusal != WrongInner && refusal != WrongVnet {
						require.Nil(t, after.lanes[i].seen)
					}
				}
			}
			require.Equal(t, b.Reason, refusal.String())
		})
	}
}

func TestVectorInference(t *testing.T) {
	for _, c := range loadVectors(t).Infer {
		w := window{top: c.Around, base: 0}
		q := w.infer(c.Low)
		if c.Seq < 0 {
			require.Less(t, q, int64(0))
			continue
		}
		require.Equal(t, c.Seq, q)
		w = window{top: 0, base: c.Around}
		require.Equal(t, c.Seq, w.infer(c.Low))
	}
}

func TestVectorWindow(t *testing.T) {
	for _, c := range loadVectors(t).Window {
		require.Equal(t, windowSize, c.Size)
		w := newWindow(c.Next)
		for i, s := range c.Steps {
			q, want := int64(s[0].(float64)), s[1].(bool)
			got := w.infer(uint32(q)) == q && w.fresh(q)
			require.Equal(t, want, got, "step %d: %d", i, q)
			if got {
				w.take(q)
			}
		}
	}
}
