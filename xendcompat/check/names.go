package check

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/xenvnet/xend/dataplane"
)

const (
	// namesWait bounds the questions to the resolver, maxNamed the hosts that it is asked about.
	namesWait = time.Second
	maxNamed  = 64
	// maxName is how long a name may be, RFC 1035, section 2.3.4.
	maxName = 255
)

// names finds what hosts are called: by vnet.toml, else by the resolver, whose answers come in time or not at all.
func (c *Checker) names(ctx context.Context, status dataplane.Status, list []netip.Addr) map[netip.Addr]string {
	out := map[netip.Addr]string{}
	given := func(a netip.Addr, name string) {
		if _, err := netip.ParseAddr(name); err != nil && name != "" && a.IsValid() {
			out[a] = name
		}
	}
	for _, p := range status.Peers {
		given(p.Addr, p.Name)
	}
	for _, p := range status.Replicate {
		given(p.Addr, p.Name)
	}
	lookup := c.o.Names
	if lookup == nil {
		lookup = net.DefaultResolver.LookupAddr
	}
	ctx, cancel := context.WithTimeout(ctx, namesWait)
	defer cancel()
	unnamed := slices.DeleteFunc(slices.Clone(list), func(a netip.Addr) bool { return out[a] != "" })
	var mu sync.Mutex
	var wg sync.WaitGroup
	for _, a := range unnamed[:min(len(unnamed), maxNamed)] {
		wg.Go(func() {
			found, err := lookup(ctx, a.String())
			if err != nil || len(found) == 0 {
				return
			}
			if name := strings.TrimSuffix(found[0], "."); name != "" && len(name) <= maxName {
				mu.Lock()
				defer mu.Unlock()
				out[a] = name
			}
		})
	}
	wg.Wait()
	return out
}

// name puts hosts' names beside their addresses.
func (j *judge) name() {
	of := func(text string) string {
		a, err := netip.ParseAddr(text)
		if err != nil {
			return ""
		}
		return j.names[a]
	}
	for i := range j.report.Findings {
		f := &j.report.Findings[i]
		f.Host = of(f.Of)
	}
	for i := range j.report.Hosts {
		h := &j.report.Hosts[i]
		h.Name = of(h.Address)
	}
}
