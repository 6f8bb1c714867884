package domain

import "fmt"

// NotFoundError says that no domain has that name, id or uuid.
type NotFoundError struct{ Name string }

func (e *NotFoundError) Error() string { return "No such domain " + e.Name }

// UnsupportedError says that an operation is known, and that the toolstack does not do it.
type UnsupportedError struct {
	Toolstack string // "xl", "lab"; empty where there is none
	Op        string // as in the API: "pause", or with what it can't: "trigger s3resume"
	Use       string // what does it, or comes near: "xl pause"; empty for nothing
}

func (e *UnsupportedError) Error() string {
	text := fmt.Sprintf("xend does not manage domains: operation %s is not supported", e.Op)
	if e.Toolstack != "" {
		text = fmt.Sprintf("the toolstack %s can't do %s", e.Toolstack, e.Op)
	}
	if e.Use != "" {
		text += "; use " + e.Use
	}
	return text
}

// UncertainError says that a migration ended without an answer of the other host: the domain is paused here, and may run
// there.
type UncertainError struct {
	Name, Host string
	Err        error
}

func (e *UncertainError) Error() string {
	return fmt.Sprintf("domain %s may run on %s: %v; it is paused here: look there, then 'xm unpause' or 'xm destroy' it here", e.Name, e.Host, e.Err)
}

// Unwrap returns the cause.
func (e *UncertainError) Unwrap() error { return e.Err }

// ToolstackError says that Xen's toolstack did not answer as it should.
type ToolstackError struct {
	Command string // "xl list -l"
	Err     error
}

func (e *ToolstackError) Error() string { return e.Command + ": " + e.Err.Error() }

// Unwrap returns the cause.
func (e *ToolstackError) Unwrap() error { return e.Err }

// TakenError says that a name or uuid is another domain's.
type TakenError struct {
	What string // "name vm1"
	By   string // the uuid of the domain that has it
}

func (e *TakenError) Error() string {
	return fmt.Sprintf("the %s is that of domain %s already", e.What, e.By)
}

// StateError says that a domain is in no state for an operation.
type StateError struct{ Text string }

func (e *StateError) Error() string { return e.Text }

func wrongState(format string, args ...any) error { return &StateError{fmt.Sprintf(format, args...)} }
