package sxp

import (
	"fmt"
	"math"
	"slices"
)

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
	p.tokens = make([]token, 0, min(len(b)/4+1, 128))
	p.opens = make([]open, 0, 8)
	var values []Value
	read := 0
	for {
		v, ok, err := p.next()
		switch {
		case err != nil:
			return nil, err
		case ok:
			values = append(values, v)
		case p.final || p.state == ended:
			return values, nil
		default:
			// In chunks, so that a value that is too large ends it early.
			n := min(len(b)-read, chunkSize)
			if read > 0 {
				// The rest may be like what was read.
				values = slices.Grow(values, int(float64(len(values))*float64(len(b)-read)/float64(read)))
			}
			p.feed(string(b[read : read+n]))
			read += n
			p.final = read == len(b)
		}
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
	raw                    // in the p.number bytes that follow <*N*
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
	number int    // value of the digits; in raw the bytes that are to come
	delim  string // <delim<
	match  int    // bytes of delim matched

	// An outermost list is noted down as tokens, in the order of the text. Its
	// values are made when it ends: then their number is known, and what is
	// written until then has no pointers, which spares the garbage collector.
	tokens []token
	texts  []string // what tokens point into: chunks, and atoms that p.tok held
	chunk  int32    // which of them is src
	opens  []open
	built  int     // tokens made into values
	slab   []Value // room for values
}

// token is an atom or the beginning of a list.
type token struct {
	off  int
	n    int32 // length of an atom; of a list the complement of its length
	text int32 // the atom is texts[text][off:off+n]
}

// open is a list that is not closed yet.
type open struct {
	token        int // where it begins
	line, column int
}

func newParser(d Dialect, l Limits) *parser {
	p := &parser{class: &classes[d], d: d, depth: l.Depth, size: l.Size, line: 1}
	if p.depth == 0 {
		p.depth = MaxDepth
	}
	switch {
	case p.size == 0:
		p.size = MaxSize
	case p.size < 0:
		p.size = math.MaxInt32 // what a token holds
	}
	return p
}

// feed gives the parser the next chunk, after the one before was used up.
func (p *parser) feed(s string) {
	p.lineStart -= len(p.src)
	p.start -= len(p.src)
	p.src, p.pos = s, 0
	if len(p.opens) == 0 {
		p.texts = p.texts[:0]
	}
	p.chunk = int32(len(p.texts))
	p.texts = append(p.texts, s)
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
	return i-p.start > p.size
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
			at, done, err := p.resume(i)
			if err != nil {
				return Value{}, false, err
			}
			i = at
			if !done {
				return Value{}, false, p.used(i)
			}
			was := p.state
			p.state = between
			if was == comment {
				continue
			}
			if len(p.opens) == 0 {
				return p.outermost(string(p.tok), i)
			}
			p.add(token{0, int32(len(p.tok)), int32(len(p.texts))})
			p.texts = append(p.texts, string(p.tok))
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
				p.tokens = append(p.tokens[:0], token{n: ^0})
			} else {
				p.add(token{n: ^0})
			}
			p.opens = append(p.opens, open{len(p.tokens) - 1, p.line, i - p.lineStart + 1})
			i++

		case c == ')':
			n := len(p.opens)
			if n == 0 {
				return Value{}, false, p.fail(i, "syntax error: )")
			}
			i++
			if n > 1 {
				p.opens = p.opens[:n-1]
				continue
			}
			if p.tooLarge(i) {
				return Value{}, false, p.failLarge()
			}
			p.opens, p.pos = p.opens[:0], i
			return p.build(), true, nil

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
			if len(p.opens) == 0 {
				p.begin(i)
				return p.outermost(s[i+1:j], j+1)
			}
			p.add(token{i + 1, int32(j - i - 1), p.chunk})
			i = j + 1

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
			if len(p.opens) == 0 {
				p.begin(i)
				return p.outermost(s[i:j], j)
			}
			p.add(token{i, int32(j - i), p.chunk})
			i = j
		}
	}
}

// outermost returns the atom that ended at i and is in no list.
func (p *parser) outermost(text string, i int) (Value, bool, error) {
	p.pos = i
	if p.tooLarge(i) {
		return Value{}, false, p.failLarge()
	}
	return Atom(text), true, nil
}

// add notes an element of the innermost open list down.
func (p *parser) add(t token) {
	p.tokens[p.opens[len(p.opens)-1].token].n--
	p.tokens = append(p.tokens, t)
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

// build makes the values of the outermost list that was read.
func (p *parser) build() Value {
	n := len(p.tokens) - 1 // all but the list itself
	if cap(p.slab)-len(p.slab) < n {
		// About what the rest of the chunk needs, in portions that do not
		// keep much memory for the sake of one value.
		p.slab = make([]Value, 0, max(n, min((len(p.src)-p.pos)/4, 1024)))
	}
	p.built = 0
	return p.buildList()
}

// buildList makes the list that begins with the next token.
func (p *parser) buildList() Value {
	n := int(^p.tokens[p.built].n)
	p.built++
	at := len(p.slab)
	p.slab = p.slab[:at+n]
	items := p.slab[at : at+n : at+n]
	for i := range items {
		t := &p.tokens[p.built]
		if t.n < 0 {
			items[i] = p.buildList()
			continue
		}
		p.built++
		items[i] = Atom(p.texts[t.text][t.off : t.off+int(t.n)])
	}
	return List(items...)
}
