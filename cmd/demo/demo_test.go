package main

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/xenvnet/xend/internal/lab"
	"github.com/xenvnet/xend/xendcompat/domain"
)

// withBin runs something in a lab, with the programs of make build.
func withBin(t *testing.T, run func(d *demo) error) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("network namespaces need root")
	}
	bin, err := filepath.Abs("../../bin")
	require.NoError(t, err)
	_, err = os.Stat(filepath.Join(bin, "xend"))
	require.NoError(t, err, "make build comes first")
	require.NoError(t, lab.Run(lab.Options{}, func(ctx context.Context, l *lab.Lab) error {
		return run(&demo{ctx: ctx, lab: l, bin: bin, secret: "a secret of the two hosts", transfer: 16 << 20, svg: filepath.Join(t.TempDir(), "build", "demo.svg")})
	}))
}

// The story is true: domains by xm create on two hosts, a live migration there and back, kill -9.
func TestDemo(t *testing.T) {
	withBin(t, func(d *demo) error {
		if err := d.run(); err != nil {
			return err
		}
		svg, err := os.ReadFile(d.svg)
		for _, text := range []string{"host A", "host B", "vm1", "vm2", "vnet 97", "Gbit/s"} {
			require.Contains(t, string(svg), text)
		}
		return err
	})
}

// The example works: everybody reaches everybody, over two vnets, two routers and the trunk.
func TestLab(t *testing.T) {
	withBin(t, func(d *demo) error { return (&topology{demo: d, dir: "../../examples/lab"}).run(false) })
}

// The example is what it is called, and its picture is in the manual.
func TestExample(t *testing.T) {
	tp := topology{dir: "../../examples/lab"}
	names, err := directories(tp.dir)
	require.NoError(t, err)
	require.Equal(t, []string{"A", "B", "C"}, names)
	for _, host := range names {
		entries, err := os.ReadDir(tp.dir + "/" + host)
		require.NoError(t, err)
		for _, e := range entries {
			c, err := domain.ReadFile(tp.dir + "/" + host + "/" + e.Name())
			require.NoError(t, err)
			require.NoError(t, c.Validate())
			tp.machines = append(tp.machines, &machine{&lab.Node{Name: c.Name}, c, host})
		}
	}
	manual, err := os.ReadFile("../../docs/labs.md")
	require.NoError(t, err)
	picture := tp.picture()
	require.Contains(t, string(manual), "```\n"+picture[:len(picture)-1]+"```\n")
}
