package dataplane

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/xenvnet/xend/dataplane/dedup"
	"github.com/xenvnet/xend/dataplane/esp"
	"github.com/xenvnet/xend/dataplane/underlay"
	"github.com/xenvnet/xend/dataplane/wire"
	"github.com/xenvnet/xend/internal/lab"
	"github.com/xenvnet/xend/vnet"
)

// Who has the key tells who has it, too, what it has of the vnet, and nothing of it is seen outside.
func TestMembers(t *testing.T) {
	for _, level := range []vnet.Security{vnet.Auth, vnet.Conf} {
		t.Run(level.String(), func(t *testing.T) {
			_, s, hosts := newSecured(t, 3, testConfig(), level)
			a, b, c := hosts[0], hosts[1], hosts[2]
			id := idOf(t, "97")
			other := esp.Secret{8}
			c.SetKeySource(func(vnet.ID) (KeySet, error) { return KeySet{Secrets: []esp.Secret{testKey, other}, Send: 1}, nil })
			require.NoError(t, c.ReloadKeys())
			b.SetKeySource(func(vnet.ID) (KeySet, error) { return KeySet{Secrets: []esp.Secret{testKey, other}}, nil })
			require.NoError(t, b.ReloadKeys())
			senders(t, 2, hosts...)
			require.NoError(t, b.AddVif(id, domainMAC(7)))
			require.NoError(t, b.AddVif(id, domainMAC(6)))
			add(t, "98", b)
			require.NoError(t, b.AddVif(idOf(t, "98"), domainMAC(8)))
			clear, err := s.Capture(func(f lab.Frame) bool { d, ok := datagramIn(f.Data); return ok && d.to.Port() != wire.SecurityPort })
			require.NoError(t, err)

			sealsWith := func() wire.KID {
				keys := c.secured.Vnet(id).Status(c.now()).Keys
				i := slices.IndexFunc(keys, func(k esp.KeyStatus) bool { return k.Sends })
				require.GreaterOrEqual(t, i, 0)
				return keys[i].KID
			}
			before := sealsWith() // the old one until all were told of the new one
			got, err := a.Members(soon(t), id)
			require.NoError(t, err)
			require.Len(t, got, 2)
			require.Equal(t, b.Addr(), got[0].Addr)
			require.Equal(t, level, got[0].Level)
			require.Equal(t, []wire.KID{testKey.KID(id), other.KID(id)}, got[0].Keys)
			require.Equal(t, []wire.MAC{wire.MAC(domainMAC(6)), wire.MAC(domainMAC(7))}, got[0].MACs)
			require.Equal(t, 2, got[0].MACCount)
			require.Contains(t, got[0].Version, "xend")
			require.Equal(t, c.Addr(), got[1].Addr)
			require.ElementsMatch(t, []wire.KID{other.KID(id), testKey.KID(id)}, got[1].Keys)
			require.Contains(t, []wire.KID{before, sealsWith()}, got[1].Keys[0], "what it seals with comes first")
			require.Empty(t, got[1].MACs)
			require.Empty(t, clear.Take())

			// The errors, and nobody there.
			_, err = a.Members(soon(t), idOf(t, "5"))
			require.ErrorIs(t, err, ErrUnknownVnet)
			add(t, "98", a)
			_, err = a.Members(soon(t), idOf(t, "98"))
			require.EqualError(t, err, "vnet 98 has no security")
		})
	}
}

// A question is taken under the vnet's own seal alone, and answers have a bound.
func TestMembersAreAskedUnderSeal(t *testing.T) {
	m, w, n := handDriven(t, testConfig())
	secret := bareNetwork(vnet.Config{ID: vnet.ID{15: 0x55}, Security: vnet.Conf}, 1)
	secret.seal = &fakeSeal{port: wire.SecurityPort}
	w.view.vnets[secret.config.ID] = secret
	h, other := m.hosts[0], netip.MustParseAddr("10.9.1.2")
	a := arrival{uplink: w.view.uplinks[underlay.IPv4], from: other, outer: other, by: dedup.Unicast}
	ask := func(id vnet.ID) []byte { return wire.Probe{Vnet: id, Nonce: [16]byte{1}, Size: 300}.Append(nil) }
	w.fromHost(ask(secret.config.ID), a)
	require.Equal(t, 1, h.drop(DropSecurity), "in the clear")
	w.fromHost(ask(n.config.ID), a)
	require.Empty(t, h.notices, "a vnet without security has no such probe")
	sealed := a
	sealed.opened = secret
	w.payload(wire.MessageVARP, ask(n.config.ID), sealed)
	require.Empty(t, h.notices, "another vnet's seal")
	w.payload(wire.MessageVARP, ask(secret.config.ID), sealed)
	require.Len(t, h.notices, 1)
	w.now += int64(time.Second)
	for i := range 100 {
		sealed.from = netip.AddrFrom4([4]byte{10, 0, 0, byte(i)})
		w.payload(wire.MessageVARP, ask(secret.config.ID), sealed)
	}
	require.LessOrEqual(t, len(h.notices), 1+memberAnswers)
	require.NotZero(t, h.drop(DropReply))
	require.Empty(t, h.table.Remote(w.now), "it teaches nobody where a MAC is")
	// Answers to nobody's question.
	w.payload(wire.MessageVARP, wire.Probe{Vnet: secret.config.ID, Answer: true, Received: 300}.Append(nil), sealed)
	require.Equal(t, 1, h.drop(DropAnswer))
}
