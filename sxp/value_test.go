package sxp_test

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/xenvnet/xend/sxp"
)

func parse(t testing.TB, text string) sxp.Value {
	values, err := sxp.Parse([]byte(text), sxp.Xend)
	require.NoError(t, err)
	require.Len(t, values, 1)
	return values[0]
}

func TestValue(t *testing.T) {
	var zero sxp.Value
	require.True(t, zero.IsAtom())
	require.False(t, zero.IsList())
	require.Empty(t, zero.Text())
	require.Equal(t, "''", zero.String())
	require.True(t, zero.Equal(sxp.Atom("")))

	empty := sxp.List()
	require.True(t, empty.IsList())
	require.False(t, empty.IsAtom())
	require.Empty(t, empty.Items())
	require.Empty(t, empty.Name())
	require.Empty(t, empty.Children())
	require.Equal(t, "()", empty.String())
	require.False(t, empty.Equal(zero))
	require.True(t, empty.Equal(parse(t, "()")))

	v := sxp.List(sxp.Atom("vnet"), sxp.Pair("id", "97"), sxp.List())
	require.Equal(t, 3, v.Len())
	require.Equal(t, "vnet", v.Name())
	require.Empty(t, v.Text())
	require.Equal(t, "id", v.Items()[1].Name())
	require.Equal(t, "(vnet (id 97) ())", v.String())
	require.True(t, v.Equal(parse(t, "(vnet (id '97')())")))
	for _, other := range []string{"(vnet (id 98) ())", "(vnet (id 97))", "(vnet (id 97) a)", "(vnet id ())", "vnet"} {
		require.False(t, v.Equal(parse(t, other)), other)
	}

	atom := sxp.Atom("a")
	require.Nil(t, atom.Items())
	require.Zero(t, atom.Len())
	require.Empty(t, atom.Name())
	require.Empty(t, atom.Children())
}

func TestFields(t *testing.T) {
	v := parse(t, `(domain (@ (id 5) (lost) (x (y))) (name vm1) word (device (vif (mac a))) (empty) (list (a))
		(device (vbd)) ((name) x) (note (@ (lang en)) text more) ())`)
	list := func(values []sxp.Value) string { return strings.TrimSpace(lines(values)) }

	require.Equal(t, "domain", v.Name())
	require.Len(t, v.Children(), 9)
	require.Equal(t, "(device (vif (mac a)))\n(device (vbd))", list(v.Children("device")))
	require.Equal(t, "(name vm1)\n(empty)", list(v.Children("empty", "name")))
	require.Empty(t, v.Children("word", "none"))
	require.Empty(t, v.Children(""), "a list without a name has none, not the empty one")

	c, ok := v.Child("device")
	require.True(t, ok)
	require.Equal(t, "(device (vif (mac a)))", c.String())
	_, ok = v.Child("@")
	require.False(t, ok)

	require.Equal(t, "vm1", v.ChildValue("name", "def"))
	require.Equal(t, "text", v.ChildValue("note", "def"))
	for _, name := range []string{"none", "empty", "list", "word", "@"} {
		require.Equal(t, "def", v.ChildValue(name, "def"), name)
	}

	require.Equal(t, "5", v.Attribute("id", "def"))
	for _, name := range []string{"none", "lost", "x", "name"} {
		require.Equal(t, "def", v.Attribute(name, "def"), name)
	}
	require.Equal(t, "def", parse(t, "(a (b) (@ (id 5)))").Attribute("id", "def"), "not in second place")
	require.Equal(t, "def", parse(t, "a").Attribute("id", "def"))
	require.Equal(t, "()", parse(t, "(a (@) ())").Children()[0].String())
}

