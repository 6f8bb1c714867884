package status

import (
	"context"
	"crypto/hmac"
	"net/http"
	"net/url"
	"strings"

	"github.com/xenvnet/xend/sxp"
	"github.com/xenvnet/xend/vnet"
	"github.com/xenvnet/xend/xendcompat/httpx"
	"github.com/xenvnet/xend/xendcompat/service"
)

// vnetForm is what the fields of the form hold, and what they make.
type vnetForm struct {
	ID, Bridge, Vnetif, Security string
	// Of is the id of the vnet that is to be changed; "": one is to be made. Open: somebody is at it.
	Of   string
	Open bool
	// SXP is the configuration that they make; "" before anything was filled in. Problem is why it is none.
	SXP, Problem string
}

// newVnetForm reads the fields.
func (h *handler) newVnetForm(v url.Values) vnetForm {
	field := func(name string) string { return strings.TrimSpace(v.Get(name)) }
	f := vnetForm{ID: field("id"), Bridge: field("bridge"), Vnetif: field("vnetif"), Security: field("security"), Of: field("of"), Open: true}
	if f.Of == "" {
		f.fill(nil)
		return f
	}
	old, err := h.ops.FindDeletable(f.Of)
	if err != nil {
		f.Problem = err.Error()
		return f
	}
	f.Of, f.ID = old.IDText, old.IDText
	f.fill(old.Form.Children())
	return f
}

// changeForm is the form that changes a vnet, before anybody has touched it.
func changeForm(c vnet.Config) vnetForm {
	given := func(name string) string { return c.Form.ChildValue(name, "") }
	f := vnetForm{ID: c.IDText, Of: c.IDText, Bridge: given("bridge"), Vnetif: given("vnetif"), Security: c.Security.String()}
	f.fill(c.Form.Children())
	return f
}

// fill makes the form of the fields, with what else the elements of an old one say, and says what is wrong with it.
func (f *vnetForm) fill(old []sxp.Value) {
	f.SXP = f.value(old).String()
	if _, err := f.config(); err != nil {
		f.Problem = err.Error()
	}
}

// value is the (vnet …) form that the fields make; what is empty is left to its default. Elements of an old one that mean
// nothing are kept.
func (f *vnetForm) value(old []sxp.Value) sxp.Value {
	items := []sxp.Value{sxp.Atom("vnet")}
	fields := []struct{ name, value string }{{"id", f.ID}, {"bridge", f.Bridge}, {"vnetif", f.Vnetif}, {"security", f.Security}}
	for _, x := range fields {
		if x.value != "" {
			items = append(items, sxp.Pair(x.name, x.value))
		}
	}
	for _, v := range old {
		known := false
		for _, x := range fields {
			known = known || v.Name() == x.name
		}
		if !known {
			items = append(items, v)
		}
	}
	return sxp.List(items...)
}

func (f *vnetForm) config() (vnet.Config, error) {
	// As if it came in a file: what the person is shown is what is done.
	return vnet.ParseConfig([]byte(f.SXP))
}

// form answers for /xend/form: a GET says what the fields make, and in a second line what is wrong with it; a POST
// does it.
func (h *handler) form(ctx context.Context, r *httpx.Request, who string) *httpx.Reply {
	fields := parseForm(r)
	if reads(r) {
		f := h.newVnetForm(fields)
		text := f.SXP
		if f.Problem != "" {
			text += "\n" + f.Problem
		}
		return httpx.OK(httpx.Plain, []byte(text))
	}
	if !h.sealed(r, who) {
		return forged()
	}
	switch fields.Get("op") {
	case "show":
		f := h.newVnetForm(fields)
		if f.Of != "" {
			return h.vnetPageWith(ctx, r, who, f.Of, http.StatusOK, &f, "")
		}
		return h.frontWith(ctx, r, who, http.StatusOK, f, "")
	case "create":
		return h.create(ctx, r, who, h.newVnetForm(fields))
	case "change":
		if fields.Get("of") == "" {
			break
		}
		return h.change(ctx, r, who, h.newVnetForm(fields))
	case "delete":
		return h.delete(ctx, r, who, fields.Get("id"))
	}
	return failure(http.StatusBadRequest, "Not done", "The form asks for an operation that there is not.")
}

// sealed tells whether a form comes from a page that was given to this very somebody.
func (h *handler) sealed(r *httpx.Request, who string) bool {
	return hmac.Equal([]byte(parseForm(r).Get("seal")), []byte(h.access.seal("form", who)))
}

// forged answers a form that is not sealed.
func forged() *httpx.Reply {
	return failure(http.StatusForbidden, "Not done",
		"The form is not of this page, or xend was restarted since: nothing was changed. Go back, load the page again, and send the form once more.")
}

func (h *handler) create(ctx context.Context, r *httpx.Request, who string, f vnetForm) *httpx.Reply {
	c, err := f.config()
	if err == nil {
		err = h.ops.CreateVnet(ctx, c)
	}
	if err != nil {
		f.Problem = err.Error()
		return h.frontWith(ctx, r, who, http.StatusConflict, f, "The vnet was not created: "+err.Error())
	}
	h.forget()
	return seeOther("/xend/vnet/" + url.PathEscape(c.IDText))
}

func (h *handler) change(ctx context.Context, r *httpx.Request, who string, f vnetForm) *httpx.Reply {
	if f.Problem == "" {
		c, err := f.config()
		if err == nil {
			err = h.ops.ChangeVnet(ctx, c)
		}
		h.forget()
		if err == nil {
			return seeOther("/xend/vnet/" + url.PathEscape(c.IDText))
		}
		f.Problem = err.Error()
	}
	// A vnet that is not there has a page that says so.
	return h.vnetPageWith(ctx, r, who, f.Of, http.StatusConflict, &f, "The vnet was not changed: "+f.Problem)
}

func (h *handler) delete(ctx context.Context, r *httpx.Request, who, id string) *httpx.Reply {
	c, err := h.ops.FindDeletable(id)
	if err == nil {
		err = h.ops.DeleteVnet(ctx, c.ID)
	}
	switch {
	case service.KindOf(err) == service.NotFound:
		return failure(http.StatusNotFound, "No such vnet", err.Error())
	case err != nil:
		return h.vnetPageWith(ctx, r, who, id, http.StatusConflict, nil, "The vnet was not deleted: "+err.Error())
	}
	h.forget()
	return seeOther("/xend/")
}

// forget has the next page look anew: who changed something wants to see it.
func (s *Status) forget() {
	s.seen.forget()
	s.health.forget()
	s.picture.forget()
}
