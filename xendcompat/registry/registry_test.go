package registry

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/xenvnet/xend/internal/durable"
	"github.com/xenvnet/xend/internal/vnetfile"
	"github.com/xenvnet/xend/sxp"
	"github.com/xenvnet/xend/vnet"
)

func config(t testing.TB, text string) vnet.Config {
	t.Helper()
	c, err := vnet.ParseConfig([]byte(text))
	require.NoError(t, err)
	return c
}

func simple(t testing.TB, id string) vnet.Config { return config(t, "(vnet (id "+id+"))") }

func open(t testing.TB, dir string) *Registry {
	t.Helper()
	r, err := Open(Options{Dir: dir})
	require.NoError(t, err)
	t.Cleanup(func() { r.Close() })
	return r
}

// ids are the ids of the vnets in a registry, as written, in its order.
func ids(r *Registry) string {
	var all []string
	for _, c := range r.List() {
		all = append(all, c.IDText)
	}
	return strings.Join(all, " ")
}

// files are the names in a directory but for those that are always there.
func files(t testing.TB, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	names := []string{}
	for _, e := range entries {
		if e.Name() != durable.LockFile && e.Name() != formatFile {
			names = append(names, e.Name())
		}
	}
	return names
}

// corruptExt is the ending of files that were set aside.
const corruptExt = ".corrupt"

func fileOf(id string) string {
	v, err := vnet.ParseID(id)
	if err != nil {
		panic(err)
	}
	return v.FileName() + vnetfile.Ext
}

func TestVnetsSurvive(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "var", "vnets")
	r := open(t, dir)
	const odd = `(vnet (bridge vnet97) (id 0097) (colour "a b") (note (x (y '\x00'))) word)`
	for _, text := range []string{"(vnet (id 99))", odd, "(vnet (id 5) (vnetif x5) (security auth))"} {
		require.NoError(t, r.Put(config(t, text)))
	}
	require.Equal(t, "99 0097 5", ids(r))
	require.Equal(t, 3, r.Len())
	require.Error(t, r.Put(simple(t, "5")), "an id is there once")
	require.NoError(t, r.Close())

	r = open(t, dir)
	require.Equal(t, "99 0097 5", ids(r), "the order of creation survives")
	c, ok := r.Get(config(t, odd).ID)
	require.True(t, ok)
	require.True(t, c.Form.Equal(config(t, odd).Form), "the form is exactly as given: %s", c.Form)
	require.Equal(t, []string{"colour", "note", `"word"`}, c.Unknown)

	d, err := r.Delete(simple(t, "99").ID)
	require.NoError(t, err)
	d.Commit()
	require.NoError(t, r.Put(simple(t, "99")))
	require.Equal(t, "0097 5 99", ids(r))
	d, err = r.Delete(simple(t, "5").ID)
	require.NoError(t, err)
	require.Equal(t, "0097 99", ids(r))
	require.NoError(t, d.Restore())
	require.Equal(t, "0097 5 99", ids(r), "a vnet that is restored has its old place")
	_, err = r.Delete(simple(t, "404").ID)
	require.Error(t, err)
	require.NoError(t, r.Close())

	require.Equal(t, "0097 5 99", ids(open(t, dir)))
	require.Equal(t, []string{fileOf("5"), fileOf("97"), fileOf("99")}, files(t, dir))
	info, err := os.Stat(dir)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o700), info.Mode().Perm())
}

func TestFilesAreForPeople(t *testing.T) {
	dir := t.TempDir()
	r := open(t, dir)
	require.NoError(t, r.Put(config(t, "(vnet (id 97)\n(bridge vnet97))")))
	b, err := os.ReadFile(filepath.Join(dir, "0000-0000-0000-0000-0000-0000-0000-0097.sxp"))
	require.NoError(t, err)
	require.Regexp(t, `^# xend vnet, format 1; number 1, created 20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ\n\(vnet \(id 97\) \(bridge vnet97\)\)\n$`, string(b))
}

