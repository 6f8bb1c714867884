package netscripts

import (
	"fmt"
	"strings"
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
				a.vars[key] = value
			} else if a.command == "" {
				a.command = w
			} else {
				a.rest = append(a.rest, w)
			}
		}
	}
	return a, nil
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
	case "vif-bridge", "vif-setup":
		return "usage: " + name + ` add|remove|online|offline [key=value…] [--prefix DIR]
  vif=NAME type_if=vif|tap XENBUS_PATH=PATH bridge=NAME ip=ADDRESSES mac=MAC vifname=NAME mtu=N
  from the environment, then the arguments, then xenstore; later ones override
`
	default:
		return "usage: " + name + "\n"
	}
}
