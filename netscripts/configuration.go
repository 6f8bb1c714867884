package netscripts

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/BurntSushi/toml"

	"github.com/xenvnet/xend/internal/paths"
)

// configuration is what of vnet.toml concerns scripts; docs/configuration.md has the whole. That the
// file is right is the daemon's business: here, what cannot be read is as if it were not there.
type configuration struct {
	Paths struct {
		State         string `toml:"state"`
		Scripts       string `toml:"scripts"`
		ControlSocket string `toml:"control_socket"`
		HotplugLog    string `toml:"hotplug_log"`
	} `toml:"paths"`
	Dataplane struct {
		MTUMode string `toml:"mtu_mode"`
	} `toml:"dataplane"`
}

func defaultConfiguration(p paths.Paths) configuration {
	var c configuration
	c.Paths.State = filepath.Join(p.State(), "vnets")
	c.Paths.Scripts, c.Paths.ControlSocket, c.Paths.HotplugLog = p.Scripts(), p.ControlSocket(), p.HotplugLog()
	return c
}

func readConfiguration(p paths.Paths) (configuration, error) {
	c := defaultConfiguration(p)
	b, err := os.ReadFile(p.VnetConfig())
	if errors.Is(err, fs.ErrNotExist) {
		return c, nil
	}
	if err == nil {
		err = toml.Unmarshal(b, &c)
	}
	if err != nil {
		return defaultConfiguration(p), fmt.Errorf("%s: %w", p.VnetConfig(), err)
	}
	return c, nil
}
