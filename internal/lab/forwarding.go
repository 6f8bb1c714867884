package lab

import (
	"context"
	"fmt"
	"strings"
	"time"
)

// AwaitForwarding waits until all ports of a bridge forward, which they do a moment after their links are up: what is
// sent before is lost.
func (h *Host) AwaitForwarding(ctx context.Context, bridge string) error {
	tick := time.NewTicker(2 * time.Millisecond) // no event tells of a port's state
	defer tick.Stop()
	for {
		out, err := h.Run(ctx, "bridge", "link")
		if err != nil {
			return err
		}
		waiting := ""
		for line := range strings.Lines(out) {
			if strings.Contains(line, "master "+bridge+" ") && !strings.Contains(line, "state forwarding") {
				waiting = line
			}
		}
		if waiting == "" {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("lab: a port of bridge %s of %s does not forward: %s: %w", bridge, h.Name, strings.TrimSpace(waiting), ctx.Err())
		}
	}
}