func TestAppend(t *testing.T) {
	for _, test := range []struct{ atom, want, single string }{
		{"vnet97", "vnet97", ""},
		{".-_:/~Az09", ".-_:/~Az09", ""},
		{"@", "@", ""},
		{"@a", "'@a'", ""},
		{"a@", "'a@'", ""},
		{"", "''", ""},
		{"a b", "'a b'", ""},
		{"it's", `"it's"`, `'it\'s'`},
		{`say "a"`, `'say "a"'`, ""},
		{`it's "a"`, `'it\'s "a"'`, ""},
		{`a\b`, `'a\\b'`, ""},
		{`'\`, `"'\\"`, `'\'\\'`},
		{"\n\r\t\v\f\a\b\x00\x1f\x7f\x80\xff", `'\n\r\t\x0b\x0c\x07\x08\x00\x1f\x7f\x80\xff'`, ""},
		{"é", `'\xc3\xa9'`, ""},
		{"!#$%&()*+,;<=>?[]^`{|}", "'!#$%&()*+,;<=>?[]^`{|}'", ""},
	} {
		v := sxp.List(sxp.Atom("x"), sxp.Atom(test.atom))
		require.Equal(t, "(x "+test.want+")", string(sxp.Append(nil, v)))
		if test.single == "" {
			test.single = test.want
		}
		require.Equal(t, "-(x "+test.single+")", string(sxp.AppendSingleQuoted([]byte("-"), v)))
	}
}

// random returns a value of up to n atoms and lists.
func random(r *rand.Rand, n int) sxp.Value {
	if n <= 1 || r.IntN(4) == 0 {
		b := make([]byte, r.IntN(8))
		for i := range b {
			if b[i] = byte('a' + r.IntN(26)); r.IntN(10) == 0 {
				b[i] = byte(r.IntN(256))
			}
		}
		return sxp.Atom(string(b))
	}
	var items []sxp.Value
	for range r.IntN(6) {
		items = append(items, random(r, n/2))
	}
	return sxp.List(items...)
}

func TestRandomValues(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 3000 {
		v := random(r, 60)
		width := r.IntN(60)
		pretty := sxp.AppendPretty(nil, v, width)
		for _, written := range [][]byte{sxp.Append(nil, v), sxp.AppendSingleQuoted(nil, v), pretty} {
			for _, d := range []sxp.Dialect{sxp.Xend, sxp.C} {
				again, err := sxp.Parse(written, d)
				require.NoError(t, err, "%s", written)
				require.Len(t, again, 1)
				require.True(t, v.Equal(again[0]), "%s", written)
			}
		}
		var out bytes.Buffer
		require.NoError(t, sxp.WritePretty(&out, v, width))
		require.Equal(t, string(pretty), out.String())
	}
}

func TestPretty(t *testing.T) {
	for _, test := range []struct {
		name, input string
		width       int
		want        string
	}{
		{"fits exactly", "(a (b c))", 9, "(a (b c))\n"},
		{"one too long", "(aaaa (b c))", 11, "(aaaa\n    (b c)\n)\n"},
		{"indented, fits exactly", "(a (b c) d)", 9, "(a\n    (b c)\n    d\n)\n"},
		{"first element", "((a b) (c d))", 12, "((a b)\n    (c d)\n)\n"},
		{"first element, broken", "((a b) c)", 5, "((a\n     b\n )\n    c\n)\n"},
		{"atom", "abc", 2, "abc\n"},
		{"empty list", "(a ())", 1, "(a\n    (\n    )\n)\n"},
		{"no width", "(a)", 0, "(a\n)\n"},
		{"quoted length counts", "(a '\n')", 7, "(a\n    '\\n'\n)\n"},
		{"quoted length counts, fits", "(a '\n')", 8, "(a '\\n')\n"},
	} {
		t.Run(test.name, func(t *testing.T) {
			require.Equal(t, "-"+test.want, string(sxp.AppendPretty([]byte("-"), parse(t, test.input), test.width)))
		})
	}
}

// failing is a writer that takes n writes.
type failing struct{ n int }

func (f *failing) Write(b []byte) (int, error) {
	if f.n--; f.n < 0 {
		return 0, errors.New("full")
	}
	return len(b), nil
}

func TestWritePrettyTellsErrors(t *testing.T) {
	// A list nested this deep, with its margins, is larger than its text by far.
	text := strings.Repeat("(a ", 900) + strings.Repeat("b ", 2000) + strings.Repeat(")", 900)
	require.EqualError(t, sxp.WritePretty(&failing{3}, parse(t, text), 80), "full")
	require.EqualError(t, sxp.WritePretty(&failing{0}, sxp.Atom("a"), 80), "full")
	require.NoError(t, sxp.WritePretty(&failing{1}, sxp.Atom("a"), 80))
}
