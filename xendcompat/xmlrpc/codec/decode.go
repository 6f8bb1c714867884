package codec

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// maxDepth bounds how deeply arrays and structs may be nested.
const maxDepth = 1000

// Call is a methodCall.
type Call struct {
	Method string
	Params []any
}

// DecodeCall reads a methodCall. It is tolerant: of an XML declaration with any of the encodings that
// Python's clients name, of bytes that are no UTF-8 (they are taken for Latin-1), of white space and of
// unknown elements around values. A value without a type is a string.
func DecodeCall(b []byte) (Call, error) {
	d := newDecoder(b)
	var call Call
	if _, err := d.find("methodCall"); err != nil {
		return call, fmt.Errorf("not an XML-RPC call: %w", err)
	}
	err := d.children(func(e xml.StartElement) error {
		switch e.Name.Local {
		case "methodName":
			text, err := d.text()
			call.Method = strings.TrimSpace(text)
			return err
		case "params":
			params, err := d.params()
			call.Params = append(call.Params, params...)
			return err
		}
		return d.x.Skip()
	})
	switch {
	case err != nil:
		return Call{}, fmt.Errorf("not an XML-RPC call: %w", err)
	case call.Method == "":
		return Call{}, errors.New("not an XML-RPC call: it has no method name")
	}
	return call, nil
}

// Fault is an answer that says no.
type Fault struct {
	Code int
	Text string
}

func (f *Fault) Error() string { return f.Text }

// DecodeResponse reads a methodResponse. A fault is an error of type *Fault.
func DecodeResponse(b []byte) (any, error) {
	d := newDecoder(b)
	if _, err := d.find("methodResponse"); err != nil {
		return nil, fmt.Errorf("not an XML-RPC response: %w", err)
	}
	var params []any
	var fault *Fault
	err := d.children(func(e xml.StartElement) (err error) {
		switch e.Name.Local {
		case "params":
			params, err = d.params()
		case "fault":
			fault = &Fault{}
			err = d.fault(fault)
		default:
			err = d.x.Skip()
		}
		return err
	})
	switch {
	case err != nil:
		return nil, fmt.Errorf("not an XML-RPC response: %w", err)
	case fault != nil:
		return nil, fault
	case len(params) == 0:
		return nil, nil
	}
	return params[0], nil
}

// decoder reads XML as a stream of elements.
type decoder struct {
	x     *xml.Decoder
	depth int
}

func newDecoder(b []byte) *decoder {
	if !utf8.Valid(b) {
		b = latin1(b)
	}
	x := xml.NewDecoder(bytes.NewReader(b))
	// The bytes are UTF-8 here, whatever the declaration says.
	x.CharsetReader = func(_ string, r io.Reader) (io.Reader, error) { return r, nil }
	return &decoder{x: x}
}

// latin1 makes UTF-8 of Latin-1.
func latin1(b []byte) []byte {
	out := make([]byte, 0, len(b)*5/4)
	for _, c := range b {
		out = utf8.AppendRune(out, rune(c))
	}
	return out
}

// find goes to the next start element, which must have that name.
func (d *decoder) find(name string) (xml.StartElement, error) {
	for {
		t, err := d.x.Token()
		if errors.Is(err, io.EOF) {
			return xml.StartElement{}, io.ErrUnexpectedEOF
		}
		if err != nil {
			return xml.StartElement{}, err
		}
		if e, ok := t.(xml.StartElement); ok {
			if e.Name.Local != name {
				return e, fmt.Errorf("element %s instead of %s", e.Name.Local, name)
			}
			return e, nil
		}
	}
}

// children calls f for every element up to the end of the current one. f must read its element whole.
func (d *decoder) children(f func(xml.StartElement) error) error {
	for {
		t, err := d.x.Token()
		if errors.Is(err, io.EOF) {
			return io.ErrUnexpectedEOF
		}
		if err != nil {
			return err
		}
		switch t := t.(type) {
		case xml.StartElement:
			if err := f(t); err != nil {
				return err
			}
		case xml.EndElement:
			return nil
		}
	}
}

// text returns the characters up to the end of the current element.
func (d *decoder) text() (string, error) {
	var b strings.Builder
	for {
		t, err := d.x.Token()
		if err != nil {
			return "", err
		}
		switch t := t.(type) {
		case xml.CharData:
			b.Write(t)
		case xml.StartElement:
			if err := d.x.Skip(); err != nil {
				return "", err
			}
		case xml.EndElement:
			return b.String(), nil
		}
	}
}

