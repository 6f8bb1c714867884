package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/xenvnet/xend/internal/hostnet"
)

// BridgeCard does to a card of the host what Xen's network-bridge does: it becomes p followed by its name, a port of a bridge that has
// its name, its MAC, its addresses and the default routes. mac is what the card has then; nil: what it had.
func (h *Host) BridgeCard(ctx context.Context, device string, mac net.HardwareAddr) error {
	if err := h.bridgeCard(ctx, device, mac); err != nil {
		return fmt.Errorf("lab: bridge of %s on %s: %w", device, h.Name, err)
	}
	return nil
}

func (h *Host) bridgeCard(ctx context.Context, device string, mac net.HardwareAddr) error {
	n := h.Net
	card, err := n.LinkByName(device)
	if err != nil {
		return err
	}
	addresses, err := n.Addresses(card.Index)
	if err != nil {
		return err
	}
	if err := n.SetDown(card.Index); err != nil {
		return err
	}
	if err := n.Rename(card.Index, "p"+device); err != nil {
		return err
	}
	bridge, err := n.CreateBridge(hostnet.Bridge{Name: device, MAC: card.MAC})
	if err != nil {
		return err
	}
	if err := n.SetMTU(bridge.Index, card.MTU); err != nil {
		return err
	}
	if mac != nil {
		if err := n.SetHardwareAddr(card.Index, mac); err != nil {
			return err
		}
	}
	if err := n.SetMaster(card.Index, bridge.Index); err != nil {
		return err
	}
	for _, index := range []int{card.Index, bridge.Index} {
		if err := n.SetUp(index); err != nil {
			return err
		}
	}
	if err := h.AwaitForwarding(ctx, device); err != nil {
		return err
	}
	for _, a := range addresses {
		if a.Prefix.Addr().IsLinkLocalUnicast() {
			continue
		}
		// One of IPv6 went when the card was down.
		err := n.DeleteAddress(hostnet.Address{Index: card.Index, Prefix: a.Prefix})
		if err != nil && !errors.Is(err, hostnet.ErrNotFound) {
			return err
		}
		if err := n.EnsureAddress(hostnet.Address{Index: bridge.Index, Prefix: a.Prefix}); err != nil {
			return err
		}
	}
	return n.EnsureRoute(hostnet.Route{To: netip.MustParsePrefix("0.0.0.0/0"), Index: bridge.Index})
}
