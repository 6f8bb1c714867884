package sxp_test

import (
	"bufio"
	"encoding/json"
	"os"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/xenvnet/xend/sxp"
)

// vector is one recording of the original parser; see the names of the files.
type vector struct {
	Name   string              `json:"name"`
	Input  []byte              `json:"input_b64"`
	OK     bool                `json:"ok"`
	Error  string              `json:"error"`
	Values [][]byte            `json:"values_canonical_b64"`
	Pretty map[string][][]byte `json:"pretty"`
}

func vectors(t testing.TB, file string) []vector {
	f, err := os.Open(file)
	require.NoError(t, err)
	defer f.Close()
	var all []vector
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		var v vector
		require.NoError(t, json.Unmarshal(lines.Bytes(), &v))
		all = append(all, v)
	}
	require.NoError(t, lines.Err())
	require.NotEmpty(t, all)
	return all
}

// deviations are the vectors where ours differs from the original on purpose:
// the values or the error expected instead.
var deviations = map[string]vector{
	"hex_04":          {OK: true, Values: [][]byte{[]byte(`'\xab'`)}},
	"hex_09":          {Error: "invalid escape"},
	"hex_10":          {OK: true, Values: [][]byte{[]byte(`'\x04g'`)}},
	"hex_14":          {OK: true, Values: [][]byte{[]byte(`'\xa0'`)}},
	"hex_15":          {OK: true, Values: [][]byte{[]byte(`'\n'`)}},
	"unterminated_08": {Error: "unexpected EOF"},
	"deep_1200":       {Error: "lists nested more than 1000 deep"},
}

func TestVectors(t *testing.T) {
	for _, want := range vectors(t, "testdata/xend.jsonl") {
		t.Run(want.Name, func(t *testing.T) {
			input := want.Input
			if other, ok := deviations[want.Name]; ok {
				want = other
			}
			values, err := sxp.Parse(input, sxp.Xend)
			if !want.OK {
				var syntax *sxp.SyntaxError
				require.ErrorAs(t, err, &syntax)
				require.Equal(t, want.Error, syntax.Text)
				return
			}
			require.NoError(t, err)
			var got []string
			for _, v := range values {
				got = append(got, v.String())
			}
			var canonical []string
			for _, v := range want.Values {
				canonical = append(canonical, string(v))
			}
			require.Equal(t, canonical, got)
		})
	}
}

func TestPrettyVectors(t *testing.T) {
	for _, want := range vectors(t, "testdata/pretty.jsonl") {
		t.Run(want.Name, func(t *testing.T) {
			values, err := sxp.Parse(want.Input, sxp.Xend)
			if !want.OK {
				require.ErrorContains(t, err, want.Error)
				return
			}
			require.NoError(t, err)
			for width, printed := range want.Pretty {
				n, err := strconv.Atoi(width)
				require.NoError(t, err)
				require.Len(t, values, len(printed))
				for i, v := range values {
					require.Equal(t, string(printed[i]), string(sxp.AppendPretty(nil, v, n)), "width %d", n)
				}
			}
		})
	}
}
