package pyfile

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// binary computes v o w. In a branch that does not count, mistakes don't, either.
func (p *parser) binary(o string, v, w Value) (Value, error) {
	result, err := p.compute(o, v, w)
	if err != nil {
		if p.dry {
			return "", nil
		}
		return nil, err
	}
	return p.spend(result)
}

func (p *parser) compute(o string, v, w Value) (Value, error) {
	mismatch := func() error {
		cure := ""
		if o == "+" {
			cure = "; write str(…) around the one that is no string"
		}
		return p.fail("%s %s %s makes no sense%s", typeName(v), o, typeName(w), cure)
	}
	if b, ok := w.(bool); ok {
		w = map[bool]int64{true: 1}[b]
	}
	switch a := v.(type) {
	case bool:
		return p.compute(o, map[bool]int64{true: 1}[a], w)
	case string:
		switch o {
		case "%":
			return p.format(a, w)
		case "+":
			if b, ok := w.(string); ok {
				if err := p.afford(len(a) + len(b)); err != nil {
					return nil, err
				}
				return a + b, nil
			}
		case "*":
			if n, ok := w.(int64); ok {
				return p.repeat(a, n)
			}
		}
	case List:
		if b, ok := w.(List); ok && o == "+" {
			if err := p.afford(8 * (len(a) + len(b))); err != nil {
				return nil, err
			}
			return append(append(make(List, 0, len(a)+len(b)), a...), b...), nil
		}
		if n, ok := w.(int64); ok && o == "*" {
			n = max(0, n)
			if n > 0 && int64(len(a)) > maxItems/n {
				return nil, p.fail("the values get too long")
			}
			list := List{}
			for range n {
				list = append(list, a...)
			}
			return list, nil
		}
	case int64:
		switch b := w.(type) {
		case int64:
			return p.integers(o, a, b)
		case float64:
			return p.floats(o, float64(a), b)
		case string, List:
			if o == "*" {
				return p.compute(o, b, a)
			}
		}
	case float64:
		switch b := w.(type) {
		case int64:
			return p.floats(o, a, float64(b))
		case float64:
			return p.floats(o, a, b)
		}
	}
	return nil, mismatch()
}

// afford tells whether a value of n bytes may be made.
func (p *parser) afford(n int) error {
	if n > maxWork-p.work {
		return p.fail("the values get too long")
	}
	return nil
}

func (p *parser) repeat(s string, n int64) (Value, error) {
	n = max(0, n)
	if n > 0 && int64(len(s)) > MaxSize/n {
		return nil, p.fail("the values get too long")
	}
	return strings.Repeat(s, int(n)), nil
}

func (p *parser) integers(o string, a, b int64) (Value, error) {
	const most = 1 << 53
	var r int64
	switch o {
	case "+":
		r = a + b
	case "-":
		r = a - b
	case "*":
		if a != 0 && (a*b/a != b || a == -1 && b == math.MinInt64) {
			return nil, p.fail("the number gets too large")
		}
		r = a * b
	default:
		if b == 0 {
			return nil, p.fail("division by zero")
		}
		// As Python: rounded down.
		q, m := a/b, a%b
		if m != 0 && (m < 0) != (b < 0) {
			q, m = q-1, m+b
		}
		if r = q; o == "%" {
			r = m
		}
	}
	if r > most || r < -most {
		return nil, p.fail("the number gets too large")
	}
	return r, nil
}

func (p *parser) floats(o string, a, b float64) (Value, error) {
	var r float64
	switch o {
	case "+":
		r = a + b
	case "-":
		r = a - b
	case "*":
		r = a * b
	default:
		if b == 0 {
			return nil, p.fail("division by zero")
		}
		switch o {
		case "/":
			r = a / b
		case "//":
			r = math.Floor(a / b)
		default:
			r = a - b*math.Floor(a/b)
		}
	}
	if math.IsInf(r, 0) || math.IsNaN(r) {
		return nil, p.fail("the number gets too large")
	}
	return r, nil
}

