package domain

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/xenvnet/xend/sxp"
)

var update = flag.Bool("update", false, "write the wanted results anew")

// TestGoodFiles reads files as people have them. What is wanted is beside them: the form, and xl's file.
func TestGoodFiles(t *testing.T) {
	files, err := filepath.Glob("testdata/config/good/*.[cs][fx][gp]")
	require.NoError(t, err)
	require.GreaterOrEqual(t, len(files), 10)
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			c, err := ReadFile(file)
			require.NoError(t, err)
			require.NoError(t, c.Validate())
			got := append(sxp.AppendPretty(nil, c.SXP(), 80), "\n"+string(c.XL())...)
			got = bytes.ReplaceAll(got, []byte(machineName()), []byte("MACHINE"))
			wanted := file + ".want"
			if *update {
				require.NoError(t, os.WriteFile(wanted, got, 0o644))
			}
			want, err := os.ReadFile(wanted)
			require.NoError(t, err)
			require.Equal(t, string(want), string(got))

			again, err := ParseForm(c.SXP())
			require.NoError(t, err)
			require.Equal(t, c.SXP().String(), again.SXP().String(), "the form says all")
			// What xl is given is a file that we can read, too.
			back, err := ParseFile(file, c.XL())
			require.NoError(t, err)
			require.Equal(t, c.Vifs == nil, back.Vifs == nil)
			require.Equal(t, c.Name, back.Name)
			require.Equal(t, c.Memory, back.Memory)
			require.Equal(t, c.Cmdline(), back.Cmdline())
			require.Len(t, back.Disks, len(c.Disks))
		})
	}
}

// TestBadFiles has files whose first line says what is wrong with them.
func TestBadFiles(t *testing.T) {
	files, err := filepath.Glob("testdata/config/bad/*")
	require.NoError(t, err)
	require.GreaterOrEqual(t, len(files), 30)
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			b, err := os.ReadFile(file)
			require.NoError(t, err)
			line, _, _ := strings.Cut(string(b), "\n")
			want, ok := strings.CutPrefix(line, "# want: ")
			require.True(t, ok)
			_, err = ReadFile(file)
			var wrong *FileError
			require.ErrorAs(t, err, &wrong)
			require.Equal(t, file, wrong.File)
			require.ErrorContains(t, err, file+": ")
			require.ErrorContains(t, err, want)
		})
	}
}

func TestGivenSettings(t *testing.T) {
	c, err := ParseFile("vm.cfg", []byte("name = 'vm%s' % vmid\nmemory = 64\nvif = ['']\n"),
		Given{"vmid", "3"}, Given{"memory", "128"}, Given{"vif", "bridge=vnet97"}, Given{"vif", "bridge=vnet98"}, Given{"extra", "single"})
	require.NoError(t, err)
	require.Equal(t, "vm3", c.Name)
	require.Equal(t, 128, c.Memory)
	require.Equal(t, []Vif{{Bridge: "vnet97"}, {Bridge: "vnet98"}}, c.Vifs)
	require.Equal(t, "single", c.Extra)
	c, err = ParseFile("x/vm.sxp", []byte("(vm (memory 64))"), Given{"memory", "32"})
	require.NoError(t, err)
	require.Equal(t, 32, c.Memory)
	require.Equal(t, "vm", c.Name, "a file names its domain")
	_, err = ParseFile("vm.cfg", nil, Given{"memory", "x"})
	require.EqualError(t, err, "vm.cfg: memory must be a whole number from 0 to 1073741824, not x")
}

