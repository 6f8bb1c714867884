// Package firewall deals with a machine's own packet filter as far as it drops what bridges forward: where
// br_netfilter hands bridged packets to iptables, and its chain FORWARD drops what nobody accepts, as Docker has
// it, the bridges of vnets and of domains are dead in silence. It finds that out, and puts rules that accept into
// the chain that drops, since accepting in another table does not override a drop.
//
// It works in the network namespace of the calling thread. iptables is run as a program: it alone knows whether its
// rules are in nftables or in the tables of before, and can write both so that others can go on reading them.
package firewall

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/google/nftables"
)

// Family is a family of addresses, which has an iptables of its own.
type Family string

// The families, by the names that nftables gives their tables.
const (
	IPv4 Family = "ip"
	IPv6 Family = "ip6"
)

var families = [...]Family{IPv4, IPv6}

// program is the family's iptables.
func (f Family) program() string {
	if f == IPv6 {
		return "ip6tables"
	}
	return "iptables"
}

// Rule accepts what the words match, iptables' way: -i vnet97 -o vnet97.
type Rule struct {
	Family Family
	Match  []string // no word has a blank or a quote in it
}

// The chains that decide on what is forwarded. Docker asks its users to put theirs into DOCKER-USER, which
// FORWARD begins with.
const (
	forward    = "FORWARD"
	dockerUser = "DOCKER-USER"
)

// runTimeout bounds one call of iptables, which waits for others that change the rules.
const runTimeout = 20 * time.Second

// Firewall is the packet filter of the calling thread's network namespace.
type Firewall struct {
	// Look returns the path of a program, "" if there is none. nil: it is looked for in the usual directories.
	Look func(name string) string
	// Before, if set, is called before each change with a description of it; an error of it is
	// returned instead of making the change.
	Before func(what string) error
}

func (f *Firewall) look(name string) string {
	if f.Look != nil {
		return f.Look(name)
	}
	for _, dir := range []string{"/usr/sbin", "/sbin", "/usr/bin", "/bin", "/usr/local/sbin"} {
		if info, err := os.Stat(filepath.Join(dir, name)); err == nil && info.Mode()&0o111 != 0 {
			return filepath.Join(dir, name)
		}
	}
	return ""
}

// Bridged tells whether br_netfilter hands what bridges forward to iptables.
func Bridged(family Family) bool {
	b, err := os.ReadFile(bridgedSetting(family))
	return err == nil && strings.TrimSpace(string(b)) != "0"
}

func bridgedSetting(family Family) string {
	return "/proc/sys/net/bridge/bridge-nf-call-" + family.program()
}

// SetBridged switches for the whole network namespace whether bridged packets of all families go to iptables. Where
// br_netfilter is not loaded there is nothing to switch.
func SetBridged(on bool) error {
	value := "0"
	if on {
		value = "1"
	}
	var errs []error
	for _, family := range families {
		if err := os.WriteFile(bridgedSetting(family), []byte(value), 0); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// backend is one of the two places in the kernel where iptables keeps a family's rules.
type backend struct {
	family  Family
	variant string // legacy or nft
}

// program finds a program of the backend: iptables-nft, or iptables where that is the same.
func (f *Firewall) program(b backend, suffix string) (string, error) {
	name := b.family.program()
	for _, name := range []string{name + "-" + b.variant + suffix, name + suffix} {
		if path := f.look(name); path != "" {
			return path, nil
		}
	}
	return "", fmt.Errorf("%s drops what is forwarded, and there is no program %s to say otherwise; install iptables", b.chain(forward), name)
}

// chain names a chain for a person.
func (b backend) chain(name string) string { return b.family.program() + " " + name }

// backends are those that have rules for forwarded packets.
func backends() ([]backend, error) {
	var list []backend
	chains, err := chains()
	if err != nil {
		return nil, err
	}
	for _, family := range families {
		names, _ := os.ReadFile("/proc/thread-self/net/" + string(family) + "_tables_names") // absent: no such tables
		if slices.Contains(strings.Fields(string(names)), "filter") {
			list = append(list, backend{family, "legacy"})
		}
		if slices.ContainsFunc(chains, func(c *nftables.Chain) bool { return ofIPTables(c) && familyOf(c) == family }) {
			list = append(list, backend{family, "nft"})
		}
	}
	return list, nil
}

// chains lists the chains of nftables that decide on what is forwarded.
func chains() ([]*nftables.Chain, error) {
	c, err := nftables.New()
	if err != nil {
		return nil, nil //nolint:nilerr // a kernel without nftables has none
	}
	all, err := c.ListChains()
	if err != nil {
		return nil, nil //nolint:nilerr // the same
	}
	return slices.DeleteFunc(all, func(c *nftables.Chain) bool { return !forwards(c) }), nil
}

// forwards tells the chains that decide on what is forwarded.
func forwards(c *nftables.Chain) bool {
	return c.Hooknum != nil && *c.Hooknum == *nftables.ChainHookForward && c.Type == nftables.ChainTypeFilter
}

func familyOf(c *nftables.Chain) Family {
	if c.Table.Family == nftables.TableFamilyIPv6 {
		return IPv6
	}
	return IPv4
}

// ofIPTables tells chains that iptables-nft manages; nft itself says of them that one should keep off.
func ofIPTables(c *nftables.Chain) bool {
	return c.Name == forward && c.Table.Name == "filter" &&
		(c.Table.Family == nftables.TableFamilyIPv4 || c.Table.Family == nftables.TableFamilyIPv6)
}

// list are the rules of the chains, as iptables -S prints them.
func (f *Firewall) list(b backend) ([]string, error) {
	program, err := f.program(b, "")
	if err != nil {
		return nil, err
	}
	rules, err := run(program, "", "-w", "-S", forward)
	if err != nil {
		return nil, err
	}
	lines := strings.Split(strings.TrimSpace(rules), "\n")
	if slices.Contains(lines, "-A "+forward+" -j "+dockerUser) {
		rules, err := run(program, "", "-w", "-S", dockerUser)
		if err != nil {
			return nil, err
		}
		lines = append(lines, strings.Split(strings.TrimSpace(rules), "\n")...)
	}
	return lines, nil
}

func run(program, input string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), runTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Stdin = strings.NewReader(input)
	cmd.WaitDelay = time.Second
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s %s: %w: %s", filepath.Base(program), strings.Join(args, " "), err, strings.TrimSpace(errs.String()))
	}
	return out.String(), nil
}