// params reads the inside of params.
func (d *decoder) params() ([]any, error) {
	params := []any{}
	err := d.children(func(e xml.StartElement) error {
		if e.Name.Local != "param" {
			return d.x.Skip()
		}
		return d.children(func(e xml.StartElement) error {
			if e.Name.Local != "value" {
				return d.x.Skip()
			}
			v, err := d.value()
			params = append(params, v)
			return err
		})
	})
	return params, err
}

// fault reads the inside of fault.
func (d *decoder) fault(f *Fault) error {
	return d.children(func(e xml.StartElement) error {
		if e.Name.Local != "value" {
			return d.x.Skip()
		}
		v, err := d.value()
		members, _ := v.(Struct)
		for _, m := range members {
			switch m.Name {
			case "faultCode":
				if n, ok := m.Value.(int64); ok {
					f.Code = int(n)
				}
			case "faultString":
				f.Text, _ = Text(m.Value)
			}
		}
		return err
	})
}

// value reads the inside of value: an element that names a type, or bare text.
func (d *decoder) value() (v any, err error) {
	if d.depth++; d.depth > maxDepth {
		return nil, fmt.Errorf("values nested more than %d deep", maxDepth)
	}
	defer func() { d.depth-- }()
	var text strings.Builder
	typed := false
	for {
		t, err := d.x.Token()
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return nil, err
		}
		switch t := t.(type) {
		case xml.CharData:
			text.Write(t)
		case xml.StartElement:
			if typed {
				return nil, fmt.Errorf("a value with a second type, %s", t.Name.Local)
			}
			typed = true
			if v, err = d.typed(t.Name.Local); err != nil {
				return nil, err
			}
		case xml.EndElement:
			if !typed {
				return text.String(), nil
			}
			return v, nil
		}
	}
}

// typed reads the inside of the element that names a value's type.
func (d *decoder) typed(kind string) (any, error) {
	switch kind {
	case "array":
		return d.array()
	case "struct":
		return d.members()
	}
	text, err := d.text()
	if err != nil {
		return nil, err
	}
	trimmed := strings.TrimSpace(text)
	switch kind {
	case "nil":
		return nil, nil
	case "i1", "i2", "i4", "i8", "int", "biginteger":
		n, err := strconv.ParseInt(trimmed, 10, 64)
		if err != nil {
			return nil, fmt.Errorf("not an integer: %q", Cut(text))
		}
		return n, nil
	case "boolean":
		switch strings.ToLower(trimmed) {
		case "1", "true":
			return true, nil
		case "0", "false":
			return false, nil
		}
		return nil, fmt.Errorf("not a boolean: %q", Cut(text))
	case "double", "float":
		f, err := strconv.ParseFloat(trimmed, 64)
		if err != nil || math.IsInf(f, 0) || math.IsNaN(f) {
			return nil, fmt.Errorf("not a double: %q", Cut(text))
		}
		return f, nil
	case "base64":
		b, err := parseBase64(text)
		if err != nil {
			return nil, fmt.Errorf("base64: %w", err)
		}
		return b, nil
	case "dateTime.iso8601":
		for _, layout := range []string{dateLayout, "20060102T15:04:05Z", "2006-01-02T15:04:05", time.RFC3339} {
			if t, err := time.Parse(layout, trimmed); err == nil {
				return t, nil
			}
		}
		return nil, fmt.Errorf("not a date: %q", Cut(text))
	}
	// string, and what we don't know.
	return text, nil
}

func (d *decoder) array() (any, error) {
	items := []any{}
	err := d.children(func(e xml.StartElement) error {
		if e.Name.Local != "data" {
			return d.x.Skip()
		}
		return d.children(func(e xml.StartElement) error {
			if e.Name.Local != "value" {
				return d.x.Skip()
			}
			v, err := d.value()
			items = append(items, v)
			return err
		})
	})
	return items, err
}

func (d *decoder) members() (any, error) {
	members := Struct{}
	err := d.children(func(e xml.StartElement) error {
		if e.Name.Local != "member" {
			return d.x.Skip()
		}
		var m Member
		err := d.children(func(e xml.StartElement) (err error) {
			switch e.Name.Local {
			case "name":
				m.Name, err = d.text()
			case "value":
				m.Value, err = d.value()
			default:
				err = d.x.Skip()
			}
			return err
		})
		members = append(members, m)
		return err
	})
	return members, err
}

// Cut shortens a text that a client chose.
func Cut(s string) string {
	const limit = 60
	if len(s) > limit {
		return s[:limit] + "..."
	}
	return s
}
