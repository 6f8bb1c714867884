package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/xenvnet/xend/internal/cli"
	"github.com/xenvnet/xend/xendcompat/client"
	"github.com/xenvnet/xend/xendcompat/domain"
)

// flag is a parameter that is on.
const on = "1"

// create starts a domain, or one for each file of a directory.
func (a *app) create(ctx context.Context, in cli.Invocation) error {
	files, given, err := a.configFiles(in)
	if err != nil {
		return err
	}
	for _, file := range files {
		c, err := a.readConfig(in, file, given)
		if err != nil {
			return err
		}
		if in.Has("dryrun") {
			a.print(c.SXP())
			continue
		}
		if err := a.startConfig(ctx, in, c); err != nil {
			return err
		}
	}
	return nil
}

// define adds the domains of configurations to the managed ones.
func (a *app) define(ctx context.Context, in cli.Invocation) error {
	files, given, err := a.configFiles(in)
	if err != nil {
		return err
	}
	for _, file := range files {
		c, err := a.readConfig(in, file, given)
		if err != nil {
			return err
		}
		if in.Has("dryrun") {
			a.print(c.SXP())
			continue
		}
		if _, err := a.xend.MakeDomain(ctx, "new", client.Param{Name: "config", Value: c.SXP().String()}); err != nil {
			return err
		}
	}
	return nil
}

// configFiles returns the files that a command line names, and the settings behind them.
func (a *app) configFiles(in cli.Invocation) (files []string, given []domain.Given, err error) {
	args := in.Args
	name := in.Value("defconfig")
	if name == "" {
		name = in.Value("config")
	}
	if name == "" && len(args) > 0 && !strings.Contains(filepath.Base(args[0]), "=") {
		name, args = args[0], args[1:]
	}
	for _, arg := range args {
		key, value, ok := strings.Cut(arg, "=")
		if !ok {
			return nil, nil, fmt.Errorf("%s is not NAME=VALUE", arg)
		}
		given = append(given, domain.Given{Name: key, Value: value})
	}
	if name == "" {
		return nil, nil, a.misused(fmt.Sprintf("'xm %s' requires at least 1 argument.", in.Command.Name), func() {
			fmt.Fprintf(a.stdout, "Usage: %s\n", in.Command.Usage(a.table.Program))
		})
	}
	file, err := a.findConfig(name)
	if err != nil {
		return nil, nil, err
	}
	info, err := os.Stat(file)
	if err != nil || !info.IsDir() {
		return []string{file}, given, err
	}
	for _, pattern := range []string{"*.cfg", "*.sxp"} {
		list, err := filepath.Glob(filepath.Join(file, pattern))
		if err != nil {
			return nil, nil, err
		}
		files = append(files, list...)
	}
	slices.Sort(files)
	if len(files) == 0 {
		return nil, nil, fmt.Errorf("%s has no domain configuration: no file *.cfg or *.sxp", file)
	}
	return files, given, nil
}

// findConfig finds a configuration file where it was named, or in /etc/xen.
func (a *app) findConfig(name string) (string, error) {
	places := []string{name}
	if !filepath.IsAbs(name) {
		places = append(places, filepath.Join(a.paths.EtcXen(), name))
	}
	for _, place := range places {
		if _, err := os.Stat(place); err == nil {
			return filepath.Abs(place)
		} else if !errors.Is(err, fs.ErrNotExist) {
			return "", err
		}
	}
	return "", fmt.Errorf("Unable to open config file: %s", name)
}

// readConfig reads a file and says so, unless it should be quiet.
func (a *app) readConfig(in cli.Invocation, file string, given []domain.Given) (domain.Config, error) {
	if !in.Has("quiet") {
		fmt.Fprintf(a.stdout, "Using config file \"%s\".\n", file)
	}
	c, err := domain.ReadFile(file, given...)
	if err == nil {
		if err = c.Validate(); err != nil {
			err = fmt.Errorf("%s: %w", file, err)
		}
	}
	return c, err
}

// startConfig does what clients do to start a domain: it is made paused, its devices are waited for, and it goes on.
func (a *app) startConfig(ctx context.Context, in cli.Invocation, c domain.Config) error {
	if in.Has("console") {
		if err := client.CheckConsole(a.paths, c.Name); err != nil {
			return err
		}
	}
	d, err := a.xend.MakeDomain(ctx, "create", client.Param{Name: "config", Value: c.SXP().String()})
	if err != nil {
		return err
	}
	name := d.ChildValue("name", c.Name)
	_, err = a.xend.DomainOp(ctx, name, "wait_for_devices")
	if err == nil && !in.Has("paused") {
		_, err = a.xend.DomainOp(ctx, name, "unpause")
	}
	if err != nil {
		_, undo := a.xend.DomainOp(ctx, name, "destroy")
		return errors.Join(err, undo)
	}
	if !in.Has("quiet") {
		fmt.Fprintf(a.stdout, "Started domain %s\n", name)
	}
	if in.Has("console") {
		return a.attachConsole(ctx, name)
	}
	return nil
}

// start starts managed domains.
func (a *app) start(ctx context.Context, in cli.Invocation) error {
	name := in.Args[0]
	if in.Has("console") {
		if err := client.CheckConsole(a.paths, name); err != nil {
			return err
		}
	}
	if err := a.domainOp(ctx, name, "start", pausedParam(in)...); err != nil {
		return err
	}
	if in.Has("console") {
		return a.attachConsole(ctx, name)
	}
	return nil
}

func pausedParam(in cli.Invocation) []client.Param {
	if in.Has("paused") {
		return []client.Param{{Name: "paused", Value: on}}
	}
	return nil
}

// restore starts a domain from a file that save wrote.
func (a *app) restore(ctx context.Context, in cli.Invocation) error {
	file, err := filepath.Abs(in.Args[0])
	if err != nil {
		return err
	}
	_, err = a.xend.MakeDomain(ctx, "restore", append(pausedParam(in), client.Param{Name: "file", Value: file})...)
	return err
}
