package service

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"github.com/xenvnet/xend/dataplane/port"
	"github.com/xenvnet/xend/vnet"
	"github.com/xenvnet/xend/xendcompat/domain"
)

// Bridges tells domains of bridges, and makes vnets that they ask for.
type Bridges struct {
	Service *Service
	// Dir is where files, NAME.sxp, describe vnets that are made when a domain asks for their bridge; "" makes none.
	Dir string
}

var _ domain.Networks = Bridges{}

// FindBridge implements [domain.Networks].
func (b Bridges) FindBridge(name string) (domain.Network, bool) {
	s := b.Service
	survey, err := s.o.Devices.LookFor(port.Spec{Bridge: name})
	if err != nil {
		return domain.Network{}, false
	}
	l, ok := survey.Link(name)
	if !ok || l.Kind != "bridge" && l.Kind != "openvswitch" {
		return domain.Network{}, false
	}
	n := domain.Network{Bridge: name, MTU: l.MTU}
	list := b.VnetBridges()
	if i := slices.IndexFunc(list, func(v domain.Network) bool { return v.Bridge == name }); i >= 0 {
		n.Vnet = list[i].Vnet
	}
	return n, true
}

// VnetBridges implements [domain.Networks].
func (b Bridges) VnetBridges() []domain.Network {
	b.Service.mu.RLock()
	defer b.Service.mu.RUnlock()
	var list []domain.Network
	for _, c := range b.Service.all() {
		if c.Bridge != "" {
			list = append(list, domain.Network{Bridge: c.Bridge, Vnet: c.IDText})
		}
	}
	return list
}

// maxVnetFile bounds a file that describes a vnet, in bytes.
const maxVnetFile = 1 << 20

// DemandBridge implements [domain.Networks].
func (b Bridges) DemandBridge(ctx context.Context, name string) (bool, error) {
	if b.Dir == "" {
		return false, nil
	}
	files, err := filepath.Glob(filepath.Join(b.Dir, "*.sxp"))
	if err != nil {
		return false, err
	}
	for _, file := range files {
		c, err := readVnetFile(file)
		if err != nil {
			b.Service.log.Warn("a file of a vnet can't be used", "file", file, "error", err)
			continue
		}
		if c.Bridge != name {
			continue
		}
		if err := b.Service.CreateVnet(ctx, c); err != nil {
			return false, fmt.Errorf("%s describes it, and it can't be made: %w", file, err)
		}
		b.Service.log.Info("vnet made because a domain asked for its bridge", "vnet", c.ID.Short(), "bridge", name, "file", file)
		return true, nil
	}
	return false, nil
}

func readVnetFile(file string) (vnet.Config, error) {
	f, err := os.Open(file)
	if err != nil {
		return vnet.Config{}, err
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return vnet.Config{}, errors.Join(err, errors.New("it is not a regular file"))
	}
	text, err := io.ReadAll(io.LimitReader(f, maxVnetFile))
	if err != nil {
		return vnet.Config{}, err
	}
	return vnet.ParseConfig(text)
}
