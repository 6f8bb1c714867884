package sxp

import "io"

// indent is how far the elements of a broken list stand right of its bracket.
const indent = 4

// AppendPretty adds v to dst for people to read, ending in a newline. A list
// that fits between its column and width stays on one line; else each element
// after the first begins a line, and so does the closing bracket, below the
// opening one.
func AppendPretty(dst []byte, v Value, width int) []byte {
	p := printer{dst: dst, width: width}
	p.print(v)
	return p.dst
}

// WritePretty writes to w what AppendPretty appends, and holds no more of it
// than a part: deep lists have long margins.
func WritePretty(w io.Writer, v Value, width int) error {
	p := printer{w: w, width: width}
	p.print(v)
	p.flush(0)
	return p.err
}

// printer prints one value.
type printer struct {
	dst   []byte
	w     io.Writer // nil: dst takes all
	err   error     // of w
	width int
	lists []extent // of every list, in the order of opening brackets
	at    int      // the next list in it
}

// extent is the size of a list.
type extent struct {
	flat  int // length on one line
	lists int // lists in it, itself included
}

func (p *printer) print(v Value) {
	p.measure(v)
	p.value(v, 0)
	p.dst = append(p.dst, '\n')
}

// measure returns the length of v on one line and fills in p.lists, so that
// every list is measured once.
func (p *printer) measure(v Value) int {
	if v.IsAtom() {
		return atomLen(v.Text())
	}
	at := len(p.lists)
	p.lists = append(p.lists, extent{})
	n := len("()") + max(len(v.Items())-1, 0)
	for _, item := range v.Items() {
		n += p.measure(item)
	}
	p.lists[at] = extent{n, len(p.lists) - at}
	return n
}

// value prints v at a column.
func (p *printer) value(v Value, column int) {
	if p.flush(chunkSize); p.err != nil {
		return
	}
	if v.IsAtom() {
		p.dst = Append(p.dst, v)
		return
	}
	size := p.lists[p.at]
	if column+size.flat <= p.width {
		p.at += size.lists
		p.dst = Append(p.dst, v)
		return
	}
	p.at++
	p.dst = append(p.dst, '(')
	for i, item := range v.Items() {
		if i == 0 {
			p.value(item, column+1)
			continue
		}
		p.newline(column + indent)
		p.value(item, column+indent)
	}
	p.newline(column)
	p.dst = append(p.dst, ')')
}

func (p *printer) newline(column int) {
	const blanks = "                                                                "
	p.dst = append(p.dst, '\n')
	for ; column > len(blanks); column -= len(blanks) {
		p.dst = append(p.dst, blanks...)
	}
	p.dst = append(p.dst, blanks[:column]...)
}

// flush writes what has come together if it is more than limit.
func (p *printer) flush(limit int) {
	if p.w == nil || p.err != nil || len(p.dst) <= limit {
		return
	}
	_, p.err = p.w.Write(p.dst)
	p.dst = p.dst[:0]
}
