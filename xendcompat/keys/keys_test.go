package keys_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/xenvnet/xend/dataplane/esp"
	"github.com/xenvnet/xend/vnet"
	"github.com/xenvnet/xend/xendcompat/keys"
)

var id = vnet.ID{15: 0x97}

func TestGenerate(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "etc", "vnet-keys")
	_, err := keys.Load(dir, id)
	require.ErrorIs(t, err, keys.ErrNone)
	require.ErrorContains(t, err, "vn key-generate 0000:0000:0000:0000:0000:0000:0000:0097")
	all, err := keys.Generate(dir, nil)
	require.NoError(t, err)
	require.Equal(t, filepath.Join(dir, "default.key"), all)
	first, err := keys.Load(dir, id)
	require.NoError(t, err)
	require.Equal(t, all, first.File)
	own, err := keys.Generate(dir, &id)
	require.NoError(t, err)
	require.Equal(t, filepath.Join(dir, "0000-0000-0000-0000-0000-0000-0000-0097.key"), own)
	second, err := keys.Load(dir, id)
	require.NoError(t, err)
	require.Equal(t, own, second.File)
	require.NotEqual(t, first.Secrets, second.Secrets)
	require.Len(t, second.Secrets, 1)
	other, err := keys.Load(dir, vnet.ID{15: 0x98})
	require.NoError(t, err)
	require.Equal(t, first, other)
	for path, mode := range map[string]os.FileMode{dir: 0o700, all: 0o600, own: 0o600} {
		info, err := os.Stat(path)
		require.NoError(t, err)
		require.Equal(t, mode, info.Mode().Perm())
	}
	before, err := os.ReadFile(own)
	require.NoError(t, err)
	_, err = keys.Generate(dir, &id)
	require.ErrorContains(t, err, "not overwritten")
	after, err := os.ReadFile(own)
	require.NoError(t, err)
	require.Equal(t, before, after)
	left, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Len(t, left, 2, "nothing temporary stays")
}

func TestRefused(t *testing.T) {
	for name, c := range map[string]struct {
		edit func(t *testing.T, dir, file string)
		want string
	}{
		"folder that others can list": {func(t *testing.T, dir, _ string) { require.NoError(t, os.Chmod(dir, 0o750)) }, "chmod 700 "},
		"file that others can read":   {func(t *testing.T, _, file string) { require.NoError(t, os.Chmod(file, 0o640)) }, "chmod 600 "},
		"file of another":             {func(t *testing.T, _, file string) { require.NoError(t, os.Chown(file, 1, 0)) }, "does not belong to root"},
		"folder of another":           {func(t *testing.T, dir, _ string) { require.NoError(t, os.Chown(dir, 1, 0)) }, "does not belong to root"},
		"symbolic link": {func(t *testing.T, dir, file string) {
			move(t, file, dir+"/x")
			require.NoError(t, os.Symlink("x", file))
		}, "no regular file"},
		"hard link":                      {func(t *testing.T, dir, file string) { require.NoError(t, os.Link(file, dir+"/x")) }, "second name"},
		"folder that is a symbolic link": {func(t *testing.T, dir, _ string) { move(t, dir, dir+"2"); require.NoError(t, os.Symlink(dir+"2", dir)) }, "symbolic link"},
		"folder that is a file": {func(t *testing.T, dir, _ string) {
			move(t, dir, dir+"2")
			require.NoError(t, os.WriteFile(dir, nil, 0o600))
		}, "no directory"},
		"pipe": {func(t *testing.T, _, file string) {
			require.NoError(t, os.Remove(file))
			require.NoError(t, os.Mkdir(file, 0o700))
		}, "no regular file"},
		"too long": {func(t *testing.T, _, file string) {
			require.NoError(t, os.WriteFile(file, make([]byte, 65<<10), 0o600))
		}, "longer than"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "keys")
			file, err := keys.Generate(dir, &id)
			require.NoError(t, err)
			c.edit(t, dir, file)
			_, err = keys.Load(dir, id)
			require.ErrorContains(t, err, c.want)
			require.ErrorContains(t, err, dir)
		})
	}
}

func move(t *testing.T, from, to string) {
	t.Helper()
	require.NoError(t, os.Rename(from, to))
}

const (
	k1 = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"
	k2 = "808182838485868788898A8B8C8D8E8F909192939495969798999a9b9c9d9e9f"
)

func TestParse(t *testing.T) {
	s, err := keys.Parse([]byte("# keys\n key " + k1 + " # old\r\n\nsend\t" + k2 + "\n"))
	require.NoError(t, err)
	require.Equal(t, 1, s.Send)
	require.Equal(t, esp.Secret{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31}, s.Secrets[0])
	many := "send " + k1 + "\n"
	for i := range 16 {
		many += "key " + strings.Repeat("0", 62) + string("0123456789abcdef"[i]) + "1\n"
	}
	for text, want := range map[string]string{
		"":                                   "no key",
		"key " + k1:                          "send",
		"send " + k1 + "\nsend " + k2:        "second 'send'",
		"send " + k1 + "\nkey " + k1:         "line 2: the key stands there twice",
		"send " + strings.Repeat("0", 64):    "zeros",
		"send " + k1[:63]:                    "64 hexadecimal digits",
		"send " + k1 + "0":                   "64 hexadecimal digits",
		"send " + k1[:63] + "x":              "64 hexadecimal digits",
		k1:                                   "line 1 is neither",
		"send " + k1 + " x":                  "line 1 is neither",
		many:                                 "more than 16",
		"send " + k1 + "\nfrob " + k2 + "\n": "line 2 is neither",
	} {
		_, err := keys.Parse([]byte(text))
		require.ErrorContains(t, err, want, text)
		require.NotContains(t, err.Error(), k1[:20], "no key in an error")
	}
}

func TestRotate(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "keys")
	_, err := keys.Rotate(dir, &id, keys.Add)
	require.Error(t, err)
	_, err = keys.Generate(dir, &id)
	require.NoError(t, err)
	first, err := keys.Load(dir, id)
	require.NoError(t, err)
	for _, early := range []keys.Step{keys.Use, keys.Remove, "frob"} {
		_, err = keys.Rotate(dir, &id, early)
		require.Error(t, err)
	}
	step := func(s keys.Step) keys.Set {
		want, err := keys.Rotate(dir, &id, s)
		require.NoError(t, err)
		got, err := keys.Load(dir, id)
		require.NoError(t, err)
		require.Equal(t, want, got)
		return got
	}
	s := step(keys.Add)
	require.Equal(t, first.Secrets[0], s.Secrets[0])
	require.Len(t, s.Secrets, 2)
	require.Zero(t, s.Send)
	_, err = keys.Rotate(dir, &id, keys.Add)
	require.ErrorContains(t, err, "not used yet")
	_, err = keys.Rotate(dir, &id, keys.Remove)
	require.Error(t, err)
	s = step(keys.Use)
	require.Equal(t, 1, s.Send)
	last := s.Secrets[1]
	s = step(keys.Remove)
	require.Equal(t, []esp.Secret{last}, s.Secrets)
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("send " + k1 + "\nkey " + k2 + "\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if s, err := keys.Parse(b); err == nil {
			require.NotEmpty(t, s.Secrets)
			require.Less(t, s.Send, len(s.Secrets))
		}
	})
}
