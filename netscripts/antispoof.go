package netscripts

import (
	"context"
	"slices"
	"strings"

	"github.com/xenvnet/xend/internal/hostnet"
)

// guard lets only peth0 and the interfaces of domains forward over a bridge.
func (b *bridgeScript) guard(ctx context.Context, bridge, port string) error {
	return b.withLock(ctx, lockIPTables, func() error {
		filter := b.m.filter()
		guarded, err := filter.Guarded(bridge)
		if err != nil {
			return err
		}
		ports := []string{port}
		if !guarded {
			// Domains that run already keep their network: what addresses they have is not known.
			l, err := b.m.host.LinkByName(bridge)
			if err != nil {
				return err
			}
			others, err := b.m.host.Ports(l.Index)
			if err != nil {
				return err
			}
			others = slices.DeleteFunc(others, func(l hostnet.Link) bool { return l.Name == port })
			if len(others) > 0 {
				b.warn("%s on %s may use any address until attached again", names(others), bridge)
				ports = append(ports, strings.Split(names(others), ", ")...)
			}
		}
		exact, err := filter.Guard(bridge, ports...)
		if err == nil && !exact {
			b.warn("this kernel cannot tell bridges apart in nftables (CONFIG_NFT_BRIDGE_META): frames between two ports of %s that no vif-bridge attached are not filtered", bridge)
		}
		return err
	})
}

func (b *bridgeScript) unguard(ctx context.Context, bridge string) error {
	return b.withLock(ctx, lockIPTables, func() error { return b.m.filter().Unguard(bridge) })
}
