package netscripts

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/xenvnet/xend/internal/conffile"
	"github.com/xenvnet/xend/internal/paths"
)

// configuration is what of vnet.toml concerns scripts; docs/configuration.md has the whole. That the
// file is right is the daemon's business: here, what cannot be read is as if it were not there.
type configuration = conffile.Vnet

func defaultConfiguration(p paths.Paths) configuration {
	return configuration{Paths: conffile.Paths{
		State:         p.Registry(),
		Scripts:       p.Scripts(),
		ControlSocket: p.ControlSocket(),
		HotplugLog:    p.HotplugLog(),
	}}
}

func readConfiguration(p paths.Paths) (configuration, error) {
	c := defaultConfiguration(p)
	b, err := os.ReadFile(p.VnetConfig())
	if errors.Is(err, fs.ErrNotExist) {
		return c, nil
	}
	if err == nil {
		_, err = conffile.DecodeVnet(b, &c)
	}
	if err != nil {
		return defaultConfiguration(p), fmt.Errorf("%s: %w", p.VnetConfig(), err)
	}
	return c, nil
}

// configuredArguments are the variables that stand behind this script's name in (vif-script 'NAME key=value…') of
// xend-config.sxp.
func (s *script) configuredArguments() map[string]string {
	file := s.paths.XendConfig()
	b, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	option := ""
	if err == nil {
		option, err = conffile.Option(b, "vif-script")
	}
	if err != nil {
		s.warn("%s: %v; going on without", file, err)
		return nil
	}
	words := strings.Split(option, " ")
	if plainName(filepath.Base(words[0])) != s.name {
		return nil
	}
	args, err := parseArguments(words[1:])
	if err != nil {
		s.warn("%s: (vif-script '%s'): %v", file, option, err)
	}
	return args.vars
}
