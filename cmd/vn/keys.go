package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/xenvnet/xend/dataplane/esp"
	"github.com/xenvnet/xend/internal/cli"
	"github.com/xenvnet/xend/internal/conffile"
	"github.com/xenvnet/xend/sxp"
	"github.com/xenvnet/xend/vnet"
	"github.com/xenvnet/xend/xendcompat/keys"
)

// keyVnet is the vnet whose key file is meant; nil for the default one.
func keyVnet(args []string) (*vnet.ID, error) {
	if len(args) == 0 {
		return nil, nil
	}
	id, err := vnet.ParseIDPadded(args[0])
	if err != nil {
		return nil, err
	}
	return &id, nil
}

func (a *app) keyGenerate(_ context.Context, in cli.Invocation) error {
	dir, err := conffile.KeyDir(a.paths)
	if err != nil {
		return err
	}
	id, err := keyVnet(in.Args)
	if err != nil {
		return err
	}
	path, err := keys.Generate(dir, id)
	if err != nil {
		return err
	}
	fmt.Fprintf(a.stdout, "%s\nCopy it to the same place on all other hosts of the vnet, in a way that nobody can read along\n(scp -p as root), and then 'xend reload' where the vnet is there already.\n", path)
	return nil
}

// rotateNext says what comes after a step.
var rotateNext = map[keys.Step]string{
	keys.Add:    "A key was added: it opens what others send. Copy %s to all hosts,\nand 'xend reload' everywhere. 'vn key-status' shows it as (use open). Then: vn key-rotate use%s",
	keys.Use:    "The new key is used to send. Copy %s to all hosts, and 'xend reload' everywhere. When\n'vn key-status' shows no sender with the old key any more: vn key-rotate remove%s",
	keys.Remove: "The old key is gone. Copy %s to all hosts, and 'xend reload' everywhere. Who has only the\nold key is shut out from then on.%s",
}

func (a *app) keyRotate(ctx context.Context, in cli.Invocation) error {
	dir, err := conffile.KeyDir(a.paths)
	if err != nil {
		return err
	}
	step := keys.Step(in.Args[0])
	id, err := keyVnet(in.Args[1:])
	if err != nil {
		return err
	}
	before, err := keys.Current(dir, id)
	if err != nil {
		return err
	}
	forms, _ := a.ask(ctx, command("vn.keys")) // a daemon that does not run knows of nobody
	holders := a.keyHolders(ctx, forms, id, before)
	if !in.Has("force") {
		switch step {
		case keys.Use:
			if list := lacking(holders); before.Send != len(before.Secrets)-1 && len(list) > 0 {
				return fmt.Errorf("these hosts do not have the new key yet, and could not open what this host sends with it: %s; copy %s there and 'xend reload', or --force",
					strings.Join(list, ", "), before.File)
			}
		case keys.Remove:
			if last := stillOld(holders); len(last) > 0 {
				return fmt.Errorf("these hosts do not send with the new key yet, and would be cut off: %s; copy %s there and 'xend reload', which counts ten seconds later, or --force",
					strings.Join(last, "; "), before.File)
			}
		}
	}
	set, err := keys.Rotate(dir, id, step)
	if err != nil {
		return err
	}
	more := ""
	if id != nil && step != keys.Remove {
		more = " " + id.Short()
	}
	fmt.Fprintf(a.stdout, rotateNext[step]+"\n", set.File, more)
	for _, h := range holders {
		h.print(a.stdout, set)
	}
	return nil
}

// keyHolder is who has which keys of a vnet.
type keyHolder struct {
	vnet  vnet.ID
	newer string // the name of the last key of the file
	sends string // the name of the key of the file that is to seal
	own   string // with which this host seals
	hosts []keyHost
}

// keyHost is a host that answers inside of ESP, or is known by its KEY messages.
type keyHost struct {
	addr  string
	keys  []string // that it has, as it says, the one that it sends with first; nil: it did not answer
	send  string   // with which it was heard
	heard []keyHeard
}

// keyHeard is a key with which a host was heard.
type keyHeard struct {
	kid     string
	packets bool   // sealed with it, and not only KEY messages
	age     string // seconds since it last proved to live
}

// keyHolders asks the hosts of the vnets that have their keys from a file which keys they have.
func (a *app) keyHolders(ctx context.Context, forms []sxp.Value, id *vnet.ID, set keys.Set) (out []keyHolder) {
	for _, f := range forms {
		of, err := vnet.ParseID(f.ChildValue("vnet", ""))
		if f.Name() != "keys" || err != nil || id != nil && of != *id {
			continue
		}
		names := map[string]bool{}
		for _, s := range set.Secrets {
			names[fmt.Sprintf("%x", s.KID(of))] = true
		}
		if !slices.ContainsFunc(f.Children("key"), func(k sxp.Value) bool { return names[k.ChildValue("kid", "")] }) {
			continue // it has a file of its own
		}
		h := keyHolder{vnet: of, newer: fmt.Sprintf("%x", set.Secrets[len(set.Secrets)-1].KID(of)), sends: fmt.Sprintf("%x", set.Secrets[set.Send].KID(of))}
		for _, k := range f.Children("key") {
			if k.ChildValue("use", "") == "send" {
				h.own = k.ChildValue("kid", "")
			}
		}
		members, err := a.ask(ctx, command("vn.members", sxp.Pair("vnet", of.String())))
		if err != nil {
			members = nil
		}
		for _, m := range members {
			if m.Name() != "member" {
				continue
			}
			x := keyHost{addr: m.ChildValue("addr", "")}
			for _, k := range m.Children("kid") {
				x.keys = append(x.keys, first(k))
			}
			h.hosts = append(h.hosts, x)
		}
		for _, s := range f.Children("sender") {
			i := slices.IndexFunc(h.hosts, func(x keyHost) bool {
				return slices.ContainsFunc(s.Children("addr"), func(a sxp.Value) bool { return first(a) == x.addr })
			})
			if i < 0 {
				i = len(h.hosts)
				h.hosts = append(h.hosts, keyHost{addr: s.ChildValue("addr", "")})
			}
			h.hosts[i].send = s.ChildValue("kid", "")
			h.hosts[i].heard = append(h.hosts[i].heard, keyHeard{s.ChildValue("kid", ""), s.ChildValue("packets", "0") != "0", s.ChildValue("echo", "?")})
		}
		out = append(out, h)
	}
	return out
}

