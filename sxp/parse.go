package sxp

import "fmt"

// Limits for what comes from outside.
const (
	MaxDepth = 1000    // lists within lists
	MaxSize  = 1 << 20 // bytes of one value as it is written
)

// Limits bounds what a parser accepts. A zero field means the default,
// MaxDepth or MaxSize; a negative one that there is no bound.
type Limits struct {
	Depth int // lists within lists
	Size  int // bytes of one outermost value, as written
}

// SyntaxError says what is wrong with a text, and where.
type SyntaxError struct {
	Line, Column int    // from 1; the column counts bytes
	Text         string // what is wrong, such as "unexpected EOF"

	// Open names what was not closed, "list" or "string", if the text ended
	// too early, and OpenLine and OpenColumn say where it began.
	Open                 string
	OpenLine, OpenColumn int
}

// Error returns the text and the position.
func (e *SyntaxError) Error() string {
	s := fmt.Sprintf("%s (line %d, column %d)", e.Text, e.Line, e.Column)
	if e.Open != "" {
		s += fmt.Sprintf(": the %s that begins at line %d, column %d is not closed", e.Open, e.OpenLine, e.OpenColumn)
	}
	return s
}

// Parse reads all values in b, which it does not keep. After an error, which
// is a *SyntaxError, it returns no values.
func Parse(b []byte, d Dialect) ([]Value, error) {
	return ParseLimited(b, d, Limits{})
}

// ParseLimited is Parse with other limits than the default.
func ParseLimited(b []byte, d Dialect, l Limits) ([]Value, error) {
	p := newParser(d, l)
	p.feed(string(b))
	p.final = true
	var values []Value
	for {
		v, ok, err := p.next()
		if err != nil {
			return nil, err
		}
		if !ok {
			return values, nil
		}
		values = append(values, v)
	}
}

// state is what the parser is in the middle of where a chunk ends.
type state uint8

const (
	between   state = iota // values
	comment                // to the end of the line
	inAtom                 // an atom
	inString               // '…' or "…"
	escape                 // after a backslash
	hex                    // after \x, p.digits digits read
	octal                  // after \ and p.digits octal digits
	angle                  // after < in the C dialect
	counted                // in the number of <*N*
	raw                    // in the p.count bytes that follow <*N*
	delimiter              // in the delim of <<delim<
	delimited              // in the text up to <delim<
	ended                  // ctrl-D was read
)

// parser reads values from a text that comes in chunks. Atoms become substrings
// of their chunk where they can.
type parser struct {
	class *[256]uint8
	d     Dialect
	depth int // limit
	size  int // limit

	src   string // the chunk
	pos   int    // in src
	final bool   // no chunk follows
	err   error

	// Positions, in bytes from the beginning of src; before it they are negative.
	line      int // the current line, from 1
	lineStart int // where it begins
	start     int // of the outermost value being read, if any
	tokLine   int // line and column of the token being read
	tokColumn int

	state  state
	tok    []byte // what was read of a token that goes over chunks or has escapes
	quote  byte
	digits int
	number int
	count  int
	delim  string // <delim<
	match  int    // bytes of delim matched

	stack []Value // elements of the lists that are open
	opens []open
	slab  []Value // room for elements of closed lists
}

// open is a list that is not closed yet.
type open struct {
	first        int // its first element in the stack
	line, column int
}

func newParser(d Dialect, l Limits) *parser {
	p := &parser{class: &classes[d], d: d, depth: l.Depth, size: l.Size, line: 1}
	if p.depth == 0 {
		p.depth = MaxDepth
	}
	if p.size == 0 {
		p.size = MaxSize
	}
	return p
}

// feed gives the parser the next chunk, after the one before was used up.
func (p *parser) feed(s string) {
	p.lineStart -= len(p.src)
	p.start -= len(p.src)
	p.src, p.pos = s, 0
}

// inValue tells whether a value has begun and not ended.
func (p *parser) inValue() bool {
	return len(p.opens) > 0 || p.state >= inAtom && p.state <= delimited
}

// fail makes the error for position i in the chunk. A value that is too large
// is always told as that, where it begins, whatever else is wrong with it: so
// the error does not depend on how the text was cut.
func (p *parser) fail(i int, text string) error {
	if p.inValue() && p.tooLarge(i) {
		return p.failLarge()
	}
	e := &SyntaxError{Line: p.line, Column: i - p.lineStart + 1, Text: text}
	p.err = e
	if text == unexpectedEOF {
		if n := len(p.opens); p.state >= inString && p.state <= delimited {
			e.Open, e.OpenLine, e.OpenColumn = "string", p.tokLine, p.tokColumn
		} else if n > 0 {
			e.Open, e.OpenLine, e.OpenColumn = "list", p.opens[n-1].line, p.opens[n-1].column
		}
	}
	return e
}

const unexpectedEOF = "unexpected EOF"

// failLarge makes the error for an outermost value that is too large.
func (p *parser) failLarge() error {
	e := &SyntaxError{Line: p.tokLine, Column: p.tokColumn, Text: fmt.Sprintf("value larger than %d bytes", p.size)}
	if len(p.opens) > 0 {
		e.Line, e.Column = p.opens[0].line, p.opens[0].column
	}
	p.err = e
	return e
}

