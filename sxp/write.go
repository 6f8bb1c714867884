package sxp

// String returns v in canonical form, as Append writes it.
func (v Value) String() string { return string(Append(nil, v)) }

// Append adds v to dst in canonical form: lists with single blanks, an atom
// without quotes where it consists of letters, digits and .-_:/~ or is @, else
// quoted and escaped with '…', or with "…" if it has a ' and no ".
func Append(dst []byte, v Value) []byte { return appendValue(dst, v, false) }

// AppendSingleQuoted is Append for readers that know no other quotes than '…',
// such as libvirt's: a ' inside is always written \'.
func AppendSingleQuoted(dst []byte, v Value) []byte { return appendValue(dst, v, true) }

func appendValue(dst []byte, v Value, single bool) []byte {
	if v.IsAtom() {
		return appendAtom(dst, v.Text(), single)
	}
	dst = append(dst, '(')
	for i, item := range v.Items() {
		if i > 0 {
			dst = append(dst, ' ')
		}
		dst = appendValue(dst, item, single)
	}
	return append(dst, ')')
}

// bare tells whether an atom is written without quotes.
func bare(s string) bool {
	class := &classes[Xend]
	for i := range len(s) {
		if class[s[i]]&isBare == 0 {
			return s == "@"
		}
	}
	return s != ""
}

// quoteFor returns the quote that an atom is written with.
func quoteFor(s string, single bool) byte {
	quote := byte('\'')
	if single {
		return quote
	}
	for i := range len(s) {
		switch s[i] {
		case '\'':
			quote = '"'
		case '"':
			return '\''
		}
	}
	return quote
}

func appendAtom(dst []byte, s string, single bool) []byte {
	if bare(s) {
		return append(dst, s...)
	}
	const digits = "0123456789abcdef"
	quote := quoteFor(s, single)
	dst = append(dst, quote)
	for i := range len(s) {
		switch c := s[i]; {
		case c == quote || c == '\\':
			dst = append(dst, '\\', c)
		case c == '\n':
			dst = append(dst, '\\', 'n')
		case c == '\r':
			dst = append(dst, '\\', 'r')
		case c == '\t':
			dst = append(dst, '\\', 't')
		case c < 0x20 || c >= 0x7f:
			dst = append(dst, '\\', 'x', digits[c>>4], digits[c&15])
		default:
			dst = append(dst, c)
		}
	}
	return append(dst, quote)
}

// atomLen returns the length of an atom in canonical form.
func atomLen(s string) int {
	if bare(s) {
		return len(s)
	}
	quote := quoteFor(s, false)
	n := len(s) + 2
	for i := range len(s) {
		switch c := s[i]; {
		case c == quote || c == '\\' || c == '\n' || c == '\r' || c == '\t':
			n++
		case c < 0x20 || c >= 0x7f:
			n += 3
		}
	}
	return n
}