// first is the value of a field.
func first(f sxp.Value) string { return atomOf(f.Children()) }

// lacking lists the hosts that say which keys they have, without the last one.
func lacking(holders []keyHolder) (out []string) {
	for _, h := range holders {
		for _, x := range h.hosts {
			if x.keys != nil && !slices.Contains(x.keys, h.newer) && !slices.Contains(out, x.addr) {
				out = append(out, x.addr)
			}
		}
	}
	return out
}

// print says which hosts have which key; set is what the file has now.
func (h keyHolder) print(w io.Writer, set keys.Set) {
	fmt.Fprintf(w, "\nvnet %s: the last key of the file is %x\n", h.vnet.Short(), set.Secrets[len(set.Secrets)-1].KID(h.vnet))
	if len(h.hosts) == 0 {
		fmt.Fprintln(w, "  no other host is known to have a key")
	}
	for _, x := range h.hosts {
		switch {
		case len(x.keys) == 0:
			fmt.Fprintf(w, "  %s did not say which keys it has; it sends with %s\n", x.addr, x.send)
		default:
			fmt.Fprintf(w, "  %s has %s, and sends with %s\n", x.addr, strings.Join(x.keys, " and "), x.keys[0])
		}
	}
}

// stillOld lists the hosts that send with another key than the one that is to seal, and how that is known. A host that answers tells it
// itself. Of another it is known what it sent with before, for two minutes; only a packet under the new key shows that it has changed over.
func stillOld(holders []keyHolder) (out []string) {
	say := func(format string, a ...any) {
		if text := fmt.Sprintf(format, a...); !slices.Contains(out, text) {
			out = append(out, text)
		}
	}
	for _, h := range holders {
		if len(h.hosts) > 0 && h.own != h.sends {
			say("this host sends with %s", h.own)
		}
		for _, x := range h.hosts {
			last := slices.IndexFunc(x.heard, func(k keyHeard) bool { return k.kid != h.sends })
			switch {
			case len(x.keys) > 0 && x.keys[0] != h.sends:
				say("%s sends with %s", x.addr, x.keys[0])
			case len(x.keys) > 0, last < 0, slices.ContainsFunc(x.heard, func(k keyHeard) bool { return k.kid == h.sends && k.packets }):
			default:
				say("%s does not answer, and was heard with %s %s s ago (it is forgotten after %d s)", x.addr, x.heard[last].kid, x.heard[last].age, int(esp.SenderTTL.Seconds()))
			}
		}
	}
	return out
}

// keyStatus prints with what vnets are protected, and who takes part.
func (a *app) keyStatus(ctx context.Context, in cli.Invocation) error {
	forms, err := a.ask(ctx, command("vn.keys"))
	if err == nil {
		forms, err = filter(forms, in)
	}
	if err != nil {
		return err
	}
	if in.Has("host") {
		for i, f := range forms {
			forms[i] = fieldsIf(f, func(c sxp.Value) bool {
				return c.Name() != "sender" || slices.ContainsFunc(c.Children("addr"), func(a sxp.Value) bool { return first(a) == in.Value("host") })
			})
		}
	}
	if in.Has("json") {
		return a.printForms(forms)
	}
	if in.Has("long") {
		a.print(formWidth, forms...)
		return nil
	}
	if len(forms) == 0 {
		fmt.Fprintln(a.stdout, map[bool]string{true: "That vnet is not here, or has no security.", false: "No vnet has security auth or conf."}[in.Has("vnet")])
	}
	for _, f := range forms {
		fmt.Fprintf(a.stdout, "vnet %s: %s, epoch %s for %s s, %s packets sealed\n", vnet.ShortText(f.ChildValue("vnet", "")), f.ChildValue("security", ""),
			f.ChildValue("epoch", ""), f.ChildValue("age", ""), f.ChildValue("packets", ""))
		for _, k := range f.Children("key") {
			use := "opens what others send"
			if k.ChildValue("use", "") == "send" {
				use = "is used to send"
			}
			fmt.Fprintf(a.stdout, "  key %s %s\n", k.ChildValue("kid", ""), use)
		}
		for i, s := range f.Children("sender") {
			if i == 0 {
				fmt.Fprintf(a.stdout, "  %-24s %-16s %6s %8s %8s %12s\n", "Host", "Sends with", "Epoch", "Age (s)", "Seen (s)", "Packets")
			}
			fmt.Fprintf(a.stdout, "  %-24s %-16s %6s %8s %8s %12s\n", s.ChildValue("addr", "-"), s.ChildValue("kid", ""), s.ChildValue("epoch", ""),
				s.ChildValue("age", ""), s.ChildValue("echo", ""), s.ChildValue("packets", ""))
		}
		for _, r := range f.Children("refused") {
			fmt.Fprintf(a.stdout, "  refused: %s %s\n", r.ChildValue("packets", ""), r.ChildValue("reason", ""))
		}
	}
	return nil
}