func TestFileWithoutHeader(t *testing.T) {
	dir := t.TempDir()
	r := open(t, dir)
	require.NoError(t, r.Put(simple(t, "97")))
	require.NoError(t, r.Close())
	require.NoError(t, os.WriteFile(filepath.Join(dir, fileOf("98")), []byte("# by hand\n(vnet (id 98))\n"), 0o644))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "README"), []byte("mine"), 0o644))
	r = open(t, dir)
	require.Equal(t, "98 97", ids(r))
	require.NoError(t, r.Put(simple(t, "99")))
	require.NoError(t, r.Close())
	r = open(t, dir)
	require.Equal(t, "98 97 99", ids(r))
	require.Contains(t, files(t, dir), "README")
}

func TestLargeForm(t *testing.T) {
	dir := t.TempDir()
	r := open(t, dir)
	// As text it is within the limit for clients, as it is written back it is four times as long.
	big := config(t, "(vnet (id 97) (note '"+strings.Repeat("\x01", 900_000)+"'))")
	deep := sxp.List(sxp.Atom("deep"))
	for range 900 {
		deep = sxp.List(sxp.Atom("deep"), deep)
	}
	nested := config(t, "(vnet (id 98) "+deep.String()+")")
	require.NoError(t, r.Put(big))
	require.NoError(t, r.Put(nested))
	require.NoError(t, r.Close())
	r = open(t, dir)
	require.Equal(t, "97 98", ids(r))
	for _, want := range []vnet.Config{big, nested} {
		got, _ := r.Get(want.ID)
		require.True(t, got.Form.Equal(want.Form))
	}
}

func TestCorruptFilesAreSetAside(t *testing.T) {
	dir := t.TempDir()
	r := open(t, dir)
	for _, id := range []string{"10", "11", "12"} {
		require.NoError(t, r.Put(simple(t, id)))
	}
	require.NoError(t, r.Close())
	for name, text := range map[string]string{
		fileOf("20"):  "",
		fileOf("21"):  "(vnet (id 21)",
		fileOf("22"):  "(vnet (id 22)) (vnet (id 23))",
		fileOf("23"):  "(vnet (id 24))",
		fileOf("24"):  "(vnet (id 24) (bridge vnet10))",
		fileOf("25"):  "# xend vnet, format x; number 1, created y\n(vnet (id 25))",
		fileOf("26"):  "\x00\x00\x00\x00",
		"vnet97.sxp":  "(vnet (id 97))",
		fileOf("1"):   "(vnet (id 1))",
		".vnet.sxp":   "not a vnet's",
		"weird.other": "not a vnet's",
	} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600))
	}
	require.NoError(t, os.Mkdir(filepath.Join(dir, fileOf("27")), 0o700))
	require.NoError(t, syscall.Mkfifo(filepath.Join(dir, fileOf("28")), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(dir, fileOf("20")+corruptExt), []byte("of an earlier day"), 0o600))

	var log bytes.Buffer
	r, err := Open(Options{Dir: dir, Log: slog.New(slog.NewTextHandler(&log, nil))})
	require.NoError(t, err)
	defer func() { _ = r.Close() }()
	// 24, which nobody created, does not get the bridge of 10.
	require.Equal(t, "10 11 12", ids(r))
	want := []string{
		fileOf("1") + corruptExt, fileOf("24") + corruptExt, fileOf("28") + corruptExt, fileOf("20") + corruptExt, fileOf("20") + corruptExt + ".1",
		fileOf("21") + corruptExt, fileOf("22") + corruptExt, fileOf("23") + corruptExt, fileOf("25") + corruptExt,
		fileOf("26") + corruptExt, fileOf("27") + corruptExt, "vnet97.sxp" + corruptExt,
	}
	require.ElementsMatch(t, want, r.Corrupt())
	b, err := os.ReadFile(filepath.Join(dir, fileOf("20")+corruptExt))
	require.NoError(t, err)
	require.Equal(t, "of an earlier day", string(b), "nothing is overwritten")
	for _, reason := range []string{
		"unexpected EOF", "it holds 2 forms instead of one", "it holds vnet 24, whose file is " + fileOf("24"),
		"device vnet10 belongs to vnet 10 already", "is not a regular file", "its first line can't be read", "invalid character", "reserved",
	} {
		require.Contains(t, log.String(), reason)
	}
	require.FileExists(t, filepath.Join(dir, ".vnet.sxp"))
	require.NoError(t, r.Put(simple(t, "20")), "the id is free")
}

