package xmlrpc

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/xenvnet/xend/sxp"
	"github.com/xenvnet/xend/vnet"
	"github.com/xenvnet/xend/xendcompat/accept"
	"github.com/xenvnet/xend/xendcompat/domain"
	"github.com/xenvnet/xend/xendcompat/service"
	"github.com/xenvnet/xend/xendcompat/xmlrpc/codec"
)

// invocation is a call with as many parameters as its method takes.
type invocation struct {
	ctx    context.Context
	client accept.Client
	method string
	params []any
}

// method is what can be called.
type method struct {
	min, max int // number of parameters
	help     string
	do       func(*Server, *invocation) (any, error)
}

// many is a number of parameters that nobody sends.
const many = 100

func (m method) arity() string {
	switch {
	case m.max == many:
		return fmt.Sprintf("at least %d parameters", m.min)
	case m.min != m.max:
		return fmt.Sprintf("%d to %d parameters", m.min, m.max)
	case m.min == 1:
		return "1 parameter"
	}
	return fmt.Sprintf("%d parameters", m.min)
}

// methods are all methods by name. It is filled by init, since some of them look into it.
var methods map[string]method

func init() {
	methods = map[string]method{
		"xend_vnets":       {0, 0, "The ids of the vnets.", (*Server).vnets},
		"xend_vnet":        {1, 1, "The configuration of the vnet with that id.", (*Server).vnet},
		"xend_vnet_create": {1, 1, "Create a vnet from a file's name (unix socket only), an S-expression as text, or one as nested arrays.", (*Server).vnetCreate},
		"xend_vnet_delete": {1, 1, "Delete the vnet with that id.", (*Server).vnetDelete},

		"xend.domain":                {1, 2, "One domain, by name, id or uuid.", (*Server).domain},
		"xend.domains":               {0, 2, "The running domains: names, or with detail whole forms.", (*Server).domains},
		"xend.domains_with_state":    {0, 3, "The domains that are running, halted, or all.", (*Server).domainsWithState},
		"xend.domain.create":         {1, many, "Create a domain.", creates("create")},
		"xend.domain.new":            {1, many, "Define a domain.", creates("new")},
		"xend.domain.restore":        {1, many, "Restore a domain from a file.", restores},
		"xend.domain.getVCPUInfo":    {1, 1, "The virtual processors of a domain.", (*Server).vcpuInfo},
		"xend.domain.getDeviceSxprs": {2, 2, "The devices of a domain of one type.", (*Server).devices},
		"xend.node.info":             {0, 1, "About the machine.", (*Server).nodeInfo},
		"xend.node.log":              {0, 0, "The daemon's log.", (*Server).nodeLog},
		"xend.node.dmesg.info":       {0, 0, "The hypervisor's messages.", (*Server).dmesg},
		"xend.node.dmesg.clear":      {0, 0, "Clear the hypervisor's messages.", (*Server).clearDmesg},
		"system.listMethods":         {0, 0, "The names of all methods.", (*Server).listMethods},
		"system.methodHelp":          {1, 1, "What a method does.", (*Server).methodHelp},
		"system.methodSignature":     {1, 1, "Not supported; says so.", (*Server).methodSignature},
	}
	for name, op := range domainOps {
		methods["xend.domain."+name] = method{1, many, "Do " + op.name + " on a domain.", operates(op)}
	}
}

// domainOp is an operation on a domain, and what the parameters after the domain are called in it.
type domainOp struct {
	name   string
	params []string
}

// domainOps maps the methods that do an operation on a domain to the operation.
var domainOps = map[string]domainOp{
	"configure":               {"configure", nil},
	"delete":                  {"delete", nil},
	"destroy":                 {"destroy", nil},
	"destroyDevice":           {"device_destroy", []string{"type", "dev", "force", "rm_cfg"}},
	"device_configure":        {"device_configure", []string{"config", "dev"}},
	"device_create":           {"device_create", []string{"config"}},
	"device_destroy":          {"device_destroy", []string{"type", "dev", "force", "rm_cfg"}},
	"domain_sched_credit_get": {"domain_sched_credit_get", nil},
	"domain_sched_credit_set": {"domain_sched_credit_set", []string{"weight", "cap"}},
	"dump":                    {"dump", []string{"file", "live", "crash", "reset"}},
	"maxmem_set":              {"maxmem_set", []string{"memory"}},
	"migrate":                 {"migrate", []string{"destination", "live", "port", "node", "ssl", "change_home_server"}},
	"pause":                   {"pause", nil},
	"pincpu":                  {"pincpu", []string{"vcpu", "cpumap"}},
	"resume":                  {"resume", []string{"paused"}},
	"save":                    {"save", []string{"file", "checkpoint"}},
	"sched_credit_get":        {"domain_sched_credit_get", nil},
	"sched_credit_set":        {"domain_sched_credit_set", []string{"weight", "cap"}},
	"send_sysrq":              {"sysrq", []string{"key"}},
	"send_trigger":            {"send_trigger", []string{"trigger", "vcpu"}},
	"setMemoryTarget":         {"mem_target_set", []string{"target"}},
	"setName":                 {"rename", []string{"name"}},
	"setVCpuCount":            {"set_vcpus", []string{"vcpus"}},
	"shutdown":                {"shutdown", []string{"reason"}},
	"start":                   {"start", []string{"paused"}},
	"suspend":                 {"suspend", nil},
	"unpause":                 {"unpause", nil},
	"waitForDevices":          {"wait_for_devices", nil},
}

