package codec

import (
	"encoding/base64"
	"math"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// EncodeResponse writes a methodResponse, laid out as Python's library does.
func EncodeResponse(v any) []byte {
	b := []byte("<?xml version='1.0'?>\n<methodResponse>\n<params>\n<param>\n")
	b = appendValue(b, v)
	return append(b, "</param>\n</params>\n</methodResponse>\n"...)
}

// EncodeFault writes a methodResponse that is a fault.
func EncodeFault(f *Fault) []byte {
	b := []byte("<?xml version='1.0'?>\n<methodResponse>\n<fault>\n")
	b = appendValue(b, Struct{{"faultCode", int64(f.Code)}, {"faultString", f.Text}})
	return append(b, "</fault>\n</methodResponse>\n"...)
}

// EncodeCall writes a methodCall.
func EncodeCall(c Call) []byte {
	b := []byte("<?xml version='1.0'?>\n<methodCall>\n<methodName>")
	b = appendText(b, c.Method)
	b = append(b, "</methodName>\n<params>\n"...)
	for _, p := range c.Params {
		b = append(b, "<param>\n"...)
		b = appendValue(b, p)
		b = append(b, "</param>\n"...)
	}
	return append(b, "</params>\n</methodCall>\n"...)
}

func appendValue(b []byte, v any) []byte {
	b = append(b, "<value>"...)
	switch v := v.(type) {
	case nil:
		b = append(b, "<nil/>"...)
	case int64:
		// Old clients refuse an int that does not fit 32 bits; i8 they read.
		kind := "int"
		if v < math.MinInt32 || v > math.MaxInt32 {
			kind = "i8"
		}
		b = appendElement(b, kind, strconv.FormatInt(v, 10))
	case float64:
		b = appendElement(b, "double", formatDouble(v))
	case bool:
		text, _ := Text(v)
		b = appendElement(b, "boolean", text)
	case string:
		b = appendElement(b, "string", v)
	case []byte:
		b = appendElement(b, "base64", base64.StdEncoding.EncodeToString(v))
	case time.Time:
		b = appendElement(b, "dateTime.iso8601", v.Format(dateLayout))
	case []any:
		b = append(b, "<array><data>\n"...)
		for _, e := range v {
			b = appendValue(b, e)
		}
		b = append(b, "</data></array>"...)
	case Struct:
		b = append(b, "<struct>\n"...)
		for _, m := range v {
			b = append(b, "<member>\n"...)
			b = appendElement(b, "name", m.Name)
			b = append(b, '\n')
			b = appendValue(b, m.Value)
			b = append(b, "</member>\n"...)
		}
		b = append(b, "</struct>"...)
	}
	return append(b, "</value>\n"...)
}

func appendElement(b []byte, name, text string) []byte {
	b = append(append(append(b, '<'), name...), '>')
	b = appendText(b, text)
	return append(append(append(b, "</"...), name...), '>')
}

// escapes keep what XML gives a meaning to, and a CR, which a reader would take for a newline.
var escapes = strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;", "\r", "&#13;")

// appendText writes characters. Bytes that are no UTF-8 are taken for Latin-1; characters that XML can't
// carry become "?".
func appendText(b []byte, s string) []byte {
	if !utf8.ValidString(s) {
		s = string(latin1([]byte(s)))
	}
	s = strings.Map(func(c rune) rune {
		// XML 1.0, production 2.
		if c < 0x20 && c != '\t' && c != '\n' && c != '\r' || c == 0xfffe || c == 0xffff {
			return '?'
		}
		return c
	}, s)
	return append(b, escapes.Replace(s)...)
}