func TestFormats(t *testing.T) {
	dir := t.TempDir()
	r := open(t, dir)
	require.NoError(t, r.Put(simple(t, "97")))
	require.NoError(t, r.Close())
	write := func(name, text string) {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600))
	}
	var newer *vnetfile.FormatError

	write(fileOf("98"), "# xend vnet, format 2; number 1, created 2026-11-22T00:00:00Z\n(vnet-next (id 98))\n")
	_, err := Open(Options{Dir: dir})
	require.ErrorAs(t, err, &newer)
	require.ErrorContains(t, err, fileOf("98")+" has format 2")
	require.NoError(t, os.Remove(filepath.Join(dir, fileOf("98"))))

	write(formatFile, "xend vnet registry, format 2\n")
	_, err = Open(Options{Dir: dir})
	require.ErrorAs(t, err, &newer)
	require.Equal(t, filepath.Join(dir, formatFile)+" has format 2, and this xend knows only 1: it was written by a newer release", err.Error())

	write(formatFile, "what\n")
	_, err = Open(Options{Dir: dir})
	require.ErrorContains(t, err, `does not say which format the directory has: "what"`)

	write(formatFile, "")
	require.Equal(t, "97", ids(open(t, dir)), "a machine may stop while the directory is made")
}

// TestEveryStepMayFail drives each change with an error after each of its steps.
func TestEveryStepMayFail(t *testing.T) {
	broken := errors.New("broken")
	changes := map[string]func(*Registry) error{
		"put": func(r *Registry) error { return r.Put(simple(t, "98")) },
		"delete": func(r *Registry) error {
			d, err := r.Delete(simple(t, "97").ID)
			if err == nil {
				d.Commit()
			}
			return err
		},
		"replace": func(r *Registry) error {
			p, err := r.Replace(simple(t, "0097"))
			if err == nil {
				p.Commit()
			}
			return err
		},
	}
	for name, change := range changes {
		t.Run(name, func(t *testing.T) {
			for n := 1; ; n++ {
				dir := t.TempDir()
				r := open(t, dir)
				require.NoError(t, r.Put(simple(t, "97")))
				require.NoError(t, r.Close())
				before := files(t, dir)
				seen := 0
				r, err := Open(Options{Dir: dir, Step: func(step string) error {
					if seen++; seen == n {
						return fmt.Errorf("after %s: %w", step, broken)
					}
					return nil
				}})
				require.NoError(t, err)
				t.Cleanup(func() { r.Close() })
				err = change(r)
				if seen < n {
					require.NoError(t, err)
					require.Greater(t, n, 2, "there are steps")
					return
				}
				if err != nil { // but for the last step of a delete, where all is done
					require.ErrorIs(t, err, broken)
					require.Equal(t, before, files(t, dir))
					require.Equal(t, "97", ids(r))
				}
				want := ids(r)
				require.NoError(t, r.Close())
				require.Equal(t, want, ids(open(t, dir)))
			}
		})
	}
}

func TestPutNeverReplacesAFile(t *testing.T) {
	dir := t.TempDir()
	r := open(t, dir)
	path := filepath.Join(dir, fileOf("97"))
	require.NoError(t, os.WriteFile(path, []byte("by hand"), 0o600))
	require.ErrorIs(t, r.Put(simple(t, "97")), os.ErrExist)
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, "by hand", string(b))
	require.Equal(t, []string{fileOf("97")}, files(t, dir))
}

// TestReplace: a configuration in the place of another, and the other back, also after the daemon's end.
func TestReplace(t *testing.T) {
	dir := t.TempDir()
	r := open(t, dir)
	for _, id := range []string{"97", "98"} {
		require.NoError(t, r.Put(simple(t, id)))
	}
	before, err := os.ReadFile(filepath.Join(dir, fileOf("97")))
	require.NoError(t, err)
	other := config(t, "(vnet (id 97) (bridge br1) (color red))")
	p, err := r.Replace(other)
	require.NoError(t, err)
	c, _ := r.Get(other.ID)
	require.Equal(t, "br1", c.Bridge)
	require.NoError(t, p.Restore())
	c, _ = r.Get(other.ID)
	require.Equal(t, "vnet97", c.Bridge)
	after, err := os.ReadFile(filepath.Join(dir, fileOf("97")))
	require.NoError(t, err)
	require.Equal(t, string(before), string(after), "with its number and its time")
	require.Equal(t, []string{fileOf("97"), fileOf("98")}, files(t, dir))

	p, err = r.Replace(other)
	require.NoError(t, err)
	p.Commit()
	require.Equal(t, []string{fileOf("97"), fileOf("98")}, files(t, dir))
	require.NoError(t, r.Close())
	r = open(t, dir)
	require.Equal(t, "97 98", ids(r), "its place stays")
	c, _ = r.Get(other.ID)
	require.Equal(t, other.Form.String(), c.Form.String())

	_, err = r.Replace(simple(t, "404"))
	require.Error(t, err)
	// A file that somebody removed by hand is not missed, and none comes back.
	require.NoError(t, os.Remove(filepath.Join(dir, fileOf("98"))))
	p, err = r.Replace(simple(t, "0098"))
	require.NoError(t, err)
	require.NoError(t, p.Restore())
	require.Equal(t, []string{fileOf("97")}, files(t, dir))
	require.Equal(t, "97 98", ids(r))
}

