// Package domain keeps the domains of this machine: what they should be (Config), which files and forms say so, and
// what becomes of them; a Toolstack runs them. It also knows the machine itself (the node).
package domain

import (
	"context"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/xenvnet/xend/sxp"
)

// Domain is a domain as it was when asked for.
type Domain struct {
	ID   int    // the domain id; 0 is Domain-0; -1 if it does not run
	Name string // "Domain-0"
	UUID string // lower-case, with dashes
	// Form is the (domain (key value)…) form that clients read. Integers are without a fraction.
	Form sxp.Value
	// VCPUs describes the virtual processors, a (vcpu (number N) …) form each.
	VCPUs []sxp.Value
	// devices are its devices in the API's form, (0 ((mac …) (bridge …) …)), by their kind.
	devices map[string][]sxp.Value
}

// Devices are the devices of a kind ("vif", "vbd") in the API's form: (0 ((mac …) (bridge …) …)).
func (d Domain) Devices(kind string) []sxp.Value {
	if kind == "vbd" { // clients ask for these alone
		return slices.Concat(d.devices["vbd"], d.devices["tap"], d.devices["tap2"])
	}
	return d.devices[kind]
}

// VCPUInfo describes the virtual processors: (domain (domid N) (name NAME) (vcpu_count N) (vcpu …)…).
func (d Domain) VCPUInfo() sxp.Value {
	items := []sxp.Value{sxp.Atom("domain")}
	if d.ID >= 0 {
		items = append(items, number("domid", d.ID))
	}
	items = append(items, sxp.Pair("name", d.Name), number("vcpu_count", len(d.VCPUs)))
	return sxp.List(append(items, d.VCPUs...)...)
}

// State selects domains for List.
type State int

// The states.
const (
	Running State = iota // has an id
	Halted               // defined, but not running
	All
)

// ParseState reads the parameter state of the API: "running", "halted" or "all"; empty means running.
func ParseState(s string) (State, bool) {
	i := slices.Index([]string{"running", "halted", "all"}, s)
	if s == "" {
		i = 0
	}
	return State(i), i >= 0
}

// List returns the domains in that state: those that run in the order of their ids, then the others in that of their
// definition.
func (m *Manager) List(ctx context.Context, s State) ([]Domain, error) {
	var list []Domain
	if s != Halted || m.tool != nil {
		var err error
		if list, err = m.domains(ctx); err != nil {
			return nil, err
		}
	}
	halted := m.halted(list)
	switch s {
	case Running:
		return list, nil
	case Halted:
		return halted, nil
	}
	return append(list, halted...), nil
}

// namesTimeout bounds the question for domains where their names are an ornament only.
const namesTimeout = 2 * time.Second

// RunningNames are the names of the domains that run, by their ids; without them where they can't be had soon, or where
// nobody manages domains (m is nil).
func (m *Manager) RunningNames(ctx context.Context) map[int]string {
	names := map[int]string{}
	if m == nil {
		return names
	}
	ctx, cancel := context.WithTimeout(ctx, namesTimeout)
	defer cancel()
	list, err := m.List(ctx, Running)
	if err != nil {
		return names
	}
	for _, d := range list {
		names[d.ID] = d.Name
	}
	return names
}

// Get finds a domain by its name, id or uuid, whether it runs or not; a NotFoundError if there is none.
func (m *Manager) Get(ctx context.Context, key string) (Domain, error) {
	list, err := m.List(ctx, All)
	if err != nil {
		return Domain{}, err
	}
	// A name wins over an id: a domain may be called "1".
	for _, is := range []func(Domain) bool{
		func(d Domain) bool { return d.Name == key },
		func(d Domain) bool { return d.ID >= 0 && strconv.Itoa(d.ID) == key },
		func(d Domain) bool { return strings.EqualFold(d.UUID, key) },
	} {
		if i := slices.IndexFunc(list, is); i >= 0 {
			return list[i], nil
		}
	}
	return Domain{}, &NotFoundError{Name: key}
}
