package service

import (
	"context"
	"errors"
	"fmt"

	"github.com/xenvnet/xend/vnet"
	"github.com/xenvnet/xend/xendcompat/domain"
)

// Kind says what sort of failure an error is, so that a front end can choose its own way to say it.
type Kind int

// The kinds.
const (
	// Internal: something that should work failed; also the kind of every error without one.
	Internal Kind = iota
	// NotFound: what was named does not exist.
	NotFound
	// Exists: the id is taken.
	Exists
	// Invalid: the request makes no sense, whatever the state.
	Invalid
	// Conflict: the request contradicts something that exists.
	Conflict
	// Unsupported: this daemon does not do that.
	Unsupported
	// Unavailable: it cannot be done now, or not in this configuration.
	Unavailable
)

// Error is an answer that says no. Text is for the client's user as it is.
type Error struct {
	Kind Kind
	Text string
	Err  error // the cause, if there is more to it than Text says
}

func (e *Error) Error() string { return e.Text }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// KindOf returns the kind of an error of this package, of package domain or of package vnet.
func KindOf(err error) Kind {
	var own *Error
	var noDomain *domain.NotFoundError
	var cannot *domain.UnsupportedError
	var toolstack *domain.ToolstackError
	var config *domain.FormError
	var file *domain.FileError
	var noBridge *domain.NoBridgeError
	var taken *domain.TakenError
	var state *domain.StateError
	var field *vnet.FieldError
	var id *vnet.IDError
	var form *vnet.FormError
	switch {
	case errors.As(err, &own):
		return own.Kind
	case errors.As(err, &noDomain):
		return NotFound
	case errors.As(err, &cannot):
		return Unsupported
	case errors.As(err, &config), errors.As(err, &file):
		return Invalid
	case errors.As(err, &noBridge), errors.As(err, &state):
		return Conflict
	case errors.As(err, &taken):
		return Exists
	case errors.As(err, &field), errors.As(err, &id), errors.As(err, &form):
		return Invalid
	case errors.As(err, &toolstack), errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return Unavailable
	}
	return Internal
}

func errorf(k Kind, format string, args ...any) *Error {
	return &Error{Kind: k, Text: fmt.Sprintf(format, args...)}
}

// NoSuchVnet is the answer to an id that no vnet has, spelled as the client spelled it.
func NoSuchVnet(id string) *Error { return errorf(NotFound, "No such vnet %s", id) }

func noSuchVnet(id vnet.ID) *Error { return NoSuchVnet(id.String()) }
