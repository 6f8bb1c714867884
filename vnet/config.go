package vnet

import (
	"errors"
	"fmt"

	"github.com/xenvnet/xend/sxp"
)

// Config is a vnet as its owner wrote it, validated.
type Config struct {
	ID     ID
	IDText string // the id as it was written: what lists show

	Bridge   string // device name; only a default vnet has none
	Vnetif   string // device name
	Security Security

	// Form is the configuration exactly as it was given, without defaults and
	// with unknown fields.
	Form sxp.Value
	// Unknown names the elements of Form that mean nothing, in their order;
	// they are worth a warning, for one may be a misspelt field.
	Unknown []string
}

// FieldError says what is wrong with one field of a configuration.
type FieldError struct {
	Field string // id, bridge, vnetif or security
	Err   error  // why
}

func (e *FieldError) Error() string { return "invalid vnet config: " + e.Field + ": " + e.Err.Error() }

// Unwrap returns the reason.
func (e *FieldError) Unwrap() error { return e.Err }

// FormError says why a text or a value is not one (vnet …) form.
type FormError struct {
	Text string
	Err  error // a *sxp.SyntaxError with the position, or nil
}

func (e *FormError) Error() string {
	if e.Err == nil {
		return e.Text
	}
	return e.Text + ": " + e.Err.Error()
}

// Unwrap returns what the parser said.
func (e *FormError) Unwrap() error { return e.Err }

// ErrTooMany is the error for a text with more than one form.
var ErrTooMany error = &FormError{Text: "Too many sxprs"}

// ParseConfig reads a configuration: exactly one (vnet …) form in the syntax of
// xend. The error is a *FormError or a *FieldError; where xend always had words
// for it, it begins with these.
func ParseConfig(text []byte) (Config, error) {
	forms, err := sxp.Parse(text, sxp.Xend)
	switch {
	case err != nil:
		return Config{}, &FormError{"Coercion to sxpr failed", err}
	case len(forms) == 0:
		return Config{}, &FormError{Text: "invalid vnet config: it is empty, a (vnet ...) form is expected"}
	case len(forms) > 1:
		return Config{}, ErrTooMany
	}
	return ConfigFromSXP(forms[0])
}

// ConfigFromSXP reads a configuration that is parsed already. Its errors are those
// of ParseConfig.
func ConfigFromSXP(v sxp.Value) (Config, error) {
	if v.Name() != "vnet" {
		return Config{}, &FormError{Text: fmt.Sprintf("invalid vnet config: %s is not a (vnet ...) form", describe(v))}
	}
	c := Config{Form: v}
	given := map[string]string{}
	for _, field := range v.Children() {
		name := field.Name()
		switch name {
		case "id", "bridge", "vnetif", "security": // fieldNames
		default:
			c.Unknown = append(c.Unknown, unknownName(field))
			continue
		}
		if _, ok := given[name]; ok {
			return Config{}, &FieldError{name, errors.New("it is given more than once")}
		}
		value, err := fieldValue(field)
		if err != nil {
			return Config{}, &FieldError{name, err}
		}
		given[name] = value
	}
	if err := c.fill(given); err != nil {
		return Config{}, err
	}
	return c, nil
}

// fill sets what the given fields say, and the defaults of the others.
func (c *Config) fill(given map[string]string) error {
	text, ok := given["id"]
	if !ok {
		return &FieldError{"id", errors.New("it is missing")}
	}
	id, err := ParseID(text)
	if err != nil {
		return &FieldError{"id", err}
	}
	if id.Reserved() {
		return &FieldError{"id", &IDError{text, "id 1 is reserved for the physical network"}}
	}
	c.ID, c.IDText = id, text

	c.Bridge, c.Vnetif = DefaultBridge(id, text), DefaultVnetif(id, text)
	for _, f := range []struct {
		field string
		name  *string
	}{{"bridge", &c.Bridge}, {"vnetif", &c.Vnetif}} {
		if value := given[f.field]; value != "" {
			if err := CheckDeviceName(value); err != nil {
				return &FieldError{f.field, err}
			}
			*f.name = value
		}
	}
	if c.Bridge == c.Vnetif {
		return &FieldError{"vnetif", fmt.Errorf("the bridge and the interface are both named %q", c.Vnetif)}
	}
	if value := given["security"]; value != "" {
		if c.Security, err = ParseSecurity(value); err != nil {
			return &FieldError{"security", err}
		}
	}
	return nil
}

// fieldValue returns the value of a field, which must be one atom, or none.
func fieldValue(field sxp.Value) (string, error) {
	values := field.Children()
	switch {
	case len(values) == 0:
		return "", nil
	case len(values) > 1:
		return "", fmt.Errorf("it has %d values instead of one", len(values))
	case values[0].IsList():
		return "", errors.New("its value is a list")
	}
	return values[0].Text(), nil
}

// unknownName names an element of a form for a warning.
func unknownName(v sxp.Value) string {
	if name := v.Name(); name != "" {
		return shorten(name)
	}
	return describe(v)
}

// describe names a value in few words.
func describe(v sxp.Value) string {
	switch {
	case v.IsAtom():
		return fmt.Sprintf("%q", shorten(v.Text()))
	case v.Len() == 0:
		return "()"
	case v.Items()[0].IsList():
		return "(( ...) ...)"
	}
	return fmt.Sprintf("(%s ...)", sxp.Atom(shorten(v.Name())))
}

// shorten cuts a text that somebody sent so that it fits into a message. Ids and
// device names fit.
func shorten(s string) string {
	const limit = 64
	if len(s) <= limit {
		return s
	}
	return s[:limit] + "..."
}

// DefaultVnets returns the vnets that exist without being created: ids 2 to 4
// with the interfaces vnif0002 to vnif0004, on no bridge.
func DefaultVnets() []Config {
	var vnets []Config
	for n := uint16(2); n <= 4; n++ {
		text := fmt.Sprintf("%04x", n)
		id := lastField(n)
		vnets = append(vnets, Config{
			ID: id, IDText: text, Vnetif: DefaultVnetif(id, text), Security: None,
			Form: sxp.List(sxp.Atom("vnet"), sxp.Pair("id", text), sxp.Pair("vnetif", DefaultVnetif(id, text)), sxp.Pair("security", None.String())),
		})
	}
	return vnets
}
