package netscripts

import (
	"slices"
	"strings"

	"github.com/xenvnet/xend/internal/hostnet"
	"github.com/xenvnet/xend/vnet"
)

// vnets maps the index of each bridge that belongs to a vnet to that vnet's id: one that xend made,
// one that has a vnet's interface for a port, and one that a vnet is configured for, also while
// xend does not run.
func (m *machine) vnets() (map[int]string, error) {
	links, err := m.host.Links()
	if err != nil {
		return nil, err
	}
	ids := map[int]string{}
	for _, l := range links {
		id, ok := strings.CutPrefix(l.Alias, vnet.AliasPrefix)
		switch {
		case ok && l.Kind == "bridge":
			ids[l.Index] = id
		case ok && l.Master != 0:
			ids[l.Master] = id
		case l.Kind == "bridge" && m.configured[l.Name] != "":
			ids[l.Index] = m.configured[l.Name]
		}
	}
	return ids, nil
}

// started is a bridge that start made and that is still one.
type started struct {
	record
	bridge hostnet.Link
}

func (s started) choice() choice { return choice{s.Device, s.bridge.Name, s.Port} }

// started lists the bridges that start made, the first one first: those of the journal, and, since that may be
// lost, those that have the port which start would have given a bridge of that name.
func (m *machine) started(e entry) ([]started, error) {
	links, err := m.host.Links()
	if err != nil {
		return nil, err
	}
	port := func(bridge int, name string) bool {
		return slices.ContainsFunc(links, func(l hostnet.Link) bool { return l.Name == name && l.Master == bridge })
	}
	var list []started
	for _, r := range e.Started {
		for _, l := range links {
			if l.Index == r.BridgeIndex && l.Kind == "bridge" && port(l.Index, r.Port) {
				list = append(list, started{r, l})
			}
		}
	}
	for _, l := range links {
		known := slices.ContainsFunc(list, func(s started) bool { return s.bridge.Index == l.Index })
		if !known && l.Kind == "bridge" && port(l.Index, "p"+l.Name) {
			list = append(list, started{record{Device: l.Name, Port: "p" + l.Name, BridgeIndex: l.Index}, l})
		}
	}
	return list, nil
}

// foreign tells bridges that other programs make for themselves: Docker's, libvirt's.
func foreign(bridge string) bool {
	return bridge == "docker0" || strings.HasPrefix(bridge, "virbr") || strings.HasPrefix(bridge, "br-")
}

// bridges lists the bridges that are no vnet's, by name.
func (m *machine) bridges() ([]hostnet.Link, error) {
	vnets, err := m.vnets()
	if err != nil {
		return nil, err
	}
	links, err := m.host.Links()
	if err != nil {
		return nil, err
	}
	links = slices.DeleteFunc(links, func(l hostnet.Link) bool {
		_, vnet := vnets[l.Index]
		return l.Kind != "bridge" || vnet
	})
	slices.SortFunc(links, func(a, b hostnet.Link) int { return strings.Compare(a.Name, b.Name) })
	return links, nil
}
