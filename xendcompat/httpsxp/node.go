package httpsxp

import (
	"context"

	"github.com/xenvnet/xend/sxp"
	"github.com/xenvnet/xend/xendcompat/html"
	"github.com/xenvnet/xend/xendcompat/httpx"
)

// node answers for /xend/node and below.
func (q *request) node(ctx context.Context, rest []string) *httpx.Reply {
	if len(rest) > 1 {
		return notFound(rest[1])
	}
	if len(rest) == 0 {
		if q.post {
			return q.operations(nil)
		}
		v, err := q.svc.Node(ctx)
		switch {
		case err != nil:
			return q.broken(err)
		case q.html:
			return page(html.Node(v))
		}
		return quoted(v)
	}
	var read func(context.Context) ([]byte, error)
	var ops map[string]func() *httpx.Reply
	switch rest[0] {
	case "log":
		read = q.svc.NodeLog
	case "dmesg":
		read = q.svc.Dmesg
		ops = map[string]func() *httpx.Reply{"clear": func() *httpx.Reply {
			if err := q.svc.ClearDmesg(ctx); err != nil {
				return failedQuoted(err)
			}
			return value(sxp.Value{})
		}}
	default:
		return notFound(rest[0])
	}
	if q.post {
		return q.operations(ops)
	}
	text, err := read(ctx)
	if err != nil {
		return q.refused(err)
	}
	return httpx.OK(httpx.Plain, text)
}
