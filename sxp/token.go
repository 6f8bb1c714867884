package sxp

import (
	"fmt"
	"math"
	"strings"
)

// resume goes on, at i, with what the parser is in the middle of: a comment,
// or a token that is built byte by byte in p.tok. It returns where it stopped,
// and whether that was finished; if not, the chunk is used up.
func (p *parser) resume(i int) (int, bool, error) {
	s := p.src
	for {
		if p.state == raw && p.number == 0 {
			return i, true, nil
		}
		if i == len(s) || p.state == ended {
			done := p.final && (p.state == inAtom || p.state == angle)
			return len(s), done, nil
		}
		c := s[i]
		switch p.state {
		case comment:
			n := strings.IndexByte(s[i:], '\n')
			if n < 0 {
				return len(s), false, nil
			}
			return i + n, true, nil

		case inAtom:
			j := i
			for j < len(s) && p.class[s[j]]&endsAtom == 0 {
				j++
			}
			p.tok = append(p.tok, s[i:j]...)
			i = j
			if i < len(s) {
				return i, true, nil
			}

		case inString:
			j := i
			for j < len(s) && s[j] != p.quote && s[j] != '\\' {
				j++
			}
			p.take(i, j)
			i = j
			if i < len(s) {
				i++
				if s[j] == p.quote {
					return i, true, nil
				}
				p.state = escape
			}

		case escape:
			i++
			p.escaped(c, i)

		case hex:
			digit := hexDigit(c)
			switch {
			case digit >= 0:
				i++
				p.number, p.digits = p.number<<4|digit, p.digits+1
			case p.digits == 0:
				return i, false, p.fail(i, "invalid escape")
			}
			if digit < 0 || p.digits == 2 {
				p.tok, p.state = append(p.tok, byte(p.number)), inString
			}

		case octal:
			digit := c >= '0' && c <= '7'
			if digit {
				p.number, p.digits = p.number<<3|int(c-'0'), p.digits+1
				if p.number > 0o377 {
					return i, false, p.fail(i, fmt.Sprintf("invalid octal escape: out of range %o", p.number))
				}
				i++
			}
			if !digit || p.digits == 3 {
				p.tok, p.state = append(p.tok, byte(p.number)), inString
			}

		case angle:
			switch c {
			case '*':
				i++
				p.tok, p.number, p.digits, p.state = p.tok[:0], 0, 0, counted
			case '<':
				i++
				p.state = delimiter // p.tok begins with < already
			default:
				p.state = inAtom
			}

		case counted:
			switch {
			case c >= '0' && c <= '9':
				p.number, p.digits = p.number*10+int(c-'0'), p.digits+1
				if p.size > 0 && p.number > p.size {
					return i, false, p.failLarge()
				}
				if p.number > math.MaxInt/100 {
					return i, false, p.fail(i, "string length out of range")
				}
				i++
			case c == '*' && p.digits > 0:
				i++
				p.state = raw
			default:
				return i, false, p.fail(i, fmt.Sprintf("invalid character: code %d", c))
			}

		case raw:
			n := min(p.number, len(s)-i)
			p.take(i, i+n)
			i += n
			p.number -= n

		case delimiter:
			p.take(i, i+1)
			i++
			if c == '<' {
				p.delim, p.tok, p.match, p.state = string(p.tok), p.tok[:0], 0, delimited
			}

		case delimited:
			p.take(i, i+1)
			i++
			// Inside the delimiter there is no <, so that what does not
			// match can only be the beginning of it if it is a <.
			switch c {
			case p.delim[p.match]:
				p.match++
			case '<':
				p.match = 1
			default:
				p.match = 0
			}
			if p.match == len(p.delim) {
				p.tok = p.tok[:len(p.tok)-p.match]
				return i, true, nil
			}
		}
	}
}

// take adds src[i:j] to the token and counts its lines.
func (p *parser) take(i, j int) {
	part := p.src[i:j]
	p.tok = append(p.tok, part...)
	if n := strings.LastIndexByte(part, '\n'); n >= 0 {
		p.line += strings.Count(part, "\n")
		p.lineStart = i + n + 1
	}
}

// escaped takes the byte c, which ends before i, after a backslash.
func (p *parser) escaped(c byte, i int) {
	p.state = inString
	switch c {
	case 'a':
		c = '\a'
	case 'b':
		c = '\b'
	case 't':
		c = '\t'
	case 'n':
		c = '\n'
	case 'v':
		c = '\v'
	case 'f':
		c = '\f'
	case 'r':
		c = '\r'
	case '\\', '\'', '"':
	case 'x':
		p.number, p.digits, p.state = 0, 0, hex
		return
	case '0', '1', '2', '3', '4', '5', '6', '7':
		p.number, p.digits, p.state = int(c-'0'), 1, octal
		return
	default:
		// The original drops the byte and leaves a lone backslash.
		if c == '\n' {
			p.line++
			p.lineStart = i
		}
		c = '\\'
	}
	p.tok = append(p.tok, c)
}

// hexDigit returns the value of a hexadecimal digit, or -1.
func hexDigit(c byte) int {
	switch {
	case c >= '0' && c <= '9':
		return int(c - '0')
	case c >= 'a' && c <= 'f':
		return int(c-'a') + 10
	case c >= 'A' && c <= 'F':
		return int(c-'A') + 10
	}
	return -1
}
