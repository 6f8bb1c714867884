package httpsxp

import (
	"context"
	"net/url"

	"github.com/xenvnet/xend/sxp"
	"github.com/xenvnet/xend/vnet"
	"github.com/xenvnet/xend/xendcompat/html"
	"github.com/xenvnet/xend/xendcompat/httpx"
	"github.com/xenvnet/xend/xendcompat/service"
)

// vnets answers for /xend/vnet and below.
func (q *request) vnets(ctx context.Context, rest []string) *httpx.Reply {
	if len(rest) == 0 {
		if q.post {
			return q.operations(map[string]func() *httpx.Reply{
				"create": func() *httpx.Reply { return q.createVnet(ctx) },
			})
		}
		return q.listVnets()
	}
	id := rest[0]
	find := q.svc.FindVnet
	if q.post { // what can be changed can be deleted
		find = q.svc.FindDeletable
	}
	c, err := find(id)
	switch {
	case service.KindOf(err) == service.Conflict && q.html:
		return vnetsPage(q.svc.Vnets(), "", err)
	case service.KindOf(err) == service.Conflict:
		return failed(err)
	case err != nil:
		return httpx.NotFound(err.Error())
	}
	if len(rest) > 1 {
		return notFound(rest[1])
	}
	if q.post {
		return q.operations(map[string]func() *httpx.Reply{
			"change": func() *httpx.Reply { return q.changeVnet(ctx, id, c) },
			"delete": func() *httpx.Reply { return q.deleteVnet(ctx, id, c) },
		})
	}
	if q.html {
		return vnetPage(c, nil)
	}
	return value(c.Form)
}

func (q *request) listVnets() *httpx.Reply {
	all := q.svc.Vnets()
	if q.html {
		return vnetsPage(all, "", nil)
	}
	ids := make([]sxp.Value, 0, len(all))
	for _, c := range all {
		ids = append(ids, sxp.Atom(c.IDText))
	}
	return value(sxp.List(ids...))
}

func (q *request) createVnet(ctx context.Context) *httpx.Reply {
	text, err := q.param("config")
	if err == nil {
		var c vnet.Config
		if c, err = vnet.ParseConfig([]byte(text)); err == nil {
			err = q.svc.CreateVnet(ctx, c)
		}
	}
	switch {
	case err != nil && q.html:
		return vnetsPage(q.svc.Vnets(), text, err)
	case err != nil:
		return failed(err)
	case q.html:
		return seeOther("/xend/vnet/")
	}
	return value(sxp.Value{})
}

// changeVnet gives a vnet another configuration, which must be one of the same vnet. No client of xend's knows it.
func (q *request) changeVnet(ctx context.Context, id string, old vnet.Config) *httpx.Reply {
	text, err := q.param("config")
	if err == nil {
		var c vnet.Config
		c, err = vnet.ParseConfig([]byte(text))
		if err == nil && c.ID != old.ID {
			err = &service.Error{Kind: service.Invalid, Text: "invalid vnet config: id: it is that of vnet " + c.IDText + ", and vnet " + id + " is to be changed"}
		}
		if err == nil {
			err = q.svc.ChangeVnet(ctx, c)
		}
	}
	return q.done(id, old, err, "/xend/vnet/"+url.PathEscape(id))
}

func (q *request) deleteVnet(ctx context.Context, id string, c vnet.Config) *httpx.Reply {
	return q.done(id, c, q.svc.DeleteVnet(ctx, c.ID), "/xend/vnet/")
}

// done answers for what was done to a vnet, with err; a person is shown next.
func (q *request) done(id string, c vnet.Config, err error, next string) *httpx.Reply {
	switch {
	case service.KindOf(err) == service.NotFound: // somebody else was faster
		return httpx.NotFound(service.NoSuchVnet(id).Error())
	case err != nil && q.html:
		return vnetPage(c, err)
	case err != nil:
		return failed(err)
	case q.html:
		return seeOther(next)
	}
	return value(sxp.Value{})
}

// vnetsPage draws the list; text and err are a configuration that was refused, and why.
func vnetsPage(all []vnet.Config, text string, err error) *httpx.Reply {
	p := html.VnetsPage{}
	for _, c := range all {
		p.Vnets = append(p.Vnets, row(c))
	}
	if err != nil {
		p.Config, p.Error = text, err.Error()
	}
	return page(html.Vnets(p))
}

// vnetPage draws one vnet; err is why it was not changed or deleted.
func vnetPage(c vnet.Config, err error) *httpx.Reply {
	p := html.VnetPage{VnetRow: row(c), FullID: c.ID.String(), Form: c.Form}
	if err != nil {
		p.Error = err.Error()
	}
	return page(html.Vnet(p))
}

func row(c vnet.Config) html.VnetRow {
	return html.VnetRow{ID: c.IDText, Bridge: c.Bridge, Vnetif: c.Vnetif, Security: c.Security.String()}
}
