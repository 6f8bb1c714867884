package main

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/xenvnet/xend/internal/lab"
)

// While the domains of ten vnets send from random MACs, the programs answer.
func TestProgramsDuringFlood(t *testing.T) {
	f := newFaultLab(t, "A")
	f.sh(a, "xend start")
	var domains []*lab.Domain
	for i := range 10 {
		f.sh(a, fmt.Sprintf("vn vnet-create -b vnet10%d 10%d", i, i))
		d, err := f.hosts[a].Domain(lab.DomainSpec{Name: fmt.Sprint("dom", i), Vif: fmt.Sprintf("vif%d.0", i+1), Bridge: fmt.Sprint("vnet10", i)})
		require.NoError(t, err)
		domains = append(domains, d)
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var sent atomic.Uint64
	ended := make(chan error, 1)
	go func() { ended <- lab.FloodMACs(ctx, domains, &sent) }()
	f.eventually("a flood", func() bool { return sent.Load() > 20_000 })
	for command, want := range map[string]string{
		"vn stats": "\n109 ", "vn vifs": "(vif\n", "vn varp": "(varp\n", "xend status": "xend is running",
		"xm vnet-create $XEND_PREFIX/vnet97.sxp && xm vnet-list && xm vnet-delete 97": "97\n",
	} {
		before := sent.Load()
		require.Contains(t, f.sh(a, command), want, command)
		f.eventually("the flood goes on", func() bool { return sent.Load() > before })
	}
	stop()
	require.NoError(t, <-ended)
}
