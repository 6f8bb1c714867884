package pyfile

import (
	"strconv"
	"strings"
)

// Value is one of nil (None), bool, int64, float64, string, List and Dict.
type Value any

// List is a list or a tuple.
type List []Value

// Pair is an item of a Dict.
type Pair struct {
	Key   string
	Value Value
}

// Dict is a dictionary, in the order of the file.
type Dict []Pair

// Text returns a value as str() would; lists and dictionaries in brackets.
func Text(v Value) string {
	if s, ok := v.(string); ok {
		return s
	}
	return repr(v)
}

// maxText bounds what repr writes of nested values, in bytes.
const maxText = 1 << 20

func repr(v Value) string {
	var b strings.Builder
	appendRepr(&b, v)
	return b.String()
}

func appendRepr(b *strings.Builder, v Value) {
	if b.Len() > maxText {
		return
	}
	switch v := v.(type) {
	case nil:
		b.WriteString("None")
	case bool:
		if v {
			b.WriteString("True")
		} else {
			b.WriteString("False")
		}
	case int64:
		b.WriteString(strconv.FormatInt(v, 10))
	case float64:
		s := strconv.FormatFloat(v, 'g', 12, 64)
		if strings.Trim(s, "-0123456789") == "" {
			s += ".0"
		}
		b.WriteString(s)
	case string:
		b.WriteString(strings.ReplaceAll(strconv.Quote(v), `\"`, `"`))
	case List:
		b.WriteByte('[')
		for i, e := range v {
			if i > 0 {
				b.WriteString(", ")
			}
			appendRepr(b, e)
		}
		b.WriteByte(']')
	case Dict:
		b.WriteByte('{')
		for i, p := range v {
			if i > 0 {
				b.WriteString(", ")
			}
			appendRepr(b, p.Key)
			b.WriteString(": ")
			appendRepr(b, p.Value)
		}
		b.WriteByte('}')
	}
}

// size is what a value costs, in bytes or so, with everything in it.
func size(v Value, limit int) int {
	n := 8
	switch v := v.(type) {
	case string:
		n += len(v)
	case List:
		for _, e := range v {
			if n > limit {
				return n
			}
			n += size(e, limit-n)
		}
	case Dict:
		for _, p := range v {
			if n > limit {
				return n
			}
			n += len(p.Key) + size(p.Value, limit-n)
		}
	}
	return n
}

// typeName is what Python calls the type of a value.
func typeName(v Value) string {
	switch v.(type) {
	case nil:
		return "None"
	case bool:
		return "a truth value"
	case int64, float64:
		return "a number"
	case string:
		return "a string"
	case List:
		return "a list"
	}
	return "a dictionary"
}
