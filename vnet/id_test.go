package vnet

import (
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const full97 = "0000:0000:0000:0000:0000:0000:0000:0097"

func TestParseID(t *testing.T) {
	for text, want := range map[string]string{
		"97":                      full97,
		"0097":                    full97,
		"0:0:0:0:0:0:0:97":        full97,
		full97:                    full97,
		"1":                       "0000:0000:0000:0000:0000:0000:0000:0001",
		"aBcD":                    "0000:0000:0000:0000:0000:0000:0000:abcd",
		"1:2:3:4:5:6:7:8":         "0001:0002:0003:0004:0005:0006:0007:0008",
		"ffff:0:0:0:0:0:0:0":      "ffff:0000:0000:0000:0000:0000:0000:0000",
		"fFFf:0:00:0:000:0:0:ABc": "ffff:0000:0000:0000:0000:0000:0000:0abc",
	} {
		for _, parse := range []func(string) (ID, error){ParseID, ParseIDPadded} {
			id, err := parse(text)
			require.NoError(t, err, text)
			require.Equal(t, want, id.String(), text)
			require.Equal(t, strings.ReplaceAll(want, ":", "-"), id.FileName(), text)
		}
	}
	long := strings.Repeat("9", 1000)
	for text, want := range map[string]string{
		"":                    `invalid vnet id "": it is empty`,
		"0":                   `invalid vnet id "0": it is zero`,
		"0000":                `invalid vnet id "0000": it is zero`,
		"0:0:0:0:0:0:0:0":     `invalid vnet id "0:0:0:0:0:0:0:0": it is zero`,
		"12345":               `invalid vnet id "12345": group "12345" is not 1 to 4 hexadecimal digits`,
		"00097":               `invalid vnet id "00097": group "00097" is not 1 to 4 hexadecimal digits`,
		"xyz":                 `invalid vnet id "xyz": group "xyz" is not 1 to 4 hexadecimal digits`,
		"0x97":                `invalid vnet id "0x97": group "0x97" is not 1 to 4 hexadecimal digits`,
		"-1":                  `invalid vnet id "-1": group "-1" is not 1 to 4 hexadecimal digits`,
		"+1":                  `invalid vnet id "+1": group "+1" is not 1 to 4 hexadecimal digits`,
		"1_2":                 `invalid vnet id "1_2": group "1_2" is not 1 to 4 hexadecimal digits`,
		" 97":                 `invalid vnet id " 97": group " 97" is not 1 to 4 hexadecimal digits`,
		"1:2":                 `invalid vnet id "1:2": it has 2 groups instead of 1 or 8`,
		"::97":                `invalid vnet id "::97": it has 3 groups instead of 1 or 8`,
		"1:2:3:4:5:6:7":       `invalid vnet id "1:2:3:4:5:6:7": it has 7 groups instead of 1 or 8`,
		"1:2:3:4:5:6:7:8:9":   `invalid vnet id "1:2:3:4:5:6:7:8:9": it has 9 groups instead of 1 or 8`,
		"1:2:3:4::6:7:8":      `invalid vnet id "1:2:3:4::6:7:8": group 5 is empty`,
		"1:2:3:4:5:6:7:":      `invalid vnet id "1:2:3:4:5:6:7:": group 8 is empty`,
		"1:2:3:4:5:6:7:10000": `invalid vnet id "1:2:3:4:5:6:7:10000": group "10000" is not 1 to 4 hexadecimal digits`,
		long:                  `invalid vnet id "` + long[:64] + `...": group "` + long[:64] + `..." is not 1 to 4 hexadecimal digits`,
	} {
		_, err := ParseID(text)
		require.EqualError(t, err, want)
		var invalid *IDError
		require.ErrorAs(t, err, &invalid)
		require.Equal(t, text, invalid.Text)
	}
}

func TestParseIDPadded(t *testing.T) {
	id, err := ParseIDPadded("1:2")
	require.NoError(t, err)
	require.Equal(t, "0000:0000:0000:0000:0000:0000:0001:0002", id.String())
	id, err = ParseIDPadded("1:2:3:4:5:6:7")
	require.NoError(t, err)
	require.Equal(t, "0000:0001:0002:0003:0004:0005:0006:0007", id.String())
	for _, text := range []string{"", ":", "1:", ":1", "0:0", "1:2:3:4:5:6:7:8:9", "12345:1", "g:1"} {
		_, err := ParseIDPadded(text)
		require.Error(t, err, text)
	}
}

func TestIDKinds(t *testing.T) {
	for text, want := range map[string][2]bool{
		"1": {true, false}, "2": {false, true}, "3": {false, true}, "4": {false, true},
		"5": {}, "1:0:0:0:0:0:0:1": {}, "1:0:0:0:0:0:0:2": {}, "100": {}, "102": {},
	} {
		id, err := ParseID(text)
		require.NoError(t, err)
		require.Equal(t, want, [2]bool{id.Reserved(), id.Default()}, text)
	}
}

func TestCompare(t *testing.T) {
	var ids []ID
	for _, text := range []string{"1:0:0:0:0:0:0:0", "97", "0:0:0:0:0:0:1:0", "2", "ff"} {
		id, err := ParseID(text)
		require.NoError(t, err)
		ids = append(ids, id)
	}
	slices.SortFunc(ids, ID.Compare)
	var sorted []string
	for _, id := range ids {
		sorted = append(sorted, id.String())
	}
	require.Equal(t, []string{
		"0000:0000:0000:0000:0000:0000:0000:0002",
		"0000:0000:0000:0000:0000:0000:0000:0097",
		"0000:0000:0000:0000:0000:0000:0000:00ff",
		"0000:0000:0000:0000:0000:0000:0001:0000",
		"0001:0000:0000:0000:0000:0000:0000:0000",
	}, sorted)
	require.Zero(t, ids[0].Compare(ids[0]))
}

func FuzzParseID(f *testing.F) {
	for _, s := range []string{"97", full97, "1:2", "::", "0", "12345", "xyz", "1:2:3:4:5:6:7:8", "é", "1:2:3:4:5:6:7:8:9"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		padded, paddedErr := ParseIDPadded(s)
		id, err := ParseID(s)
		if err == nil {
			require.NoError(t, paddedErr)
			require.Equal(t, id, padded)
			require.NotEqual(t, ID{}, id)
		}
		if paddedErr == nil {
			again, err := ParseID(padded.String())
			require.NoError(t, err)
			require.Equal(t, padded, again)
			for _, name := range []string{DefaultBridge(padded, s), DefaultVnetif(padded, s)} {
				require.NoError(t, CheckDeviceName(name))
			}
		}
	})
}

func TestShort(t *testing.T) {
	for text, want := range map[string]string{"97": "97", "0097": "97", "1a2b": "1a2b", "0:0:0:0:0:0:1:97": "0000:0000:0000:0000:0000:0000:0001:0097"} {
		id, err := ParseID(text)
		require.NoError(t, err)
		require.Equal(t, want, id.Short())
		require.Equal(t, want, ShortText(id.String()))
		again, err := ParseID(id.Short())
		require.NoError(t, err)
		require.Equal(t, id, again)
	}
	require.Equal(t, "none", ShortText("none"), "no id")
}