// maxWidth bounds a width or a precision in a format.
const maxWidth = 1000

// format computes "…%s…" % values.
func (p *parser) format(s string, values Value) (Value, error) {
	list, many := values.(List)
	if !many {
		list = List{values}
	}
	used := 0
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '%' {
			b.WriteByte(s[i])
			continue
		}
		if i++; i < len(s) && s[i] == '%' {
			b.WriteByte('%')
			continue
		}
		var v Value
		named := i < len(s) && s[i] == '('
		if named {
			key, _, ok := strings.Cut(s[i+1:], ")")
			d, isDict := values.(Dict)
			if !ok || !isDict {
				return nil, p.fail("%%(…) in a format needs a dictionary behind the %%")
			}
			found := false
			for _, item := range d {
				if item.Key == key {
					v, found = item.Value, true
				}
			}
			if !found {
				return nil, p.fail("the dictionary has no %s", cut(strconv.Quote(key)))
			}
			i += len(key) + 2
		}
		from := i
		for i < len(s) && strings.IndexByte("-+ #0", s[i]) >= 0 {
			i++
		}
		flags := s[from:i]
		from = i
		for i < len(s) && (digit(s[i]) || s[i] == '.') {
			i++
		}
		spec := s[from:i]
		width, precision, _ := strings.Cut(spec, ".")
		for _, n := range []string{width, precision} {
			if n, err := strconv.Atoi("0" + n); err != nil || n > maxWidth {
				return nil, p.fail("a width in a format is larger than %d", maxWidth)
			}
		}
		for i < len(s) && strings.IndexByte("hlL", s[i]) >= 0 {
			i++
		}
		if i >= len(s) {
			return nil, p.fail("a format ends after its %%; write %%%% for a percent sign")
		}
		if !named {
			if used >= len(list) {
				return nil, p.fail("the format has more %% than values")
			}
			v = list[used]
			used++
		}
		text, err := p.conversion(s[i], flags, spec, v)
		if err != nil {
			return nil, err
		}
		b.WriteString(text)
		if err := p.afford(b.Len()); err != nil {
			return nil, err
		}
	}
	if _, d := values.(Dict); !d && used < len(list) {
		return nil, p.fail("the format has fewer %% than values")
	}
	return b.String(), nil
}

func (p *parser) conversion(c byte, flags, width string, v Value) (string, error) {
	verb := "%" + flags + width
	if b, ok := v.(bool); ok && c != 's' && c != 'r' {
		v = map[bool]int64{true: 1}[b]
	}
	switch c {
	case 's', 'r':
		text := Text(v)
		if c == 'r' {
			text = repr(v)
		}
		left := ""
		if strings.Contains(flags, "-") {
			left = "-"
		}
		return fmt.Sprintf("%"+left+width+"s", text), nil
	case 'd', 'i', 'u', 'x', 'X', 'o', 'c':
		if f, ok := v.(float64); ok && math.Abs(f) < 1<<53 {
			v = int64(f)
		}
		n, ok := v.(int64)
		if !ok {
			if s, ok := v.(string); ok && c == 'c' && len(s) == 1 {
				return s, nil
			}
			return "", p.fail("%%%c in a format needs a number, not %s", c, typeName(v))
		}
		if c == 'i' || c == 'u' {
			c = 'd'
		}
		return fmt.Sprintf(verb+string(c), n), nil
	case 'f', 'F', 'e', 'E', 'g', 'G':
		if n, ok := v.(int64); ok {
			v = float64(n)
		}
		f, ok := v.(float64)
		if !ok {
			return "", p.fail("%%%c in a format needs a number, not %s", c, typeName(v))
		}
		return fmt.Sprintf(verb+string(c), f), nil
	}
	return "", p.fail("%%%c is not known in a format; write %%%% for a percent sign", c)
}
