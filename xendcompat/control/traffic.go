package control

import (
	"context"
	"time"

	"github.com/xenvnet/xend/dataplane"
	"github.com/xenvnet/xend/sxp"
	"github.com/xenvnet/xend/vnet"
	"github.com/xenvnet/xend/xendcompat/service"
	"github.com/xenvnet/xend/xendcompat/traffic"
)

// traffic does (vn.traffic): all that is counted, as traffic.Snapshot.
func (s *Server) traffic(context.Context, sxp.Value) (any, error) {
	d := s.svc.Dataplane()
	return snapshotOf(d, d.Status(), d.Counters(), time.Now()), nil
}

func counts(t dataplane.Traffic) traffic.Counts {
	return traffic.Counts{Packets: t.Packets, Bytes: t.Bytes}
}

func drops(list []dataplane.Drop) traffic.Drops {
	out := traffic.Drops{}
	for _, d := range list {
		out[d.Reason.String()] = d.Count
	}
	return out
}

// snapshotOf puts together what the data plane tells.
func snapshotOf(d service.Dataplane, s dataplane.Status, c dataplane.Counters, now time.Time) traffic.Snapshot {
	out := traffic.Snapshot{Time: now, Vnets: []traffic.Vnet{}, Hosts: []traffic.Host{}, Drops: []traffic.Drop{}}
	macs := d.MACs()
	counted := map[vnet.ID]dataplane.VnetCounters{}
	for _, v := range c.Vnets {
		counted[v.ID] = v
	}
	for _, v := range s.Vnets {
		x := counted[v.ID]
		out.Vnets = append(out.Vnets, traffic.Vnet{
			ID: v.ID.Short(), Bridge: v.Bridge, Up: v.Up, Security: v.Security.String(), Tx: counts(x.Tx), Rx: counts(x.Rx),
			KernelTx: counts(x.KernelTx), KernelRx: counts(x.KernelRx), Flooded: x.Flooded, Drops: drops(x.Drops), Here: macs[v.ID].Here, Elsewhere: macs[v.ID].Elsewhere,
		})
	}
	for _, h := range s.Hosts {
		out.Hosts = append(out.Hosts, traffic.Host{
			Address: h.Addr.String(), Tx: traffic.Counts{Packets: h.TxPackets, Bytes: h.TxBytes}, Rx: traffic.Counts{Packets: h.RxPackets, Bytes: h.RxBytes},
			Group: h.Group.Seconds(), Unicast: h.Unicast.Seconds(), MACs: h.MACs, Encapsulation: string(h.Encapsulation), Drops: drops(h.Dropped),
		})
	}
	for _, p := range s.Peers {
		out.Forwarded += p.TxPackets
	}
	for _, x := range c.Drops {
		r := traffic.Drop{Reason: x.Reason.String(), Packets: x.Count, Help: x.Reason.Help()}
		switch x.Reason {
		case dataplane.DropNotUnderlay:
			for _, o := range c.Strangers {
				r.Sources = append(r.Sources, traffic.Source{From: o.From.String(), Packets: o.Packets, Device: o.Device})
			}
		case dataplane.DropUnknownVnet:
			for _, o := range c.Unknown {
				r.Sources = append(r.Sources, traffic.Source{From: o.From.String(), Packets: o.Packets, Vnet: o.Vnet.Short()})
			}
		default:
			for _, o := range c.Sources {
				if o.Reason == x.Reason {
					r.Sources = append(r.Sources, traffic.Source{From: o.From.String(), Packets: o.Packets})
				}
			}
		}
		out.Drops = append(out.Drops, r)
	}
	return out
}
