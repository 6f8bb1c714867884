package vnet

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestDifference(t *testing.T) {
	for _, tt := range []struct{ ours, theirs, want string }{
		{"(vnet (id 97))", "(vnet (id 97))", ""},
		{"(vnet (id 97))", "(vnet  (id 0:0:0:0:0:0:0:97) (bridge) (vnetif ''))", ""},
		{"(vnet (id 97))", "(vnet (id 0097))", ""},
		{"(vnet (id 97))", "(vnet (id 97) (bridge vnet97) (security none))", ""},
		{"(vnet (id 97))", "(vnet (id 0097) (bridge vnet0097))", "bridge vnet97 instead of vnet0097"},
		{"(vnet (id 97) (x y) z)", "(vnet z (id 97) (x 'y'))", ""},
		{"(vnet (id 97) (vnetif a) (security conf))", "(vnet (id 97))", "vnetif a instead of vnif97, security conf instead of none"},
		{"(vnet (id 97) (x y) (x y))", "(vnet (id 97) (x y) (z))", "(x y) more, (z) less"},
	} {
		ours, err := ParseConfig([]byte(tt.ours))
		require.NoError(t, err)
		theirs, err := ParseConfig([]byte(tt.theirs))
		require.NoError(t, err)
		require.Equal(t, tt.want, ours.Difference(theirs), "%s and %s", tt.ours, tt.theirs)
	}
}

func TestSuggest(t *testing.T) {
	require.Equal(t, "bridge", Suggest("brigde"))
	require.Equal(t, "vnetif", Suggest("vnet_if"))
	require.Empty(t, Suggest("color"))
}
