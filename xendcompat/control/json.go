package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"

	"github.com/xenvnet/xend/sxp"
)

// answers makes a command of something whose answer is written as JSON, one line: what only our own programs read.
// An error is a form, as everywhere.
func answers(f func(*Server, context.Context, sxp.Value) (any, error)) func(*Server, context.Context, sxp.Value, *bytes.Buffer) error {
	return func(s *Server, ctx context.Context, command sxp.Value, out *bytes.Buffer) error {
		v, err := f(s, ctx, command)
		if err != nil {
			return err
		}
		return json.NewEncoder(out).Encode(v)
	}
}

// number returns the value of a field that is a number from 0 to limit, or else 0 if it is missing.
func number(command sxp.Value, name string, limit uint64) (uint64, error) {
	text := command.ChildValue(name, "0")
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil || n > limit {
		return 0, fmt.Errorf("%s: (%s %s): expected a number from 0 to %d", command.Name(), name, cut(text), limit)
	}
	return n, nil
}

// events does (vn.events (since N) (limit N)): the events from number N on, as events.Log.
func (s *Server) events(_ context.Context, command sxp.Value) (any, error) {
	since, err := number(command, "since", 1<<63)
	if err != nil {
		return nil, err
	}
	limit, err := number(command, "limit", 1<<20)
	if err != nil {
		return nil, err
	}
	return s.svc.Events(since, int(limit)), nil
}

// checkAll does (vn.check): all that is wrong, as finding.Report. It takes some seconds.
func (s *Server) checkAll(ctx context.Context, _ sxp.Value) (any, error) {
	if s.check == nil {
		return nil, errors.New("vn.check: there is nothing to check with")
	}
	return s.check(ctx)
}

// reloadAll does (vn.reload), which a SIGHUP asks for, too, and answers when it is done: the names of the options and keys
// whose change needs a restart.
func (s *Server) reloadAll(ctx context.Context, _ sxp.Value) (any, error) {
	if s.reload == nil {
		return nil, errors.New("vn.reload: there is no configuration to read")
	}
	list, err := s.reload(ctx)
	if list == nil {
		list = []string{}
	}
	return list, err
}

// traceOne does (vn.trace (target T)): where a MAC, an address or a domain is, as finding.Trace.
func (s *Server) traceOne(ctx context.Context, command sxp.Value) (any, error) {
	target, err := field(command, "target")
	if err != nil {
		return nil, err
	}
	if s.trace == nil {
		return nil, errors.New("vn.trace: there is nothing to trace with")
	}
	return s.trace(ctx, cut(target))
}
