package control

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/xenvnet/xend/xendcompat/fronttest"
	"github.com/xenvnet/xend/xendcompat/service"
)

// TestRefusals checks that a refusal is told, whatever its kind.
func TestRefusals(t *testing.T) {
	for kind := service.Internal; kind <= service.Unavailable; kind++ {
		d, ops := fronttest.NewRefusing(t, &service.Error{Kind: kind, Text: `it's "no"`})
		address := d.Unix(t, New(ops, Options{Log: d.Log}))
		for _, command := range []string{"(vnet.add (id 97))", "(vnet.del (id 97))"} {
			require.Equal(t, `(error "it's \"no\"")`+"\n", ask(t, address, command))
		}
	}
}