// text returns a parameter that names something: a string, or a number.
func (in *invocation) text(i int) (string, error) {
	if s, ok := codec.Text(in.params[i]); ok && s != "" {
		return s, nil
	}
	return "", &Fault{Code: FaultGeneric, Text: fmt.Sprintf("%s: parameter %d must be a string", in.method, i+1)}
}

// flag returns a parameter that is true or false; def if it is not there.
func (in *invocation) flag(i int, def bool) bool {
	if i >= len(in.params) {
		return def
	}
	switch v := in.params[i].(type) {
	case bool:
		return v
	case int64:
		return v != 0
	case string:
		return v != "" && v != "0"
	}
	return in.params[i] != nil
}

// invalid is the answer to a request that makes no sense.
func invalid(format string, args ...any) error {
	return &Fault{Code: FaultGeneric, Text: fmt.Sprintf(format, args...)}
}

func (s *Server) vnets(*invocation) (any, error) {
	ids := []any{}
	for _, c := range s.svc.Vnets() {
		ids = append(ids, c.IDText)
	}
	return ids, nil
}

func (s *Server) vnet(in *invocation) (any, error) {
	id, err := in.text(0)
	if err != nil {
		return nil, err
	}
	c, err := s.svc.FindVnet(id)
	if err != nil {
		return nil, err
	}
	return codec.FromSXP(c.Form, nil), nil
}

func (s *Server) vnetCreate(in *invocation) (any, error) {
	c, err := s.vnetConfig(in)
	if err != nil {
		return nil, err
	}
	return nil, s.svc.CreateVnet(in.ctx, c)
}

// vnetConfig finds out in which of three ways a vnet is described.
func (s *Server) vnetConfig(in *invocation) (vnet.Config, error) {
	if _, ok := in.params[0].([]any); ok {
		c, err := vnet.ConfigFromSXP(codec.ToSXP(in.params[0]))
		return c, invalidConfig(err)
	}
	text, err := in.text(0)
	if err != nil {
		return vnet.Config{}, err
	}
	config := []byte(text)
	if !isForm(text) {
		if config, err = readClientFile(s.proc, in.client, text); err != nil {
			return vnet.Config{}, invalidConfig(err)
		}
	}
	c, err := vnet.ParseConfig(config)
	return c, invalidConfig(err)
}

// isForm tells an S-expression, which may follow comments, from a file name.
func isForm(s string) bool {
	return strings.HasPrefix(strings.TrimLeft(s, " \t\r\n"), "(") || strings.ContainsAny(s, "\r\n")
}

// invalidConfig makes what is wrong with a configuration, or with the file that holds it, a fault.
func invalidConfig(err error) error {
	if err == nil {
		return nil
	}
	return invalid("%s", err)
}

func (s *Server) vnetDelete(in *invocation) (any, error) {
	id, err := in.text(0)
	if err != nil {
		return nil, err
	}
	c, err := s.svc.FindDeletable(id)
	if err != nil {
		return nil, err
	}
	if err = s.svc.DeleteVnet(in.ctx, c.ID); service.KindOf(err) == service.NotFound {
		err = service.NoSuchVnet(id) // somebody else was faster
	}
	return nil, err
}

// get finds the domain that the first parameter names.
func (s *Server) get(in *invocation) (domain.Domain, error) {
	key, err := in.text(0)
	if err != nil {
		return domain.Domain{}, err
	}
	return s.svc.Domains().Get(in.ctx, key)
}

// domainForm is the form of a domain without what old clients stumble over.
func domainForm(d domain.Domain) any {
	var fields []sxp.Value
	for _, f := range d.Form.Items() {
		if f.Name() != "vcpu_avail" {
			fields = append(fields, f)
		}
	}
	return codec.FromSXP(sxp.List(fields...), domainKinds)
}

func (s *Server) domain(in *invocation) (any, error) {
	d, err := s.get(in)
	if err != nil {
		return nil, err
	}
	return domainForm(d), nil
}

func (s *Server) domains(in *invocation) (any, error) {
	return s.list(in, domain.Running, in.flag(0, true))
}

func (s *Server) domainsWithState(in *invocation) (any, error) {
	state := domain.Running
	if len(in.params) > 1 {
		text, _ := codec.Text(in.params[1]) // what is no text is no state
		var ok bool
		if state, ok = domain.ParseState(text); !ok {
			return nil, invalid("unknown state: %s", codec.Cut(text))
		}
	}
	return s.list(in, state, in.flag(0, true))
}

