// Command netscript is the network scripts of a Xen host in one program: called by the name of a
// script (network-bridge, network-vnet, vnet-insert, vif-bridge, vif-setup) it is that script;
// `netscript NAME …` is the same.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/xenvnet/xend/netscripts"
)

func main() {
	os.Exit(run(os.Args))
}

func run(argv []string) int {
	if !netscripts.Is(filepath.Base(argv[0])) {
		if len(argv) < 2 || !netscripts.Is(argv[1]) {
			fmt.Fprintf(os.Stderr, "usage: netscript NAME [argument…], where NAME is one of %s\n", strings.Join(netscripts.Names, ", "))
			return 1
		}
		argv = argv[1:]
	}
	// A terminal that goes away while the network is half changed must not end the program: writing
	// to it fails instead. Not ignored, which programs that are run would inherit.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT)
	defer stop()
	return netscripts.Run(ctx, netscripts.Env{Stdout: os.Stdout, Stderr: os.Stderr}, argv)
}
