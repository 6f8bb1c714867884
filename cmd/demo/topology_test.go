package main

import (
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/xenvnet/xend/internal/lab"
	"github.com/xenvnet/xend/xendcompat/domain"
)

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
