// Command xm is the user's tool for the vnets, and for what else xend manages, with the syntax, the
// output and the exit statuses of xm of Xen 3.0.
package main

import (
	"context"
	"os"
)

//go:generate go test -run TestGenerated -update

func main() {
	os.Exit(newApp(os.Stdout, os.Stderr).run(context.Background(), os.Args[1:]))
}
