package httpsxp

import (
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/xenvnet/xend/xendcompat/fronttest"
	"github.com/xenvnet/xend/xendcompat/httpx"
	"github.com/xenvnet/xend/xendcompat/service"
)

// TestRefusals checks how every kind of refusal reaches a client: as a success with the text in the body, but for what
// is not there.
func TestRefusals(t *testing.T) {
	for kind := service.Internal; kind <= service.Unavailable; kind++ {
		err := &service.Error{Kind: kind, Text: "it's no"}
		d, ops := fronttest.NewRefusing(t, err)
		c := client{t: t, address: d.Unix(t, New(ops, httpx.Options{Log: d.Log}))}
		got := c.create("(vnet (id 97))")
		require.Equal(t, ok, got.line)
		require.Equal(t, `(xend.err "it's no")`, got.body)
		for _, op := range []url.Values{{"op": {"delete"}}, {"op": {"change"}, "config": {"(vnet (id 97))"}}} {
			got = c.post("/xend/vnet/97", op.Encode())
			if kind == service.NotFound {
				require.True(t, strings.HasPrefix(got.line, "HTTP/1.1 404 "), got.line)
				require.Contains(t, got.line+got.body, "No such vnet 97")
			} else {
				require.Equal(t, ok, got.line)
				require.Equal(t, `(xend.err "it's no")`, got.body)
			}
		}
		got = c.get("/xend/node/log")
		require.Contains(t, got.body, "it")
		c.headers = browser
		got = c.create("(vnet (id 97))")
		require.Equal(t, ok, got.line)
		require.Contains(t, got.body, "it&#39;s no")
	}
}
