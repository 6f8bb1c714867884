package xmlrpc

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/xenvnet/xend/xendcompat/fronttest"
	"github.com/xenvnet/xend/xendcompat/httpx"
	"github.com/xenvnet/xend/xendcompat/service"
)

// TestRefusals checks the fault that every kind of refusal is.
func TestRefusals(t *testing.T) {
	for kind := service.Internal; kind <= service.Unavailable; kind++ {
		d, ops := fronttest.NewRefusing(t, &service.Error{Kind: kind, Text: "no"})
		address := d.Unix(t, New(ops, httpx.Options{Log: d.Log}))
		want := FaultGeneric
		if kind == service.Internal || kind == service.NotFound {
			want = FaultInternal
		}
		_, err := call(t, address, "xend_vnet_create", "(vnet (id 97))")
		require.Equal(t, &Fault{Code: want, Text: "no"}, err)
		text := "no"
		if kind == service.NotFound {
			text = "No such vnet 97" // as the client spelled it
		}
		_, err = call(t, address, "xend_vnet_delete", "97")
		require.Equal(t, &Fault{Code: want, Text: text}, err)
		_, err = call(t, address, "xend.node.dmesg.clear")
		require.Equal(t, &Fault{Code: want, Text: "no"}, err)
	}
}
