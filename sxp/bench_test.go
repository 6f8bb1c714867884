package sxp_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/xenvnet/xend/sxp"
)

// dump returns 1 MiB of what the files of a registry hold.
func dump() []byte {
	var b []byte
	for n := 5; len(b) < 1<<20; n++ {
		b = fmt.Appendf(b, "(vnet (id %x) (bridge vnet%x) (vnetif vnif%x) (security none))\n", n, n, n)
	}
	return b[:bytes.LastIndexByte(b[:1<<20], '\n')+1]
}

func BenchmarkParse(b *testing.B) {
	text := dump()
	b.SetBytes(int64(len(text)))
	b.ReportAllocs()
	for b.Loop() {
		_, err := sxp.Parse(text, sxp.Xend)
		require.NoError(b, err)
	}
}

func BenchmarkParseSmall(b *testing.B) {
	text := []byte("(vnet (id 97) (bridge vnet97) (vnetif vnif97) (security none))\n")
	b.SetBytes(int64(len(text)))
	b.ReportAllocs()
	for b.Loop() {
		_, err := sxp.Parse(text, sxp.Xend)
		require.NoError(b, err)
	}
}

func BenchmarkDecode(b *testing.B) {
	text := dump()
	b.SetBytes(int64(len(text)))
	b.ReportAllocs()
	for b.Loop() {
		d := sxp.NewDecoder(bytes.NewReader(text), sxp.Xend)
		for {
			_, err := d.Decode()
			if errors.Is(err, io.EOF) {
				break
			}
			require.NoError(b, err)
		}
	}
}

func BenchmarkWrite(b *testing.B) {
	text := dump()
	values, err := sxp.Parse(text, sxp.Xend)
	require.NoError(b, err)
	var out []byte
	b.SetBytes(int64(len(text)))
	b.ReportAllocs()
	for b.Loop() {
		out = out[:0]
		for _, v := range values {
			out = append(sxp.Append(out, v), '\n')
		}
	}
	require.Equal(b, text, out)
}

func BenchmarkPretty(b *testing.B) {
	values, err := sxp.Parse(dump(), sxp.Xend)
	require.NoError(b, err)
	v := sxp.List(values...)
	out := sxp.AppendPretty(nil, v, 50)
	b.SetBytes(int64(len(out)))
	b.ReportAllocs()
	for b.Loop() {
		out = sxp.AppendPretty(out[:0], v, 50)
	}
}
