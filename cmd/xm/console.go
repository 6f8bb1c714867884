package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/term"

	"github.com/xenvnet/xend/internal/cli"
	"github.com/xenvnet/xend/xendcompat/client"
)

func (a *app) console(ctx context.Context, in cli.Invocation) error {
	return a.attachConsole(ctx, in.Args[0])
}

// leave is the key that ends a console: Ctrl-].
const leave = 0x1d

// attachConsole joins standard input and output with the console of a domain, until the domain ends, the input ends, or
// Ctrl-] is pressed.
func (a *app) attachConsole(ctx context.Context, name string) error {
	if err := a.stdout.Flush(); err != nil {
		return err
	}
	c, err := client.OpenConsole(ctx, a.paths, name)
	if err != nil {
		return missing(err, "Domain", name)
	}
	defer c.Close()
	if fd := int(os.Stdin.Fd()); term.IsTerminal(fd) {
		state, err := term.MakeRaw(fd)
		if err != nil {
			return err
		}
		defer term.Restore(fd, state) //nolint:errcheck // the terminal is gone then
	}
	done := make(chan error, 2)
	go func() { done <- a.show(c) }()
	go func() { done <- copyKeys(c, os.Stdin) }()
	err = <-done
	if errors.Is(err, errLeft) {
		return nil
	}
	if err == nil {
		err = <-done // the input has ended, the domain may still say something
	}
	return err
}

// show prints what comes as it comes.
func (a *app) show(from io.Reader) error {
	b := make([]byte, 4096)
	for {
		n, err := from.Read(b)
		a.stdout.Write(b[:n]) //nolint:errcheck // Flush reports it
		if err := a.stdout.Flush(); err != nil {
			return err
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// errLeft is the user's wish.
var errLeft = errors.New("left")

// copyKeys sends what is typed up to Ctrl-].
func copyKeys(to io.Writer, from io.Reader) error {
	b := make([]byte, 4096)
	for {
		n, err := from.Read(b)
		for i, key := range b[:n] {
			if key == leave {
				_, _ = to.Write(b[:i])
				return errLeft
			}
		}
		if n > 0 {
			if _, err := to.Write(b[:n]); err != nil {
				return fmt.Errorf("console: %w", err)
			}
		}
		if err != nil {
			if w, ok := to.(interface{ CloseWrite() error }); ok {
				_ = w.CloseWrite()
			}
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
	}
}
