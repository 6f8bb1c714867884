package domain

import "github.com/xenvnet/xend/sxp"

func (m *Manager) dom0() (Domain, error) {
	return Domain{ID: 0, Name: "Domain-0", UUID: "00000000-0000-0000-0000-000000000000",
		Form: sxp.List(sxp.Atom("domain"), pair("domid", "0"), pair("name", "Domain-0"))}, nil
}
