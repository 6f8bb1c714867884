package domain

import "fmt"

// NotFoundError says that no domain has that name, id or uuid.
type NotFoundError struct{ Name string }

func (e *NotFoundError) Error() string { return "No such domain " + e.Name }

// UnsupportedError says that an operation of the API is known, and that this daemon does not do it.
type UnsupportedError struct {
	Op  string // as in the API: "pause"
	Use string // what does it instead: "xl pause"; empty for nothing
}

func (e *UnsupportedError) Error() string {
	if e.Use == "" {
		return fmt.Sprintf("xend does not manage domains: operation %s is not supported", e.Op)
	}
	return fmt.Sprintf("xend does not manage domains: operation %s is not supported; use %s", e.Op, e.Use)
}

// ToolstackError says that Xen's toolstack did not answer as it should.
type ToolstackError struct {
	Command string // "xl list -l"
	Err     error
}

func (e *ToolstackError) Error() string { return e.Command + ": " + e.Err.Error() }

// Unwrap returns the cause.
func (e *ToolstackError) Unwrap() error { return e.Err }
