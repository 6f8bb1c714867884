package config

import (
	"reflect"
	"slices"

	"github.com/BurntSushi/toml"

	"github.com/xenvnet/xend/internal/conffile"
)

// NeedRestart names the options and keys in which n differs from c and which a running daemon cannot
// take over.
func (c *Config) NeedRestart(n *Config) []string {
	var names []string
	for _, o := range []struct {
		name     string
		old, new any
	}{
		{"xend-unix-server", c.UnixServer, n.UnixServer},
		{"xend-unix-path", c.UnixPath, n.UnixPath},
		{"xend-http-server", c.HTTPServer, n.HTTPServer},
		{"xend-port", c.HTTPPort, n.HTTPPort},
		{"xend-address", c.HTTPAddress, n.HTTPAddress},
		{"xend-unix-xmlrpc-server", c.XMLRPCUnixServer, n.XMLRPCUnixServer},
		{"xend-tcp-xmlrpc-server", c.XMLRPCServer, n.XMLRPCServer},
		{"xend-tcp-xmlrpc-server-address", c.XMLRPCAddress, n.XMLRPCAddress},
		{"xend-tcp-xmlrpc-server-port", c.XMLRPCPort, n.XMLRPCPort},
		{"network-script", c.NetworkScript, n.NetworkScript},
		{"vif-script", c.VifScript, n.VifScript},
		{"xend-relocation-server", c.RelocationServer, n.RelocationServer},
		{"xend-relocation-port", c.RelocationPort, n.RelocationPort},
		{"xend-relocation-address", c.RelocationAddress, n.RelocationAddress},
		{"xend-relocation-hosts-allow", c.RelocationAllow, n.RelocationAllow},
	} {
		if o.old != o.new {
			names = append(names, o.name)
		}
	}
	a, b := reflect.ValueOf(c.fileOf()), reflect.ValueOf(n.fileOf())
	for i := range a.NumField() {
		table := a.Type().Field(i).Tag.Get("toml")
		for j := range a.Field(i).NumField() {
			key := a.Type().Field(i).Type.Field(j).Tag.Get("toml")
			if table == "dataplane" && !slices.Contains([]string{"enabled", "port", "ipv6", "workers"}, key) || table == "security" && key != "port" {
				continue
			}
			if !reflect.DeepEqual(a.Field(i).Field(j).Interface(), b.Field(i).Field(j).Interface()) {
				names = append(names, conffile.KeyName(toml.Key{table, key}))
			}
		}
	}
	return names
}
