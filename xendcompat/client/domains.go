package client

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"

	"github.com/xenvnet/xend/sxp"
	"github.com/xenvnet/xend/xendcompat/xmlrpc/codec"
)

// longTimeout bounds a call that moves a domain's memory.
const longTimeout = time.Hour

// patient gives calls that move a domain's memory more time.
func patient(ctx context.Context, op string) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); !ok && slices.Contains([]string{"save", "restore", "migrate", "dump", "suspend", "resume"}, op) {
		return context.WithTimeout(ctx, longTimeout)
	}
	return context.WithCancel(ctx)
}

// Param is a parameter of an operation.
type Param struct{ Name, Value string }

// values returns parameters as a form.
func values(params []Param) url.Values {
	v := url.Values{}
	for _, p := range params {
		v.Set(p.Name, p.Value)
	}
	return v
}

// DomainsIn implements [Xend].
func (c *HTTP) DomainsIn(ctx context.Context, state string) ([]sxp.Value, error) {
	v, err := c.get(ctx, "/xend/domain/?detail=1&state="+url.QueryEscape(state))
	return v.Items(), err
}

// MakeDomain implements [Xend].
func (c *HTTP) MakeDomain(ctx context.Context, op string, params ...Param) (sxp.Value, error) {
	return c.operate(ctx, "/xend/domain", op, params)
}

// DomainOp implements [Xend].
func (c *HTTP) DomainOp(ctx context.Context, name, op string, params ...Param) (sxp.Value, error) {
	path, err := below("/xend/domain/", name)
	if err != nil {
		return sxp.Value{}, err
	}
	return c.operate(ctx, path, op, params)
}

// operate posts an operation and returns its result.
func (c *HTTP) operate(ctx context.Context, path, op string, params []Param) (sxp.Value, error) {
	ctx, cancel := patient(ctx, op)
	defer cancel()
	form := values(params)
	form.Set("op", op)
	r, err := c.do(ctx, http.MethodPost, path, "application/x-www-form-urlencoded", []byte(form.Encode()))
	if err != nil || len(r.body) == 0 {
		return sxp.Value{}, err
	}
	vs, err := sxp.ParseLimited(r.body, sxp.Xend, sxp.Limits{Size: maxReply})
	if err != nil || len(vs) == 0 {
		return sxp.Value{}, nil //nolint:nilerr // a text for people: the operation was done
	}
	return vs[0], nil
}

// DomainsIn implements [Xend].
func (c *XMLRPC) DomainsIn(ctx context.Context, state string) ([]sxp.Value, error) {
	v, err := c.call(ctx, "xend.domains_with_state", true, state, false)
	return v.Items(), err
}

// MakeDomain implements [Xend].
func (c *XMLRPC) MakeDomain(ctx context.Context, op string, params ...Param) (sxp.Value, error) {
	ctx, cancel := patient(ctx, op)
	defer cancel()
	v := values(params)
	if op == "restore" {
		return c.call(ctx, "xend.domain.restore", v.Get("file"), v.Get("paused") == "1")
	}
	form, err := formOf(v.Get("config"))
	if err != nil {
		return sxp.Value{}, err
	}
	return c.call(ctx, "xend.domain."+op, form)
}

// formOf returns a form that was written as text as nested arrays.
func formOf(text string) (any, error) {
	forms, err := sxp.Parse([]byte(text), sxp.Xend)
	if err != nil {
		return nil, err
	}
	if len(forms) != 1 {
		return nil, errors.New("the configuration is not one form")
	}
	return codec.FromSXP(forms[0], nil), nil
}

// domainMethods are the methods that do operations, and their parameters behind the domain.
var domainMethods = map[string]struct {
	name   string
	params []string
}{
	"start":                   {"start", []string{"paused"}},
	"delete":                  {"delete", nil},
	"destroy":                 {"destroy", nil},
	"shutdown":                {"shutdown", []string{"reason"}},
	"pause":                   {"pause", nil},
	"unpause":                 {"unpause", nil},
	"rename":                  {"setName", []string{"name"}},
	"save":                    {"save", []string{"file"}},
	"suspend":                 {"suspend", nil},
	"resume":                  {"resume", []string{"paused"}},
	"dump":                    {"dump", []string{"file", "live", "crash"}},
	"migrate":                 {"migrate", []string{"destination", "live", "port", "node", "ssl"}},
	"mem_target_set":          {"setMemoryTarget", []string{"target"}},
	"maxmem_set":              {"maxmem_set", []string{"memory"}},
	"set_vcpus":               {"setVCpuCount", []string{"vcpus"}},
	"pincpu":                  {"pincpu", []string{"vcpu", "cpumap"}},
	"domain_sched_credit_get": {"domain_sched_credit_get", nil},
	"domain_sched_credit_set": {"domain_sched_credit_set", []string{"weight", "cap"}},
	"device_create":           {"device_create", []string{"config"}},
	"device_destroy":          {"destroyDevice", []string{"type", "dev", "force"}},
	"devices":                 {"getDeviceSxprs", []string{"type"}},
	"vcpuinfo":                {"getVCPUInfo", nil},
	"wait_for_devices":        {"waitForDevices", nil},
	"sysrq":                   {"send_sysrq", []string{"key"}},
	"send_trigger":            {"send_trigger", []string{"trigger", "vcpu"}},
}

// DomainOp implements [Xend].
func (c *XMLRPC) DomainOp(ctx context.Context, name, op string, params ...Param) (sxp.Value, error) {
	m, ok := domainMethods[op]
	if !ok {
		return sxp.Value{}, &Error{Text: "operation " + op + " has no method of XML-RPC"}
	}
	ctx, cancel := patient(ctx, op)
	defer cancel()
	given := values(params)
	args := []any{name}
	for _, p := range m.params {
		switch v := given.Get(p); p {
		case "config":
			form, err := formOf(v)
			if err != nil {
				return sxp.Value{}, err
			}
			args = append(args, form)
		case "paused", "live", "crash", "ssl", "force":
			args = append(args, v == "1")
		case "port", "node", "vcpus", "memory", "target":
			n, _ := strconv.ParseInt(v, 10, 64)
			args = append(args, n)
		default:
			args = append(args, v)
		}
	}
	v, err := c.call(ctx, "xend.domain."+m.name, args...)
	var e *Error
	if errors.As(err, &e) && e.NotFound {
		return v, &Error{Text: "No such domain " + e.Text, NotFound: true}
	}
	if err == nil && op == "domain_sched_credit_get" {
		v = sxp.List(append([]sxp.Value{sxp.Atom("credit")}, v.Items()...)...)
	}
	return v, err
}
