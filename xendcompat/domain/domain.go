// Package domain knows the domains of this machine: Domain-0 always, and where Xen runs, those that
// its toolstack, xl, tells of. It also knows the machine itself (the node). Domains are looked at
// only; operations on them are answered with an error that names the command that does it.
package domain

import (
	"context"
	"slices"
	"strconv"
	"strings"

	"github.com/xenvnet/xend/sxp"
)

// Domain is a domain as it was when asked for.
type Domain struct {
	ID   int    // the domain id; 0 is Domain-0
	Name string // "Domain-0"
	UUID string // lower-case, with dashes
	// Form is the (domain (key value)…) form that clients read. Integers are without a fraction.
	Form sxp.Value
	// VCPUs describes the virtual processors, a (vcpu (number N) …) form each.
	VCPUs []sxp.Value
	// Vifs are the network interfaces in the API's form: (0 ((mac …) (bridge …) …)).
	Vifs []sxp.Value
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

// List returns the domains in that state in the order of their ids.
func (m *Manager) List(ctx context.Context, s State) ([]Domain, error) {
	if s == Halted {
		// Definitions of domains that don't run are nobody's business here.
		return nil, nil
	}
	return m.domains(ctx)
}

// Get finds a domain by its name, id or uuid; a NotFoundError if there is none.
func (m *Manager) Get(ctx context.Context, key string) (Domain, error) {
	list, err := m.domains(ctx)
	if err != nil {
		return Domain{}, err
	}
	// A name wins over an id: a domain may be called "1".
	for _, is := range []func(Domain) bool{
		func(d Domain) bool { return d.Name == key },
		func(d Domain) bool { return strconv.Itoa(d.ID) == key },
		func(d Domain) bool { return strings.EqualFold(d.UUID, key) },
	} {
		if i := slices.IndexFunc(list, is); i >= 0 {
			return list[i], nil
		}
	}
	return Domain{}, &NotFoundError{Name: key}
}
