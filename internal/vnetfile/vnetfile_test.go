package vnetfile_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/xenvnet/xend/internal/vnetfile"
	"github.com/xenvnet/xend/vnet"
)

func config(t testing.TB, form string) vnet.Config {
	t.Helper()
	c, err := vnet.ParseConfig([]byte(form))
	require.NoError(t, err)
	return c
}

// What has a vnet's name and form is listed, whoever wrote it; what else lies there is not.
func TestList(t *testing.T) {
	require.Empty(t, vnetfile.List(filepath.Join(t.TempDir(), "nowhere")))
	dir := t.TempDir()
	write := func(name, text string) {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600))
	}
	one, two := config(t, "(vnet (id 97) (bridge b97))"), config(t, "(vnet (id 98))")
	write(vnetfile.Name(one.ID), string(vnetfile.Encode(vnetfile.File{Config: one, Number: 1})))
	write(vnetfile.Name(two.ID), "(vnet (id 98))") // by hand
	write("stray.sxp", "(vnet (id 99))")
	write("broken.sxp", "(vnet")
	write(vnetfile.Name(one.ID)+".corrupt", "(vnet (id 97))")
	var ids []string
	for _, c := range vnetfile.List(dir) {
		ids = append(ids, c.Bridge)
	}
	require.ElementsMatch(t, []string{"b97", "vnet98"}, ids)
}

func FuzzDecode(f *testing.F) {
	f.Add(vnetfile.Encode(vnetfile.File{Config: config(f, "(vnet (id 97))"), Number: 7}))
	f.Add([]byte("(vnet (id 97) (x 'y'))"))
	f.Add([]byte("# xend vnet, format 1; number 1, created 2026-11-22T00:00:00Z\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		file, err := vnetfile.Decode(b)
		if err != nil {
			return
		}
		again, err := vnetfile.Decode(vnetfile.Encode(file))
		require.NoError(t, err)
		require.True(t, again.Config.Form.Equal(file.Config.Form))
		require.Equal(t, file.Number, again.Number)
	})
}
