package l3

import (
	"fmt"

	"github.com/xenvnet/xend/internal/hostnet"
)

// Conn changes the layer 3 of a host.
type Conn struct {
	host *hostnet.Host

	// Before, if set, is called before each change with a description of it; an error of it is
	// returned instead of making the change. Tests fail or kill the program there.
	Before func(what string) error
}

// New returns a Conn for a host, which stays the caller's.
func New(host *hostnet.Host) *Conn { return &Conn{host: host} }

// change sends a request and waits for the acknowledgement. Errors name what was tried.
func (c *Conn) change(what string, kind, flags int, body []byte) error {
	if c.Before != nil {
		if err := c.Before(what); err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
	}
	if err := c.host.ChangeRaw(kind, flags, body); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

// dump returns the entries of a list that keep returns true for.
func (c *Conn) dump(kind int, body []byte, keep func(b []byte) bool) ([][]byte, error) {
	return c.host.DumpRaw(kind, body, keep)
}
