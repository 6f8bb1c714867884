package control

import (
	"bytes"
	"context"
	"fmt"

	"github.com/xenvnet/xend/sxp"
	"github.com/xenvnet/xend/xendcompat/service"
)

// status writes what `xend status` shows.
func (s *Server) status(ctx context.Context, _ sxp.Value, out *bytes.Buffer) error {
	writeStatus(out, s.svc.Health(ctx))
	return nil
}

// writeStatus writes (status (severity S) (vnets N) (up N) (transient N) (default N) (dataplane on|off) (underlay …)… (trouble …)…).
func writeStatus(b *bytes.Buffer, h service.Health) {
	dataplane := "on"
	if h.Off {
		dataplane = "off"
	}
	items := []sxp.Value{
		sxp.Atom("status"), sxp.Pair("severity", h.Severity().String()),
		sxp.Pair("vnets", fmt.Sprint(h.Vnets)), sxp.Pair("up", fmt.Sprint(h.Up)),
		sxp.Pair("transient", fmt.Sprint(h.Transient)), sxp.Pair("default", fmt.Sprint(h.Default)), sxp.Pair("dataplane", dataplane),
	}
	for _, u := range h.Underlays {
		fields := []sxp.Value{sxp.Atom("underlay"), sxp.Pair("family", u.Family)}
		if u.Up {
			fields = append(fields, sxp.Pair("device", u.Device), sxp.Pair("addr", u.Address.String()), sxp.Pair("mtu", fmt.Sprint(u.MTU)),
				sxp.Pair("group", u.Group.String()), sxp.Pair("port", fmt.Sprint(u.Port)), sxp.Pair("reason", u.Reason))
		} else {
			fields = append(fields, sxp.Pair("problem", u.Problem))
		}
		items = append(items, sxp.List(fields...))
	}
	for _, t := range h.Troubles {
		items = append(items, sxp.List(sxp.Atom("trouble"), sxp.Pair("severity", t.Severity.String()), sxp.Pair("of", t.Of),
			sxp.Pair("text", t.Text), sxp.Pair("cure", t.Cure)))
	}
	writeForm(b, sxp.List(items...))
}
