package netscripts

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/xenvnet/xend/internal/nearest"
)

// arguments are what a script was called with.
type arguments struct {
	command string            // the first word without "=", wherever it stands
	rest    []string          // further words without "="
	vars    map[string]string // key=value
	words   []string          // all of the above as they came

	prefix  string
	dryRun  bool
	help    bool
	version bool
}

// parseArguments reads words; options of ours begin with two dashes, so they collide with nothing
// that a legacy caller passes.
func parseArguments(words []string) (arguments, error) {
	a := arguments{vars: map[string]string{}}
	for i := 0; i < len(words); i++ {
		w := words[i]
		switch {
		case w == "--dry-run":
			a.dryRun = true
		case w == "--help", w == "-h":
			a.help = true
		case w == "--version":
			a.version = true
		case w == "--prefix":
			if i++; i == len(words) {
				return a, fmt.Errorf("--prefix wants a directory")
			}
			a.prefix = words[i]
		case strings.HasPrefix(w, "--prefix="):
			a.prefix = strings.TrimPrefix(w, "--prefix=")
		case strings.HasPrefix(w, "--"):
			return a, fmt.Errorf("unknown option %s", w)
		default:
			a.words = append(a.words, w)
			if key, value, ok := strings.Cut(w, "="); ok {
				plain, err := unquote(value)
				if err != nil {
					return a, fmt.Errorf("%s: %w", w, err)
				}
				a.vars[key] = plain
			} else if a.command == "" {
				a.command = w
			} else {
				a.rest = append(a.rest, w)
			}
		}
	}
	return a, nil
}

// unquote takes the quotes off a value, as the shell did to which the originals gave it. Arguments are split at
// blanks before, so a quoted value has none.
func unquote(value string) (string, error) {
	var b strings.Builder
	quote := rune(0)
	for _, r := range value {
		switch {
		case quote == 0 && (r == '"' || r == '\''):
			quote = r
		case r == quote:
			quote = 0
		default:
			b.WriteRune(r)
		}
	}
	if quote != 0 {
		return "", errors.New("the quotes do not match; a value can have no blanks")
	}
	return b.String(), nil
}

// parseBool reads yes or no; "" is no.
func parseBool(v string) (bool, error) {
	switch strings.ToLower(v) {
	case "yes", "y", "true", "on", "1":
		return true, nil
	case "no", "n", "false", "off", "0", "":
		return false, nil
	}
	return false, errors.New("expected yes or no")
}

// known are the variables of each script. Those that hotplug systems hand to every vif script are among them.
var (
	bridgeVariables = []string{"netdev", "bridge", "vifnum", "antispoof", "antispoofing", "force"}
	vifVariables    = append([]string{"script", "backend", "rate", "model", "type", "domid", "handle"}, vifKeys...)
	known           = map[string][]string{
		"network-bridge": bridgeVariables,
		"network-vnet":   bridgeVariables,
		"network-route":  {"netdev", "bridge", "vifnum", "antispoof"},
		"network-nat":    {"netdev", "bridge", "vifnum", "antispoof", "dhcp"},
		"vif-bridge":     vifVariables,
		"vif-route":      append([]string{"netdev"}, vifVariables...),
		"vif-nat":        append([]string{"netdev", "dhcp"}, vifVariables...),
	}
)

// nameUnknown names the arguments that mean nothing to the script: they are most likely misspelt.
func (s *script) nameUnknown() {
	variables, ok := known[s.name]
	if !ok {
		return
	}
	for _, key := range slices.Sorted(maps.Keys(s.args.vars)) {
		if slices.Contains(variables, key) {
			continue
		}
		meant := ""
		if near := nearest.To(key, variables); near != "" {
			meant = fmt.Sprintf(" (is %s meant?)", near)
		}
		s.warn("there is no variable %s%s; %s=%s has no effect", key, meant, key, s.args.vars[key])
	}
	for _, word := range s.args.rest {
		s.warn("%q has no effect: it is behind the command and has no =", word)
	}
}

// variable is an argument key=value, or else the environment's.
func (s *script) variable(key string) string {
	if v, ok := s.args.vars[key]; ok {
		return v
	}
	return s.Getenv(key)
}

// commandError is a command that the script does not know, in the words of the originals.
type commandError struct {
	command string
	valid   string
}

func (e *commandError) Error() string {
	return fmt.Sprintf("Unknown command: %s\nValid commands are: %s", e.command, e.valid)
}

const networkCommands = "start, stop, status"

func usage(name string) string {
	switch name {
	case "network-bridge", "network-vnet":
		return "usage: " + name + ` start|stop|status [key=value…] [--dry-run] [--prefix DIR]
  netdev=DEV      the device to be bridged (default: that of the default route, else eth0)
  bridge=NAME     the bridge's name (default: the device's; null: do nothing)
  vifnum=N        old: netdev falls back to ethN, the bridge is xenbrN
  antispoof=yes   domains reach the network only with the addresses given to them (default: no)
  --dry-run       print the steps and change nothing
`
	case "network-route", "network-nat":
		text := "usage: " + name + ` start|stop|status [netdev=DEV] [--dry-run] [--prefix DIR]
  netdev=DEV      the device that leads to the network (default: that of the default route)
`
		if name == "network-nat" {
			text += "  dhcp=no         accepted; no DHCP server is set up\n"
		}
		return text
	case "vif-bridge", "vif-route", "vif-nat", "vif-setup":
		return "usage: " + name + ` add|remove|online|offline [key=value…] [--prefix DIR]
  vif=NAME type_if=vif|tap XENBUS_PATH=PATH bridge=NAME ip=ADDRESSES mac=MAC vifname=NAME mtu=N
  from the environment, then the arguments, then xenstore; later ones override
`
	default:
		return "usage: " + name + "\n"
	}
}
