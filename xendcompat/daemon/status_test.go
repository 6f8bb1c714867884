package daemon

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/xenvnet/xend/xendcompat/service"
)

// What ails a thousand vnets does not push what else is said off the screen.
func TestStatusIsBounded(t *testing.T) {
	r := &StatusReport{PID: 7, Version: "1", Vnets: 1000, Dataplane: "on"}
	for i := range 1000 {
		r.add(service.Degraded, fmt.Sprint("vnet ", i), "down", "")
	}
	var b bytes.Buffer
	r.WriteText(&b)
	require.Equal(t, maxTroubles, strings.Count(b.String(), "DEGRADED"))
	require.Contains(t, b.String(), "          and 980 more; --json lists them\n\nxend is running, pid 7")
}
