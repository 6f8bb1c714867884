package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"

	"github.com/xenvnet/xend/internal/conffile"
	"github.com/xenvnet/xend/internal/ctl"
	"github.com/xenvnet/xend/sxp"
)

// Control speaks with the low-level control socket: commands in, their answers out, one connection
// each time.
type Control struct{ path string }

// NewControl returns a client of the control socket at path.
func NewControl(path string) *Control { return &Control{path: path} }

// Do sends commands, which the daemon does in order up to the first that fails, and returns the
// forms that they printed. A command that fails is an [Error], and what those before it printed is
// returned with it.
func (c *Control) Do(ctx context.Context, commands ...sxp.Value) ([]sxp.Value, error) {
	lines := make([]string, len(commands))
	for i, command := range commands {
		lines[i] = command.String()
	}
	reply, err := c.send(ctx, lines...)
	if err != nil {
		return nil, err
	}
	return parseReply(reply)
}

// JSON sends a command whose answer is a JSON value, and reads that into v. A command that fails is an [Error].
func (c *Control) JSON(ctx context.Context, command sxp.Value, v any) error {
	reply, err := c.send(ctx, command.String())
	if err != nil {
		return err
	}
	if bytes.HasPrefix(reply, []byte("(")) { // else it is JSON, in which anything may stand
		var refused *Error
		if _, err := parseReply(reply); errors.As(err, &refused) {
			return err
		}
	}
	if json.Unmarshal(reply, v) != nil {
		return fmt.Errorf("xend's answer to %s is not the JSON that was expected: is it of another version?", command.Name())
	}
	return nil
}

// send sends lines and returns the whole answer.
func (c *Control) send(ctx context.Context, lines ...string) ([]byte, error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	if err := conffile.CheckSocketPath(c.path); err != nil {
		return nil, &ConnectError{Network: "unix", Address: c.path, Err: err}
	}
	reply, err := ctl.Do(ctx, c.path, lines...)
	var dial *net.OpError
	switch {
	case errors.As(err, &dial) && dial.Op == "dial" && !isTimeout(err) && ctx.Err() == nil:
		return nil, &ConnectError{Network: "unix", Address: c.path, Err: err}
	case errors.Is(err, ctl.ErrTooLong):
		return nil, errTooLarge
	case err != nil:
		return nil, noAnswer(ctx, err)
	}
	return []byte(reply), nil
}

// parseReply reads the forms of a reply, of which the last may be an error.
func parseReply(reply []byte) ([]sxp.Value, error) {
	var forms []sxp.Value
	d := sxp.NewDecoder(bytes.NewReader(reply), sxp.C)
	for {
		v, err := d.Decode()
		switch {
		case errors.Is(err, io.EOF):
			return forms, nil
		case err != nil:
			return nil, fmt.Errorf("xend's answer is not an S-expression: %w", err)
		case v.Name() == "error":
			text := "error"
			if rest := v.Children(); len(rest) > 0 {
				text = rest[0].Text()
			}
			return forms, &Error{Text: text}
		}
		forms = append(forms, v)
	}
}
