package sxp_test

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/require"

	"github.com/xenvnet/xend/sxp"
)

// lines writes values one per line.
func lines(values []sxp.Value) string {
	var b []byte
	for _, v := range values {
		b = append(sxp.Append(b, v), '\n')
	}
	return string(b)
}

func TestParseC(t *testing.T) {
	for _, test := range []struct{ name, input, want string }{
		{"command", "(vnet.add (id 97) (vnetif vnif97))", "(vnet.add (id 97) (vnetif vnif97))\n"},
		{"several", "(vnet.add (id 97))(vnet.list)", "(vnet.add (id 97))\n(vnet.list)\n"},
		{"quotes end atoms", `a"b"'c'`, "a\nb\nc\n"},
		{"exclamation mark", "a!b !", "a\n'!b'\n'!'\n"},
		{"VT in an atom", "a\vb", "'a\\x0bb'\n"},
		{"comment", "a#b\nc", "a\nc\n"},
		{"escapes", `"\x41\101\q\'"`, "\"AA\\\\'\"\n"},
		{"counted", "(a <*5*) (\"\n b)", "(a ') (\"\\n' b)\n"},
		{"counted, exactly", "<*3*abcd", "abc\nd\n"},
		{"counted, empty", "(<*0*)", "('')\n"},
		{"counted, empty, at the end", "<*0*", "''\n"},
		{"delimited", "(a <<end<text ) <end <end< b)", "(a 'text ) <end ' b)\n"},
		{"delimited, empty text", "<<x<<x<", "''\n"},
		{"delimited, empty delimiter", "<<<a<b<<", "'a<b'\n"},
		{"delimited, false starts", "<<ab<<a<ab<", "'<a'\n"},
		{"delimited, < before the end", "<<ab<<<ab<", "'<'\n"},
		{"angles", "< <a <> a<b", "'<'\n'<a'\n'<'\n'>'\na\n'<b'\n"},
		{"lone angle", "<", "'<'\n"},
		{"ctrl-D", "(a)\x04(b", "(a)\n"},
	} {
		t.Run(test.name, func(t *testing.T) {
			values, err := sxp.Parse([]byte(test.input), sxp.C)
			require.NoError(t, err)
			require.Equal(t, test.want, lines(values))
		})
	}
}

