package main

import (
	"context"
	"fmt"
	"slices"
	"strings"

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
	var last []string
	if step == keys.Remove {
		// A daemon that does not run knows of nobody.
		if forms, err := a.ask(ctx, command("vn.keys")); err == nil && !in.Has("force") {
			if last = stillOld(forms, id); len(last) > 0 {
				return fmt.Errorf("these hosts do not send with the new key yet, and would be cut off: %s; first 'use' on all hosts, or --force", strings.Join(last, ", "))
			}
		}
	}
	set, err := keys.Rotate(dir, id, step)
	if err != nil {
		return err
	}
	more := ""
	if id != nil && step != keys.Remove {
		more = " " + id.String()
	}
	fmt.Fprintf(a.stdout, rotateNext[step]+"\n", set.File, more)
	return nil
}

// stillOld lists the hosts that send with another key than this one, of one vnet or of all. What a host sent with before is known
// for two minutes after it was heard last; a packet under the new key shows that it has changed over.
func stillOld(forms []sxp.Value, id *vnet.ID) []string {
	var hosts []string
	for _, f := range forms {
		if f.Name() != "keys" || id != nil && f.ChildValue("vnet", "") != id.String() {
			continue
		}
		sends := ""
		for _, k := range f.Children("key") {
			if k.ChildValue("use", "") == "send" {
				sends = k.ChildValue("kid", "")
			}
		}
		changed := map[string]bool{}
		for _, s := range f.Children("sender") {
			if s.ChildValue("kid", "") == sends && s.ChildValue("packets", "0") != "0" {
				changed[s.ChildValue("addr", "")] = true
			}
		}
		for _, s := range f.Children("sender") {
			if addr := s.ChildValue("addr", ""); s.ChildValue("kid", "") != sends && !changed[addr] && !slices.Contains(hosts, addr) {
				hosts = append(hosts, addr)
			}
		}
	}
	return hosts
}

// keyStatus prints with what vnets are protected, and who takes part.
func (a *app) keyStatus(ctx context.Context, in cli.Invocation) error {
	forms, err := a.ask(ctx, command("vn.keys"))
	if err != nil {
		return err
	}
	if in.Has("json") {
		return a.printForms(forms)
	}
	if in.Has("long") {
		a.print(formWidth, forms...)
		return nil
	}
	if len(forms) == 0 {
		fmt.Fprintln(a.stdout, "No vnet has security auth or conf.")
	}
	for _, f := range forms {
		fmt.Fprintf(a.stdout, "vnet %s: %s, epoch %s for %s s, %s packets sealed\n", f.ChildValue("vnet", ""), f.ChildValue("security", ""),
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
