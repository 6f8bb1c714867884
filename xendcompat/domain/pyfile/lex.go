package pyfile

import (
	"strconv"
	"strings"
	"unicode/utf8"
)

type kind int

const (
	end     kind = iota // of the file
	newline             // of a statement
	name
	number
	text // a string, text is its value
	op
)

type token struct {
	kind   kind
	text   string
	line   int
	indent int  // of the line, in columns, for the first token of a statement
	start  bool // first of a statement's line
	form   bool // of a text: f"…"
}

// lexer cuts a file into tokens. Within brackets, ends of lines are blanks.
type lexer struct {
	file  string
	s     string
	at    int
	line  int
	depth int // of brackets
	fresh bool
}

func (l *lexer) errorf(line int, format string, args ...any) error {
	return errorAt(l.file, line, format, args...)
}

// skip passes over blanks, comments, and continued lines; it returns the column where the token begins on a new line.
func (l *lexer) skip() (indent int) {
	for l.at < len(l.s) {
		switch c := l.s[l.at]; {
		case c == ' ':
			indent++
		case c == '\t':
			indent = (indent/8 + 1) * 8
		case c == '\r' || c == '\f':
		case c == '#':
			for l.at < len(l.s) && l.s[l.at] != '\n' {
				l.at++
			}
			continue
		case c == '\\' && l.at+1 < len(l.s) && l.s[l.at+1] == '\n':
			l.at++
			l.line++
		case c == '\\' && strings.HasPrefix(l.s[l.at:], "\\\r\n"):
			l.at += 2
			l.line++
		case c == '\n' && (l.depth > 0 || l.fresh):
			l.line++
			indent = 0
		default:
			return indent
		}
		l.at++
	}
	return indent
}

func letter(c byte) bool {
	return c == '_' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || c >= 0x80
}
func digit(c byte) bool { return '0' <= c && c <= '9' }

func (l *lexer) next() (token, error) {
	indent := l.skip()
	t := token{line: l.line, indent: indent, start: l.fresh}
	if l.at >= len(l.s) {
		if l.depth > 0 {
			return t, l.errorf(l.line, "the file ends within brackets: one of ( [ { is not closed")
		}
		if !l.fresh {
			l.fresh = true
			t.kind = newline
			return t, nil
		}
		t.kind = end
		return t, nil
	}
	c := l.s[l.at]
	if c == '\n' {
		l.at++
		l.line++
		l.fresh = true
		t.kind = newline
		return t, nil
	}
	l.fresh = false
	switch {
	case letter(c):
		from := l.at
		for l.at < len(l.s) && (letter(l.s[l.at]) || digit(l.s[l.at])) {
			l.at++
		}
		t.kind, t.text = name, l.s[from:l.at]
		if l.at < len(l.s) && (l.s[l.at] == '\'' || l.s[l.at] == '"') && len(t.text) <= 2 {
			prefix := strings.ToLower(t.text)
			if strings.Trim(prefix, "rubf") == "" {
				return l.str(t, strings.Contains(prefix, "r"), strings.Contains(prefix, "f"))
			}
		}
		return t, nil
	case digit(c) || c == '.' && l.at+1 < len(l.s) && digit(l.s[l.at+1]):
		from := l.at
		for l.at < len(l.s) && (letter(l.s[l.at]) || digit(l.s[l.at]) || l.s[l.at] == '.' ||
			(l.s[l.at] == '-' || l.s[l.at] == '+') && strings.ContainsAny(l.s[l.at-1:l.at], "eE") && !strings.HasPrefix(l.s[from:], "0x")) {
			l.at++
		}
		t.kind, t.text = number, l.s[from:l.at]
		return t, nil
	case c == '\'' || c == '"':
		return l.str(t, false, false)
	}
	for _, o := range []string{"**=", "//=", ">>=", "<<=", "+=", "-=", "*=", "/=", "%=", "==", "!=", "<=", ">=", "**", "//", "<<", ">>", "->", "|=", "&="} {
		if strings.HasPrefix(l.s[l.at:], o) {
			l.at += len(o)
			t.kind, t.text = op, o
			return t, nil
		}
	}
	if strings.IndexByte("()[]{}=,+-*/%:.;<>@|&^~`!", c) < 0 {
		r, _ := utf8.DecodeRuneInString(l.s[l.at:])
		return t, l.errorf(l.line, "unexpected character %q", r)
	}
	switch c {
	case '(', '[', '{':
		l.depth++
	case ')', ']', '}':
		if l.depth == 0 {
			return t, l.errorf(l.line, "%c closes nothing", c)
		}
		l.depth--
	}
	l.at++
	t.kind, t.text = op, string(c)
	return t, nil
}

// str reads a string, from its quote.
func (l *lexer) str(t token, raw, form bool) (token, error) {
	quote := l.s[l.at : l.at+1]
	if strings.HasPrefix(l.s[l.at:], quote+quote+quote) {
		quote += quote + quote
	}
	l.at += len(quote)
	begin := l.line
	var b strings.Builder
	for {
		switch {
		case l.at >= len(l.s):
			return t, l.errorf(begin, "the string that begins here is not closed: %s is missing", quote)
		case strings.HasPrefix(l.s[l.at:], quote):
			l.at += len(quote)
			t.kind, t.text, t.form = text, b.String(), form
			return t, nil
		case l.s[l.at] == '\n' && len(quote) == 1:
			return t, l.errorf(begin, "the string that begins here is not closed: %s is missing at the end of the line", quote)
		case l.s[l.at] == '\\' && l.at+1 < len(l.s):
			if l.s[l.at+1] == '\n' {
				l.line++
			}
			if raw {
				b.WriteString(l.s[l.at : l.at+2])
				l.at += 2
				continue
			}
			if err := l.escape(&b); err != nil {
				return t, err
			}
			continue
		case l.s[l.at] == '\n':
			l.line++
		}
		b.WriteByte(l.s[l.at])
		l.at++
	}
}

// escape reads an escape in a string. An unknown one is the two characters, as in Python.
func (l *lexer) escape(b *strings.Builder) error {
	c := l.s[l.at+1]
	l.at += 2
	if i := strings.IndexByte("\\'\"abfnrtv", c); i >= 0 {
		b.WriteByte("\\'\"\a\b\f\n\r\t\v"[i])
		return nil
	}
	switch {
	case c == '\n':
	case c == 'x':
		if l.at+2 > len(l.s) {
			return l.errorf(l.line, `\x needs two hexadecimal digits`)
		}
		n, err := strconv.ParseUint(l.s[l.at:l.at+2], 16, 8)
		if err != nil {
			return l.errorf(l.line, `\x needs two hexadecimal digits`)
		}
		b.WriteByte(byte(n))
		l.at += 2
	case '0' <= c && c <= '7':
		n := int(c - '0')
		for range 2 {
			if l.at < len(l.s) && '0' <= l.s[l.at] && l.s[l.at] <= '7' {
				n = n*8 + int(l.s[l.at]-'0')
				l.at++
			}
		}
		b.WriteByte(byte(n))
	default:
		b.WriteByte('\\')
		b.WriteByte(c)
	}
	return nil
}
