package sxp

import (
	"errors"
	"io"
)

// chunkSize is how much a Decoder reads at once.
const chunkSize = 64 << 10

// Decoder reads values from a stream, each as soon as its last byte has come
// (an outermost atom without quotes: as soon as the byte after it has come).
type Decoder struct {
	r     io.Reader
	p     *parser
	chunk []byte
	err   error // of r, told once the bytes before it are used up
	empty int   // reads in a row that brought nothing
}

// NewDecoder returns a decoder for what r delivers. It reads ahead.
func NewDecoder(r io.Reader, d Dialect) *Decoder {
	return &Decoder{r: r, p: newParser(d, Limits{})}
}

// SetLimits replaces the default limits. To be called before the first Decode.
func (d *Decoder) SetLimits(l Limits) {
	p := newParser(d.p.d, l)
	d.p.depth, d.p.size = p.depth, p.size
}

// Decode returns the next value. The error is io.EOF at the end of the input,
// a *SyntaxError if the input is wrong, else the reader's. After an error
// every call returns it again.
func (d *Decoder) Decode() (Value, error) {
	for {
		v, ok, err := d.p.next()
		if ok || err != nil {
			return v, err
		}
		if d.p.state == ended || d.p.final {
			return Value{}, io.EOF
		}
		if d.err != nil {
			if !errors.Is(d.err, io.EOF) {
				return Value{}, d.err
			}
			d.p.feed("")
			d.p.final = true
			continue
		}
		d.read()
	}
}

// Buffered returns what was read ahead: after Decode returned a value, what
// follows it as far as it has come.
func (d *Decoder) Buffered() string { return d.p.src[d.p.pos:] }

// read feeds the parser what the reader delivers next.
func (d *Decoder) read() {
	if d.chunk == nil {
		d.chunk = make([]byte, chunkSize)
	}
	n, err := d.r.Read(d.chunk)
	d.err = err
	d.p.feed(string(d.chunk[:n]))
	if d.empty++; n > 0 {
		d.empty = 0
	}
	if d.err == nil && d.empty == 100 {
		d.err = io.ErrNoProgress
	}
}
