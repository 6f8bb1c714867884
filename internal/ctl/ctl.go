// Package ctl speaks to the daemon's low-level control socket: commands as forms, one line each, answered by
// forms; docs/protocol.md.
package ctl

import (
	"context"
	"fmt"
	"io"
	"net"
	"strings"
	"time"
)

// MaxAnswer is how many bytes of an answer are read.
const MaxAnswer = 64 << 20

// ErrTooLong means that an answer has more than MaxAnswer bytes.
var ErrTooLong = fmt.Errorf("the answer is longer than %d MiB", MaxAnswer>>20)

// Timeout bounds a conversation whose context has no deadline.
const Timeout = 30 * time.Second

// Do sends commands, one line each, to the socket and returns the whole answer, "" where there was nothing to say.
// Errors are those of package net: fs.ErrNotExist or syscall.ECONNREFUSED where no daemon listens.
func Do(ctx context.Context, socket string, commands ...string) (string, error) {
	if _, ok := ctx.Deadline(); !ok {
		bounded, cancel := context.WithTimeout(ctx, Timeout)
		defer cancel()
		ctx = bounded
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", socket)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	// Also what is under way ends with the context.
	defer context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })()
	if _, err := io.WriteString(conn, strings.Join(commands, "\n")+"\n"); err != nil {
		return "", cause(ctx, err)
	}
	if c, ok := conn.(*net.UnixConn); ok {
		_ = c.CloseWrite() // the daemon also answers without
	}
	answer, err := io.ReadAll(io.LimitReader(conn, MaxAnswer+1))
	if err == nil && len(answer) > MaxAnswer {
		return "", fmt.Errorf("%s: %w", socket, ErrTooLong)
	}
	return strings.TrimSpace(string(answer)), cause(ctx, err)
}

// cause is why a conversation was cut off, if it was.
func cause(ctx context.Context, err error) error {
	if err != nil && ctx.Err() != nil {
		return fmt.Errorf("%w: %w", context.Cause(ctx), err)
	}
	return err
}
