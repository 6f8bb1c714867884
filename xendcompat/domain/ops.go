package domain

import (
	"context"

	"github.com/xenvnet/xend/sxp"
)

// operations are the operations of the API on a domain, with the command that does the same.
// Those of creating have no domain yet.
var operations = map[string]string{
	"configure":               "",
	"create":                  "xl create",
	"delete":                  "",
	"destroy":                 "xl destroy",
	"device_configure":        "",
	"device_create":           "xl network-attach, block-attach or pci-attach",
	"device_destroy":          "xl network-detach, block-detach or pci-detach",
	"device_refresh":          "",
	"domain_sched_credit_get": "xl sched-credit",
	"domain_sched_credit_set": "xl sched-credit",
	"dump":                    "xl dump-core",
	"maxmem_set":              "xl mem-max",
	"mem_target_set":          "xl mem-set",
	"migrate":                 "xl migrate",
	"new":                     "xl create",
	"pause":                   "xl pause",
	"pincpu":                  "xl vcpu-pin",
	"rename":                  "xl rename",
	"restore":                 "xl restore",
	"resume":                  "xl unpause",
	"save":                    "xl save",
	"set_vcpus":               "xl vcpu-set",
	"shutdown":                "xl shutdown",
	"start":                   "xl create",
	"suspend":                 "xl save",
	"sysrq":                   "xl sysrq",
	"unpause":                 "xl unpause",
	"wait_for_devices":        "",
}

// KnownOp tells whether the API has an operation of that name on domains, supported or not.
func KnownOp(op string) bool {
	_, ok := operations[op]
	return ok
}

// Op does an operation on a domain, by name, id or uuid, and returns its result, which may be the
// empty atom. A domain that does not exist is a NotFoundError, whatever the operation.
func (m *Manager) Op(ctx context.Context, key, op string, _ map[string][]string) (sxp.Value, error) {
	if _, err := m.Get(ctx, key); err != nil {
		return sxp.Value{}, err
	}
	return sxp.Value{}, unsupported(op)
}

// Create makes a domain from its (vm …) or (domain …) form; op is "create" (running), "new" (only
// defined) or "restore".
func (m *Manager) Create(_ context.Context, op string, _ sxp.Value) (Domain, error) {
	return Domain{}, unsupported(op)
}

func unsupported(op string) error { return &UnsupportedError{Op: op, Use: operations[op]} }