// comment marks the rules of an owner.
func comment(owner string) string { return "xend:" + owner }

// ownerOf is the owner of a line of iptables -S, which quotes a comment that has more than letters; "" for a rule of
// somebody else.
func ownerOf(line string) string {
	words := strings.Fields(line)
	i := slices.Index(words, "--comment")
	if i < 0 || i+1 >= len(words) {
		return ""
	}
	owner, ok := strings.CutPrefix(strings.Trim(words[i+1], `"`), comment(""))
	if !ok {
		return ""
	}
	return owner
}

// plain are the words that iptables takes as they are; a + at a name's end would mean every name that begins so.
var plain = regexp.MustCompile(`^[A-Za-z0-9_.:/@-]+$`)

// Set makes the rules of an owner, a name without blanks, what they should be, in front of all others of the chain
// that decides on what is forwarded. A family that has no such chain drops nothing, and gets no rules. Each family
// changes in one step.
func (f *Firewall) Set(owner string, rules []Rule) error {
	for _, r := range rules {
		for _, word := range append([]string{owner}, r.Match...) {
			if !plain.MatchString(word) {
				return fmt.Errorf("accept %s: %q cannot stand in a rule", owner, word)
			}
		}
	}
	list, err := backends()
	if err != nil {
		return err
	}
	var errs []error
	for _, b := range list {
		errs = append(errs, f.set(b, owner, rules))
	}
	return errors.Join(errs...)
}

// Remove removes the rules of an owner. That there are none is no error.
func (f *Firewall) Remove(owner string) error { return f.Set(owner, nil) }

func (f *Firewall) set(b backend, owner string, rules []Rule) error {
	wanted := slices.ContainsFunc(rules, func(r Rule) bool { return r.Family == b.family })
	lines, err := f.list(b)
	if err != nil {
		if !wanted {
			return nil //nolint:nilerr // without the program there are no rules of ours
		}
		return err
	}
	chain := forward
	if slices.Contains(lines, "-A "+forward+" -j "+dockerUser) {
		chain = dockerUser
	}
	var have, want []string
	for _, line := range lines {
		if ownerOf(line) == owner {
			have = append(have, strings.ReplaceAll(strings.TrimPrefix(line, "-A "), `"`, ""))
		}
	}
	for _, r := range rules {
		if r.Family == b.family {
			want = append(want, chain+" "+strings.Join(r.Match, " ")+" -m comment --comment "+comment(owner)+" -j ACCEPT")
		}
	}
	if slices.Equal(have, want) {
		return nil
	}
	var text strings.Builder
	text.WriteString("*filter\n")
	for _, line := range have {
		text.WriteString("-D " + line + "\n")
	}
	for _, line := range slices.Backward(want) { // each goes in front of the one before
		text.WriteString("-I " + line + "\n")
	}
	text.WriteString("COMMIT\n")
	what := fmt.Sprintf("accept %s in %s", owner, b.chain(chain))
	if len(want) == 0 {
		what = fmt.Sprintf("remove the rules of %s from %s", owner, b.chain(chain))
	}
	if f.Before != nil {
		if err := f.Before(what); err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
	}
	restore, err := f.program(b, "-restore")
	if err == nil {
		_, err = run(restore, text.String(), "-w", "--noflush")
	}
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

// Owners lists whose rules there are.
func (f *Firewall) Owners() ([]string, error) {
	list, err := backends()
	if err != nil {
		return nil, err
	}
	var owners []string
	for _, b := range list {
		lines, err := f.list(b)
		if err != nil {
			continue // no program, no rules of ours
		}
		for _, line := range lines {
			if owner := ownerOf(line); owner != "" && !slices.Contains(owners, owner) {
				owners = append(owners, owner)
			}
		}
	}
	return owners, nil
}