// tooLarge tells whether the outermost value, read up to i, is over the limit.
func (p *parser) tooLarge(i int) bool {
	return p.size > 0 && i-p.start > p.size
}

// begin notes that a token begins at i, and with it maybe an outermost value.
func (p *parser) begin(i int) {
	if len(p.opens) == 0 {
		p.start = i
	}
	p.tokLine, p.tokColumn = p.line, i-p.lineStart+1
}

// next returns the next outermost value. ok is false if the chunk holds no
// further one: it is used up then, or the input has ended.
func (p *parser) next() (v Value, ok bool, err error) {
	if p.err != nil {
		return Value{}, false, p.err
	}
	s, i, class := p.src, p.pos, p.class
	for {
		if p.state != between {
			// In the middle of a token, of this chunk or of one before.
			done := false
			if i, done, err = p.resume(i); err != nil {
				return Value{}, false, err
			}
			if !done {
				return Value{}, false, p.used(i)
			}
			was := p.state
			p.state = between
			if was == comment {
				continue
			}
			if v, ok, err = p.atom(string(p.tok), i); ok || err != nil {
				return v, ok, err
			}
			continue
		}
		for i < len(s) && class[s[i]]&isSpace != 0 {
			if s[i] == '\n' {
				p.line++
				p.lineStart = i + 1
			}
			i++
		}
		if i == len(s) {
			return Value{}, false, p.used(i)
		}
		switch c := s[i]; {
		case c == '(':
			if p.depth > 0 && len(p.opens) == p.depth {
				return Value{}, false, p.fail(i, fmt.Sprintf("lists nested more than %d deep", p.depth))
			}
			if len(p.opens) == 0 {
				p.start = i
			}
			p.opens = append(p.opens, open{len(p.stack), p.line, i - p.lineStart + 1})
			i++

		case c == ')':
			n := len(p.opens)
			if n == 0 {
				return Value{}, false, p.fail(i, "syntax error: )")
			}
			i++
			first := p.opens[n-1].first
			v = Value{items: p.keep(p.stack[first:])}
			p.stack = p.stack[:first]
			if n == 1 {
				if p.tooLarge(i) {
					return Value{}, false, p.failLarge()
				}
				p.opens = p.opens[:0]
				p.pos = i
				return v, true, nil
			}
			p.opens = p.opens[:n-1]
			p.stack = append(p.stack, v)

		case c == '#':
			p.state = comment

		case c == ctrlD:
			p.pos = i
			if len(p.opens) > 0 {
				return Value{}, false, p.fail(i, unexpectedEOF)
			}
			p.state = ended

		case c == '"' || c == '\'':
			j := i + 1
			for j < len(s) && s[j] != c && s[j] != '\\' && s[j] != '\n' {
				j++
			}
			if j == len(s) || s[j] != c {
				p.begin(i)
				p.tok, p.quote, p.state = append(p.tok[:0], s[i+1:j]...), c, inString
				i = j
				continue
			}
			if len(p.opens) > 0 {
				p.stack = append(p.stack, Value{text: s[i+1 : j]})
				i = j + 1
				continue
			}
			p.begin(i)
			i = j + 1
			return p.atom(s[p.start+1:j], i)

		case class[c]&isStart == 0:
			return Value{}, false, p.fail(i, fmt.Sprintf("invalid character: code %d", c))

		case c == '<' && p.d == C:
			p.begin(i)
			p.tok, p.state = append(p.tok[:0], c), angle
			i++

		default:
			j := i + 1
			for j < len(s) && class[s[j]]&endsAtom == 0 {
				j++
			}
			if j == len(s) && !p.final {
				p.begin(i)
				p.tok, p.state = append(p.tok[:0], s[i:]...), inAtom
				i = j
				continue
			}
			if len(p.opens) > 0 {
				p.stack = append(p.stack, Value{text: s[i:j]})
				i = j
				continue
			}
			p.begin(i)
			return p.atom(s[i:j], j)
		}
	}
}

// atom puts an atom that ended at i where it belongs: it is an element of the
// innermost open list, or an outermost value.
func (p *parser) atom(text string, i int) (v Value, ok bool, err error) {
	v = Value{text: text}
	if len(p.opens) > 0 {
		p.stack = append(p.stack, v)
		return Value{}, false, nil
	}
	p.pos = i
	if p.tooLarge(i) {
		return Value{}, false, p.failLarge()
	}
	return v, true, nil
}

// used ends work on a chunk that is read to its end, i. After the last one
// nothing may be open.
func (p *parser) used(i int) error {
	p.pos = i
	if p.inValue() && (p.final || p.tooLarge(i)) {
		return p.fail(i, unexpectedEOF)
	}
	return nil
}

// keep copies the elements of a list that was closed to where they stay.
func (p *parser) keep(elements []Value) []Value {
	n := len(elements)
	if n == 0 {
		return empty
	}
	if cap(p.slab)-len(p.slab) < n {
		p.slab = make([]Value, 0, max(n, p.slabSize()))
	}
	at := len(p.slab)
	p.slab = append(p.slab, elements...)
	return p.slab[at : at+n : at+n]
}

// slabSize is the room to make for elements: about what the rest of the chunk
// needs, in portions that do not keep much memory for the sake of one value.
func (p *parser) slabSize() int {
	return min((len(p.src)-p.pos)/4, 1024)
}