// list returns the names or forms of domains.
func (s *Server) list(in *invocation, state domain.State, detail bool) (any, error) {
	all, err := s.svc.Domains().List(in.ctx, state)
	if err != nil {
		return nil, err
	}
	list := []any{}
	for _, d := range all {
		if detail {
			list = append(list, domainForm(d))
		} else {
			list = append(list, d.Name)
		}
	}
	return list, nil
}

// creates returns a method that makes a domain from a form.
func creates(op string) func(*Server, *invocation) (any, error) {
	return func(s *Server, in *invocation) (any, error) {
		d, err := s.svc.Domains().Make(in.ctx, op, domain.Params{"config": codec.ToSXP(in.params[0]).String()})
		if err != nil {
			return nil, err
		}
		return domainForm(d), nil
	}
}

// restores makes a domain from a file.
func restores(s *Server, in *invocation) (any, error) {
	file, err := in.text(0)
	if err != nil {
		return nil, err
	}
	p := domain.Params{"file": file}
	if in.flag(1, false) {
		p["paused"] = "1"
	}
	d, err := s.svc.Domains().Make(in.ctx, "restore", p)
	if err != nil {
		return nil, err
	}
	return domainForm(d), nil
}

// operates returns a method that does an operation on a domain.
func operates(op domainOp) func(*Server, *invocation) (any, error) {
	return func(s *Server, in *invocation) (any, error) {
		key, err := in.text(0)
		if err != nil {
			return nil, err
		}
		params := domain.Params{}
		for i, p := range in.params[1:] {
			if i >= len(op.params) || p == nil {
				continue
			}
			if b, ok := p.(bool); ok {
				p = map[bool]string{true: "1", false: "0"}[b]
			}
			if text, ok := codec.Text(p); ok {
				params[op.params[i]] = text
			} else {
				params[op.params[i]] = codec.ToSXP(p).String()
			}
		}
		if op.name == "migrate" {
			migrateParams(params)
		}
		v, err := s.svc.Domains().Op(in.ctx, key, op.name, params)
		if err != nil {
			return nil, err
		}
		switch {
		case op.name == "domain_sched_credit_get":
			return codec.Struct{{Name: "weight", Value: codec.Integer(v.ChildValue("weight", "0"))}, {Name: "cap", Value: codec.Integer(v.ChildValue("cap", "0"))}}, nil
		case op.name == "device_create" && len(in.params) > 1: // 4.1 replied with what it was sent
			return in.params[1], nil
		case v.IsAtom() && v.Text() == "":
			return nil, nil
		}
		return codec.FromSXP(v, domainKinds), nil
	}
}

// migrateParams tells the parameters of xm 3.0 (live, resource, port, node) from those of 4.1 (live, port, node, ssl): a
// node is a small number.
func migrateParams(p domain.Params) {
	if n, err := strconv.Atoi(p["node"]); err == nil && n > 1023 {
		p["port"] = p["node"]
		delete(p, "ssl")
	}
	delete(p, "node")
}

func (s *Server) vcpuInfo(in *invocation) (any, error) {
	d, err := s.get(in)
	if err != nil {
		return nil, err
	}
	return codec.FromSXP(d.VCPUInfo(), domainKinds), nil
}

func (s *Server) devices(in *invocation) (any, error) {
	d, err := s.get(in)
	if err != nil {
		return nil, err
	}
	kind, _ := codec.Text(in.params[1])
	return codec.FromSXP(sxp.List(d.Devices(kind)...), domainKinds), nil
}

func (s *Server) nodeInfo(in *invocation) (any, error) {
	node, err := s.svc.Node(in.ctx)
	if err != nil {
		return nil, err
	}
	return codec.FromSXP(sxp.List(node.Children()...), nodeKinds), nil
}

func (s *Server) nodeLog(in *invocation) (any, error) {
	b, err := s.svc.NodeLog(in.ctx)
	return string(b), err
}

func (s *Server) dmesg(in *invocation) (any, error) {
	b, err := s.svc.Dmesg(in.ctx)
	return string(b), err
}

func (s *Server) clearDmesg(in *invocation) (any, error) { return nil, s.svc.ClearDmesg(in.ctx) }

func (s *Server) listMethods(*invocation) (any, error) {
	names := []any{}
	for _, name := range slices.Sorted(maps.Keys(methods)) {
		names = append(names, name)
	}
	return names, nil
}

func (s *Server) methodHelp(in *invocation) (any, error) {
	name, err := in.text(0)
	if err != nil {
		return nil, err
	}
	// Python's servers answer with an empty text for what they don't know.
	return methods[name].help, nil
}

func (s *Server) methodSignature(*invocation) (any, error) { return "signatures not supported", nil }
