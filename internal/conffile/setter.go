package conffile

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/xenvnet/xend/sxp"
)

// A Setter takes the value of an option of xend-config.sxp over, or says what was expected instead, in xend's
// words.
type Setter func(value string) error

// Take takes the value of an option's form (name value). One without a value keeps what it has.
func (set Setter) Take(form sxp.Value) error {
	values := form.Children()
	if len(values) == 0 {
		return nil
	}
	err := Expected("a single value", values[0].String())
	if values[0].IsAtom() {
		err = set(values[0].Text())
	}
	if err != nil {
		return fmt.Errorf("invalid xend config %s: %w", form.Name(), err)
	}
	return nil
}

// Expected is the second half of xend's words for a bad value.
func Expected(what, value string) error { return fmt.Errorf("expected %s: %s", what, value) }

// Bool takes yes, y, 1, on, true, t and their opposites, in any case.
func Bool(field *bool) Setter {
	return func(value string) error {
		switch strings.ToLower(value) {
		case "yes", "y", "1", "on", "true", "t":
			*field = true
		case "no", "n", "0", "off", "false", "f":
			*field = false
		default:
			return Expected("bool", value)
		}
		return nil
	}
}

// Port takes a port number.
func Port(field *int) Setter {
	return func(value string) error {
		n, err := strconv.Atoi(strings.TrimSpace(value))
		if errors.Is(err, strconv.ErrSyntax) {
			return Expected("int", value)
		}
		if err != nil || n < 1 || n > 65535 {
			return Expected("a port from 1 to 65535", value)
		}
		*field = n
		return nil
	}
}

// Text takes any text but the empty one.
func Text(field *string) Setter {
	return func(value string) error {
		if value == "" || strings.ContainsRune(value, 0) {
			return Expected("string", sxp.Atom(value).String())
		}
		*field = value
		return nil
	}
}

// OptionalText takes any text.
func OptionalText(field *string) Setter {
	set := Text(field)
	return func(value string) error {
		if value == "" {
			*field = ""
			return nil
		}
		return set(value)
	}
}

// Address is text, of which the empty one, all addresses in the original, means loopback.
func Address(field *string) Setter {
	set := Text(field)
	return func(value string) error {
		if value == "" {
			value = Loopback
		}
		return set(value)
	}
}