// TestFileRemovedByHand checks that a vnet can be deleted whose file is gone, but not if the directory is.
func TestFileRemovedByHand(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "vnets")
	r := open(t, dir)
	for _, id := range []string{"97", "98"} {
		require.NoError(t, r.Put(simple(t, id)))
		require.NoError(t, os.Remove(filepath.Join(dir, fileOf(id))))
	}
	d, err := r.Delete(simple(t, "97").ID)
	require.NoError(t, err)
	require.NoError(t, d.Restore())
	require.Equal(t, "97 98", ids(r))
	d, err = r.Delete(simple(t, "97").ID)
	require.NoError(t, err)
	d.Commit()
	require.Equal(t, "98", ids(r))
	require.NoError(t, os.RemoveAll(dir))
	_, err = r.Delete(simple(t, "98").ID)
	require.ErrorIs(t, err, os.ErrNotExist)
	require.Equal(t, "98", ids(r))
}

func BenchmarkLoad(b *testing.B) {
	dir := b.TempDir()
	r := open(b, dir)
	for i := range 10_000 {
		c := simple(b, fmt.Sprintf("%x", i+16))
		// Straight to the file: the fsyncs of 10,000 changes are not what is measured.
		e := vnetfile.File{Config: c, Number: uint64(i + 1)}
		require.NoError(b, os.WriteFile(r.dir.Path(vnetfile.Name(c.ID)), vnetfile.Encode(e), 0o600))
	}
	require.NoError(b, r.Close())
	for b.Loop() {
		r, err := Open(Options{Dir: dir})
		require.NoError(b, err)
		require.Equal(b, 10_000, r.Len())
		require.NoError(b, r.Close())
	}
}

// TestStateDirectory is mended if others may write to it, and what they put there is no vnet.
func TestStateDirectory(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "vnets")
	r := open(t, dir)
	require.NoError(t, r.Put(simple(t, "97")))
	require.NoError(t, r.Close())
	require.NoError(t, os.Chmod(dir, 0o777))
	planted := filepath.Join(dir, fileOf("66"))
	require.NoError(t, os.WriteFile(planted, []byte("(vnet (id 66))"), 0o644))
	if os.Getuid() == 0 {
		require.NoError(t, os.Chown(planted, 1000, 1000))
	}
	// What a killed daemon may have left, and could not: none of our files.
	stray := filepath.Join(dir, "."+fileOf("98")+".tmp", "x")
	require.NoError(t, os.MkdirAll(stray, 0o700))
	require.NoError(t, os.Mkdir(filepath.Join(dir, "lost+found"), 0o700))

	var log bytes.Buffer
	r, err := Open(Options{Dir: dir, Log: slog.New(slog.NewTextHandler(&log, nil))})
	require.NoError(t, err)
	info, err := os.Stat(dir)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o700), info.Mode().Perm())
	require.Contains(t, log.String(), "others could write to it (mode 0777)")
	if os.Getuid() == 0 {
		require.Equal(t, "97", ids(r))
		require.Contains(t, log.String(), "belongs to user 1000, who has no say here")
	}
	require.DirExists(t, stray, "nobody's directory is deleted")
	require.NoError(t, r.Close())

	_, err = Open(Options{Dir: "/tmp"})
	require.ErrorContains(t, err, "choose a directory of xend's own")
}