// TestHostileFiles are refused in no time, and crash nothing.
func TestHostileFiles(t *testing.T) {
	for name, text := range map[string]string{
		"large":         strings.Repeat("#", MaxFile+1),
		"brackets":      "a = " + strings.Repeat("[", 100_000),
		"parentheses":   "a = " + strings.Repeat("(", 1000) + strings.Repeat(")", 1000),
		"dictionaries":  "a = " + strings.Repeat("{1:", 1000),
		"minus":         "a = " + strings.Repeat("-", 100_000) + "1",
		"dict calls":    "a = " + strings.Repeat("dict(a=", 1000),
		"form":          strings.Repeat("(", 100_000),
		"format":        "a = '%1000000000d' % 1",
		"format factor": "a = '%1000s'" + strings.Repeat("'%1000s'", 100) + " % (1,)",
		"repeated":      strings.Repeat("a = 'x' * 1000000\n", 50_000),
		"lists":         "a = [1] * 1000\n" + strings.Repeat("a = [a] * 1000\n", 10),
		"range":         "a = range(-9223372036854775808, 9223372036854775807)",
		"product":       "a = 9223372036854775807 * 9223372036854775807",
		"names": func() string {
			var b strings.Builder
			for i := range 100_000 {
				fmt.Fprintf(&b, "a%d=1\n", i)
			}
			return b.String()
		}(),
		"vifs":       "vif = ['']" + strings.Repeat("+['']", 300),
		"name":       "name = '../../etc/cron.d/x'",
		"blank name": "name = 'a b'",
		"comma":      "(vm (name x) (device (vif (script 'a,bridge=b'))))",
		"script":     "name='x'\nvif=['script=../../tmp/evil']",
		"disk":       "name='x'\ndisk=['phy:/dev/sda,../../sda,w']",
		"line":       "(vm (name x) (image (linux (kernel '/boot/a\\nextra = b'))))",
		"same mac":   "name='x'\nvif=['mac=00:16:3e:00:00:01']*2",
	} {
		t.Run(name, func(t *testing.T) {
			c, err := ParseFile("x.cfg", []byte(text))
			if err == nil {
				err = c.Validate()
			}
			require.Error(t, err)
			require.Less(t, len(err.Error()), 400)
		})
	}
	// A file that is as large as it may be, and fine.
	big := []byte("name = 'x'\nextra = '" + strings.Repeat("y", 1<<19) + "'\n" + strings.Repeat("#\n", 1000))
	c, err := ParseFile("x.cfg", big)
	require.NoError(t, err)
	require.Len(t, c.Extra, 1<<19)
}

// TestShellCharacters are characters like others: nothing of a file gets to a shell.
func TestShellCharacters(t *testing.T) {
	const evil = `/boot/k"; touch /tmp/x; $(id) \ '`
	c, err := ParseForm(sxp.List(sxp.Atom("vm"), sxp.Pair("name", "x"),
		sxp.List(sxp.Atom("image"), sxp.List(sxp.Atom("linux"), sxp.Pair("kernel", evil)))))
	require.NoError(t, err)
	require.NoError(t, c.Validate())
	require.Contains(t, string(c.XL()), `kernel = "/boot/k\"; touch /tmp/x; $(id) \\ '"`+"\n")
	back, err := ParseFile("x", c.XL())
	require.NoError(t, err)
	require.Equal(t, evil, back.Kernel)
}

func TestComplete(t *testing.T) {
	c := Config{Name: "x", Vifs: []Vif{{}, {MAC: "aa:00:00:00:00:01"}}}
	c.Complete()
	require.Regexp(t, `^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`, c.UUID)
	require.Regexp(t, `^00:16:3e:[0-7][0-9a-f]:[0-9a-f]{2}:[0-9a-f]{2}$`, c.Vifs[0].MAC)
	require.Equal(t, "aa:00:00:00:00:01", c.Vifs[1].MAC)
	again := c
	again.Complete()
	require.Equal(t, c, again)
}

func TestPolicy(t *testing.T) {
	require.Equal(t, Destroy, Config{}.Policy(Poweroff))
	require.Equal(t, Destroy, Config{}.Policy(Halt))
	require.Equal(t, Restart, Config{}.Policy(Reboot))
	require.Equal(t, Restart, Config{}.Policy(Crash))
	require.Equal(t, Destroy, Config{OnPoweroff: Restart}.Policy(Suspend))
	require.Equal(t, Preserve, Config{OnCrash: Preserve}.Policy(Crash))
}

func FuzzParseFile(f *testing.F) {
	for _, pattern := range []string{"good/*.cfg", "good/*.sxp", "bad/*"} {
		files, err := filepath.Glob("testdata/config/" + pattern)
		require.NoError(f, err)
		for _, file := range files {
			b, err := os.ReadFile(file)
			require.NoError(f, err)
			f.Add(b)
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := ParseFile("x.cfg", b)
		if err != nil {
			return
		}
		form := c.SXP()
		again, err := ParseForm(form)
		if err != nil {
			t.Fatalf("%s: %v", form, err)
		}
		if !again.SXP().Equal(form) {
			t.Fatalf("%s became %s", form, again.SXP())
		}
		c.XL()
	})
}