func TestErrors(t *testing.T) {
	deep := strings.Repeat("(", 1000)
	for _, test := range []struct {
		name, input string
		d           sxp.Dialect
		want        string
	}{
		{"closing bracket", "(a)\n (b))", sxp.Xend, "syntax error: ) (line 2, column 5)"},
		{"first byte", ")", sxp.Xend, "syntax error: ) (line 1, column 1)"},
		{"character", "(a\n\x01)", sxp.Xend, "invalid character: code 1 (line 2, column 1)"},
		{"character after a comment", "# x\n\xe9", sxp.Xend, "invalid character: code 233 (line 2, column 1)"},
		{"hex", "(a \"b\\xg\")", sxp.Xend, "invalid escape (line 1, column 8)"},
		{"octal", "\"\n\\400\"", sxp.Xend, "invalid octal escape: out of range 400 (line 2, column 4)"},
		{"list", "(a\n  (b c", sxp.Xend, "unexpected EOF (line 2, column 7): the list that begins at line 2, column 3 is not closed"},
		{"outer list", "(a\n  (b c)\n", sxp.Xend, "unexpected EOF (line 3, column 1): the list that begins at line 1, column 1 is not closed"},
		{"list and comment", "(a # b)", sxp.Xend, "unexpected EOF (line 1, column 8): the list that begins at line 1, column 1 is not closed"},
		{"list and ctrl-D", "(a \x04)", sxp.Xend, "unexpected EOF (line 1, column 4): the list that begins at line 1, column 1 is not closed"},
		{"string", "(a 'b\n)", sxp.Xend, "unexpected EOF (line 2, column 2): the string that begins at line 1, column 4 is not closed"},
		{"escape", `"a\`, sxp.Xend, "unexpected EOF (line 1, column 4): the string that begins at line 1, column 1 is not closed"},
		{"escaped newline", "'\\\n", sxp.Xend, "unexpected EOF (line 2, column 1): the string that begins at line 1, column 1 is not closed"},
		{"octal escape", `"\12`, sxp.Xend, "unexpected EOF (line 1, column 5): the string that begins at line 1, column 1 is not closed"},
		{"depth", deep + "(", sxp.Xend, "lists nested more than 1000 deep (line 1, column 1001)"},
		{"bracket in C", "(a [)", sxp.C, "invalid character: code 91 (line 1, column 4)"},
		{"backslash in C", "\\", sxp.C, "invalid character: code 92 (line 1, column 1)"},
		{"VT in C", "\v", sxp.C, "invalid character: code 11 (line 1, column 1)"},
		{"count", "<*x*", sxp.C, "invalid character: code 120 (line 1, column 3)"},
		{"no count", "<**", sxp.C, "invalid character: code 42 (line 1, column 3)"},
		{"large count", "(a\n<*99999999999999999999*", sxp.C, "value larger than 1048576 bytes (line 1, column 1)"},
		{"counted", "<*3*ab", sxp.C, "unexpected EOF (line 1, column 7): the string that begins at line 1, column 1 is not closed"},
		{"delimiter", "<<ab", sxp.C, "unexpected EOF (line 1, column 5): the string that begins at line 1, column 1 is not closed"},
		{"delimited", "<<ab<\n<ab", sxp.C, "unexpected EOF (line 2, column 4): the string that begins at line 1, column 1 is not closed"},
	} {
		t.Run(test.name, func(t *testing.T) {
			values, err := sxp.Parse([]byte(test.input), test.d)
			require.EqualError(t, err, test.want)
			require.Empty(t, values)

			d := sxp.NewDecoder(iotest.OneByteReader(strings.NewReader(test.input)), test.d)
			for err = nil; err == nil; {
				_, err = d.Decode()
			}
			require.EqualError(t, err, test.want)
		})
	}
}

func TestLimits(t *testing.T) {
	deep := func(n int) []byte {
		return []byte(strings.Repeat("(", n) + strings.Repeat(")", n))
	}
	large := func(n int) []byte { // one value of n bytes after one that does not count
		return []byte("x\n(" + strings.Repeat(" ", n%2) + strings.Repeat("a ", n/2-1) + ")")
	}
	const size = sxp.MaxSize
	for _, test := range []struct {
		name  string
		input []byte
		l     sxp.Limits
		want  string
	}{
		{"depth", deep(1000), sxp.Limits{}, ""},
		{"too deep", deep(1001), sxp.Limits{}, "lists nested more than 1000 deep"},
		{"depth set", deep(4), sxp.Limits{Depth: 3}, "lists nested more than 3 deep"},
		{"depth lifted", deep(100000), sxp.Limits{Depth: -1}, ""},
		{"size", large(size), sxp.Limits{}, ""},
		{"too large", large(size + 1), sxp.Limits{}, "value larger than 1048576 bytes"},
		{"size set", []byte("(a bcd)"), sxp.Limits{Size: 6}, "value larger than 6 bytes"},
		{"size lifted", large(3 * size), sxp.Limits{Size: -1}, ""},
		{"many values", bytes.Repeat([]byte("(aaaaa)"), size/3), sxp.Limits{}, ""},
		{"atom", bytes.Repeat([]byte("a"), size), sxp.Limits{}, ""},
		{"large atom", bytes.Repeat([]byte("a"), size+1), sxp.Limits{}, "value larger than 1048576 bytes"},
		{"large string", append(bytes.Repeat([]byte("'"), 1), bytes.Repeat([]byte("a"), size)...), sxp.Limits{}, "value larger than 1048576 bytes"},
		{"comment in a list", append([]byte("(#"), bytes.Repeat([]byte("a"), size)...), sxp.Limits{}, "value larger than 1048576 bytes"},
		{"comment in no list", append([]byte("#"), bytes.Repeat([]byte("a"), 2*size)...), sxp.Limits{}, ""},
		{"too large before it is wrong", append(large(size), ' ', '(', 0xff), sxp.Limits{Size: size - 1}, "value larger than 1048575 bytes"},
	} {
		t.Run(test.name, func(t *testing.T) {
			values, err := sxp.ParseLimited(test.input, sxp.Xend, test.l)
			d := sxp.NewDecoder(iotest.HalfReader(bytes.NewReader(test.input)), sxp.Xend)
			d.SetLimits(test.l)
			var streamed []sxp.Value
			var streamErr error
			for {
				v, err := d.Decode()
				if err != nil {
					streamErr = err
					break
				}
				streamed = append(streamed, v)
			}
			if test.want != "" {
				var syntax *sxp.SyntaxError
				require.ErrorAs(t, err, &syntax)
				require.Equal(t, test.want, syntax.Text)
				require.Equal(t, err, streamErr)
				return
			}
			require.NoError(t, err)
			require.Equal(t, io.EOF, streamErr)
			require.True(t, sxp.List(values...).Equal(sxp.List(streamed...)))
		})
	}
}

func TestDecoderAnswersAtOnce(t *testing.T) {
	r, w := io.Pipe()
	defer r.CloseWithError(io.ErrClosedPipe)
	d := sxp.NewDecoder(r, sxp.C)
	for _, form := range []string{"(vnet.list)", "(peer.list (a b))", "x "} {
		go w.Write([]byte(form)) //nolint:errcheck // Decode sees what is wrong
		v, err := d.Decode()
		require.NoError(t, err)
		require.Equal(t, strings.TrimSpace(form), v.String())
	}
	go w.CloseWithError(errors.New("gone"))
	for range 2 {
		_, err := d.Decode()
		require.EqualError(t, err, "gone")
	}
}

func TestDecoderEnds(t *testing.T) {
	d := sxp.NewDecoder(strings.NewReader("a (b) \x04 )"), sxp.Xend)
	for _, want := range []string{"a", "(b)"} {
		v, err := d.Decode()
		require.NoError(t, err)
		require.Equal(t, want, v.String())
	}
	for range 2 {
		_, err := d.Decode()
		require.Equal(t, io.EOF, err)
	}

	d = sxp.NewDecoder(strings.NewReader("a ) b"), sxp.Xend)
	_, err := d.Decode()
	require.NoError(t, err)
	for range 2 {
		_, err = d.Decode()
		require.EqualError(t, err, "syntax error: ) (line 1, column 3)")
	}

	d = sxp.NewDecoder(stuck{}, sxp.Xend)
	_, err = d.Decode()
	require.Equal(t, io.ErrNoProgress, err)
}

func TestBuffered(t *testing.T) {
	d := sxp.NewDecoder(strings.NewReader("(a) 'b\\n' c (d"), sxp.Xend)
	require.Empty(t, d.Buffered())
	for _, want := range []string{" 'b\\n' c (d", " c (d", " (d"} {
		_, err := d.Decode()
		require.NoError(t, err)
		require.Equal(t, want, d.Buffered())
	}
}

// stuck is a reader that never delivers anything.
type stuck struct{}

func (stuck) Read([]byte) (int, error) { return 0, nil }

func TestParseKeepsNothingOfTheInput(t *testing.T) {
	text := []byte(`(a "b" 'c\n') d`)
	values, err := sxp.Parse(text, sxp.Xend)
	require.NoError(t, err)
	clear(text)
	require.Equal(t, "(a b 'c\\n')\nd\n", lines(values))
}

func TestParseAllocations(t *testing.T) {
	text := []byte("(vnet (id 97) (bridge vnet97) (vnetif vnif97) (security none))\n")
	require.LessOrEqual(t, testing.AllocsPerRun(100, func() {
		sxp.Parse(text, sxp.Xend) //nolint:errcheck // see TestVectors
	}), 8.0)
	v, err := sxp.Parse(text, sxp.Xend)
	require.NoError(t, err)
	out := make([]byte, 0, len(text))
	require.Zero(t, testing.AllocsPerRun(100, func() { out = sxp.Append(out[:0], v[0]) }))
}

func FuzzParse(f *testing.F) {
	for _, file := range []string{"testdata/xend.jsonl", "testdata/pretty.jsonl"} {
		for _, v := range vectors(f, file) {
			if len(v.Input) < 500 {
				f.Add(v.Input, false, uint16(3))
			}
		}
	}
	for _, s := range []string{"<*3*a)b c", "<<x< ( <x<", "a!b'c'", "(<*0*<*1**)", "<<<a<<", "<<a<<<a<"} {
		f.Add([]byte(s), true, uint16(1))
	}
	f.Fuzz(func(t *testing.T, text []byte, c bool, split uint16) {
		d := sxp.Xend
		if c {
			d = sxp.C
		}
		limits := sxp.Limits{Depth: 20, Size: 200}
		values, err := sxp.ParseLimited(text, d, limits)

		// A stream gives the same, however it is cut.
		dec := sxp.NewDecoder(&cutReader{text, int(split)%97 + 1}, d)
		dec.SetLimits(limits)
		var streamed []sxp.Value
		for {
			v, streamErr := dec.Decode()
			if streamErr != nil {
				if err == nil {
					require.Equal(t, io.EOF, streamErr)
				} else {
					require.Equal(t, err, streamErr)
				}
				break
			}
			streamed = append(streamed, v)
		}
		if err != nil {
			require.Empty(t, values)
			return
		}
		require.Equal(t, lines(values), lines(streamed))
		require.True(t, sxp.List(values...).Equal(sxp.List(streamed...)))

		// What is written reads as the same, in both dialects.
		for _, d := range []sxp.Dialect{sxp.Xend, sxp.C} {
			for _, v := range values {
				for _, written := range [][]byte{
					sxp.Append(nil, v), sxp.AppendSingleQuoted(nil, v), sxp.AppendPretty(nil, v, int(split)%90),
				} {
					again, err := sxp.Parse(written, d)
					require.NoError(t, err, "%s", written)
					require.Len(t, again, 1)
					require.True(t, again[0].Equal(v), "%s", written)
				}
			}
		}
	})
}

// cutReader delivers a text in pieces of n bytes.
type cutReader struct {
	text []byte
	n    int
}

func (r *cutReader) Read(b []byte) (int, error) {
	if len(r.text) == 0 {
		return 0, io.EOF
	}
	n := copy(b[:min(r.n, len(b))], r.text)
	r.text = r.text[n:]
	return n, nil
}
