package httpsxp

import (
	"context"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/xenvnet/xend/sxp"
	"github.com/xenvnet/xend/xendcompat/domain"
	"github.com/xenvnet/xend/xendcompat/html"
	"github.com/xenvnet/xend/xendcompat/httpx"
	"github.com/xenvnet/xend/xendcompat/service"
)

// domains answers for /xend/domain and below.
func (q *request) domains(ctx context.Context, rest []string) *httpx.Reply {
	if len(rest) == 0 {
		if q.post {
			return q.newDomain(ctx)
		}
		return q.listDomains(ctx)
	}
	d, err := q.svc.Domains().Get(ctx, rest[0])
	switch {
	case service.KindOf(err) == service.NotFound:
		return httpx.NotFound(err.Error())
	case err != nil && q.post:
		return failedQuoted(err)
	case err != nil:
		return q.broken(err)
	case len(rest) > 1:
		return notFound(rest[1])
	case q.post:
		return q.domainOp(ctx, rest[0], d)
	case q.params.get("op") == "vcpuinfo":
		return quoted(d.VCPUInfo())
	case q.html:
		return domainPage(d, nil)
	}
	return quoted(d.Form)
}

// listDomains answers with names, or with forms if details are asked for.
func (q *request) listDomains(ctx context.Context) *httpx.Reply {
	state, ok := domain.ParseState(q.params.get("state"))
	if !ok {
		return q.refused(&service.Error{Kind: service.Invalid, Text: "unknown state: " + q.params.get("state")})
	}
	if q.html && q.params.get("state") == "" {
		state = domain.All
	}
	list, err := q.svc.Domains().List(ctx, state)
	if err != nil {
		return q.broken(err)
	}
	names, forms := make([]sxp.Value, 0, len(list)), make([]sxp.Value, 0, len(list))
	for _, d := range list {
		names, forms = append(names, sxp.Atom(d.Name)), append(forms, d.Form)
	}
	switch {
	case q.html:
		return page(html.Domains(html.DomainsPage{Domains: forms}))
	case q.detail():
		return quoted(sxp.List(forms...))
	}
	return quoted(sxp.List(names...))
}

// detail tells whether details are asked for: a number other than 0, as the clients send it.
func (q *request) detail() bool {
	n, err := strconv.Atoi(q.params.get("detail"))
	return err == nil && n != 0
}

// newDomain does the operations that make a domain.
func (q *request) newDomain(ctx context.Context) *httpx.Reply {
	op, refusal := q.op()
	if refusal != nil {
		return refusal
	}
	needs := "config"
	switch op {
	case "create", "new":
	case "restore":
		needs = "file"
	default:
		return unknownOp(op)
	}
	if _, err := q.param(needs); err != nil {
		return failedQuoted(err)
	}
	d, err := q.svc.Domains().Make(ctx, op, q.params.first())
	if q.html {
		return q.madeDomain(ctx, op, d, err)
	}
	if err != nil {
		return failedQuoted(err)
	}
	r := quoted(d.Form)
	r.Status, r.Reason = http.StatusCreated, "created"
	return r.SetHeader("Location", domainPath(d.Name))
}

// madeDomain tells a person what came of making a domain. A program would let it go on, and so does this.
func (q *request) madeDomain(ctx context.Context, op string, d domain.Domain, err error) *httpx.Reply {
	if err == nil && op == "create" {
		_, err = q.svc.Domains().Op(ctx, d.UUID, "unpause", nil)
	}
	if err == nil {
		return seeOther(domainPath(d.Name))
	}
	p := html.DomainsPage{Config: q.params.get("config"), Error: err.Error()}
	if list, err := q.svc.Domains().List(ctx, domain.All); err == nil {
		for _, d := range list {
			p.Domains = append(p.Domains, d.Form)
		}
	}
	return page(html.Domains(p))
}

// domainPage draws a domain, with what can be done with it; err is why something was not done.
func domainPage(d domain.Domain, err error) *httpx.Reply {
	p := html.DomainPage{Name: d.Name, Form: d.Form}
	switch {
	case d.ID < 0:
		p.Ops = []string{"start", "delete"}
	case d.ID > 0 && strings.Contains(d.Form.ChildValue("state", ""), "p"):
		p.Ops = []string{"unpause", "destroy"}
	case d.ID > 0:
		p.Ops = []string{"pause", "shutdown", "destroy"}
	}
	if err != nil {
		p.Error = err.Error()
	}
	return page(html.Domain(p))
}

// accepted are the operations that are answered before they are completed.
var accepted = map[string]bool{
	"shutdown": true, "destroy": true, "rename": true, "save": true, "wait_for_devices": true, "sysrq": true,
}

// domainOp does an operation on a domain that exists.
func (q *request) domainOp(ctx context.Context, key string, d domain.Domain) *httpx.Reply {
	op, refusal := q.op()
	switch {
	case refusal != nil:
		return refusal
	case op == "devices":
		return q.devices(d)
	case op == "vcpuinfo":
		return quoted(d.VCPUInfo())
	case !domain.KnownOp(op):
		return unknownOp(op)
	}
	v, err := q.svc.Domains().Op(ctx, key, op, q.params.first())
	if service.KindOf(err) == service.NotFound { // it went in this moment
		return httpx.NotFound(err.Error())
	}
	switch {
	case err != nil && q.html:
		return domainPage(d, err)
	case err != nil:
		return failedQuoted(err)
	case q.html:
		if _, err := q.svc.Domains().Get(ctx, d.UUID); err != nil {
			return seeOther("/xend/domain/")
		}
		return seeOther(domainPath(d.Name))
	}
	if v.IsAtom() && v.Text() == "" {
		v = sxp.Value{}
	}
	r := quoted(v)
	if accepted[op] {
		r.Status, r.Reason = http.StatusAccepted, "Accepted"
		r.SetHeader("Location", domainPath(d.Name)+"/..")
	}
	return r
}

// devices lists the devices of one type.
func (q *request) devices(d domain.Domain) *httpx.Reply {
	kind, err := q.param("type")
	if err != nil {
		return failedQuoted(err)
	}
	return quoted(sxp.List(d.Devices(kind)...))
}

func domainPath(name string) string { return "/xend/domain/" + url.PathEscape(name) }
