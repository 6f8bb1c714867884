// Package codec reads and writes XML-RPC as Python's library does, for the server and for the client.
package codec

import (
	"encoding/base64"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/xenvnet/xend/sxp"
)

// A value of XML-RPC is one of: nil, int64, float64, bool, string, []byte, time.Time, []any, and Struct.

// Member is a member of a Struct.
type Member struct {
	Name  string
	Value any
}

// Struct is a struct, with its members in the order in which they came.
type Struct []Member

// dateLayout is how dateTime.iso8601 is written, without a zone.
const dateLayout = "20060102T15:04:05"

// Text returns the text of a value that is no list, the way Python would print it; "" for nil.
func Text(v any) (string, bool) {
	switch v := v.(type) {
	case nil:
		return "", true
	case string:
		return v, true
	case int64:
		return strconv.FormatInt(v, 10), true
	case float64:
		return formatDouble(v), true
	case bool:
		if v {
			return "1", true
		}
		return "0", true
	case []byte:
		return string(v), true
	case time.Time:
		return v.Format(dateLayout), true
	}
	return "", false
}

// ToSXP returns a value as an S-expression: an array is a list, a struct a list of (name value).
func ToSXP(v any) sxp.Value {
	switch v := v.(type) {
	case []any:
		items := make([]sxp.Value, 0, len(v))
		for _, e := range v {
			items = append(items, ToSXP(e))
		}
		return sxp.List(items...)
	case Struct:
		items := make([]sxp.Value, 0, len(v))
		for _, m := range v {
			items = append(items, sxp.List(sxp.Atom(m.Name), ToSXP(m.Value)))
		}
		return sxp.List(items...)
	}
	text, _ := Text(v) // all others are atoms
	return sxp.Atom(text)
}

// Numbers say which atoms of a form are numbers, by the name of the field that they are the value of.
type Numbers map[string]func(string) any

// FromSXP returns an S-expression as nested arrays of strings, and of numbers where k says so.
func FromSXP(v sxp.Value, k Numbers) any {
	if v.IsAtom() {
		return v.Text()
	}
	number := k[v.Name()]
	items := make([]any, 0, v.Len())
	for i, e := range v.Items() {
		if i == 1 && number != nil && e.IsAtom() {
			items = append(items, number(e.Text()))
			continue
		}
		items = append(items, FromSXP(e, k))
	}
	return items
}

// Integer returns a number, or the text if it is none or does not fit XML-RPC's int.
func Integer(s string) any {
	if n, err := strconv.ParseInt(s, 10, 32); err == nil {
		return n
	}
	return s
}

// Double returns a number, or the text if it is none.
func Double(s string) any {
	if f, err := strconv.ParseFloat(s, 64); err == nil && !math.IsInf(f, 0) && !math.IsNaN(f) {
		return f
	}
	return s
}

// With returns k, with the same kind of number for several names.
func (k Numbers) With(number func(string) any, names ...string) Numbers {
	for _, n := range names {
		k[n] = number
	}
	return k
}

// Escape is how a result that is a string by itself is sent: the client evaluates it as the inside of a
// Python literal in single quotes.
func Escape(s string) string {
	const digits = "0123456789abcdef"
	var b strings.Builder
	for i := range len(s) {
		switch c := s[i]; {
		case c == '\\' || c == '\'':
			b.WriteByte('\\')
			b.WriteByte(c)
		case c == '\n':
			b.WriteString(`\n`)
		case c == '\r':
			b.WriteString(`\r`)
		case c == '\t':
			b.WriteString(`\t`)
		case c < 0x20 || c >= 0x7f:
			b.WriteString(`\x`)
			b.WriteByte(digits[c>>4])
			b.WriteByte(digits[c&15])
		default:
			b.WriteByte(c)
		}
	}
	return b.String()
}

// formatDouble writes a double without an exponent, which XML-RPC does not know.
func formatDouble(f float64) string {
	s := strconv.FormatFloat(f, 'f', -1, 64)
	if !strings.Contains(s, ".") {
		s += ".0"
	}
	return s
}

// parseBase64 reads base64 with line breaks and blanks anywhere.
func parseBase64(s string) ([]byte, error) {
	return base64.StdEncoding.DecodeString(strings.Join(strings.Fields(s), ""))
}

// Unescape undoes the escapes \\ \' \" \n \r \t \xNN of Escape and of the original; another backslash stands for
// itself.
func Unescape(s string) string {
	var out strings.Builder
	for {
		i := strings.IndexByte(s, '\\')
		if i < 0 || i+1 == len(s) {
			out.WriteString(s)
			return out.String()
		}
		out.WriteString(s[:i])
		n := 2
		switch s[i+1] {
		case '\\', '\'', '"':
			out.WriteByte(s[i+1])
		case 'n':
			out.WriteByte('\n')
		case 'r':
			out.WriteByte('\r')
		case 't':
			out.WriteByte('\t')
		default:
			if s[i+1] == 'x' && i+4 <= len(s) {
				if b, err := strconv.ParseUint(s[i+2:i+4], 16, 8); err == nil {
					out.WriteByte(byte(b))
					n = 4
					break
				}
			}
			out.WriteString(s[i : i+2])
		}
		s = s[i+n:]
	}
}
