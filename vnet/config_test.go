package vnet

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/xenvnet/xend/sxp"
)

func TestParseConfig(t *testing.T) {
	digest := sha256.Sum256([]byte("0001:0002:0003:0004:0005:0006:0007:0008"))
	short := hex.EncodeToString(digest[:])[:10]
	for _, test := range []struct {
		text, id, idText, bridge, vnetif string
		security                         Security
		unknown                          []string
	}{
		{text: "(vnet (id 97) (bridge vnet97) (vnetif vnif97) (security none))", idText: "97", bridge: "vnet97", vnetif: "vnif97"},
		{text: "(vnet (id 97))", idText: "97", bridge: "vnet97", vnetif: "vnif97"},
		{text: "# one\n(vnet\n (security 'conf')(bridge 'a-b.c')\n (id \"0097\")\n)\n", idText: "0097", bridge: "a-b.c", vnetif: "vnif0097", security: Conf},
		{text: "(vnet (id 97) (vnetif eth0.5) (security auth))", idText: "97", bridge: "vnet97", vnetif: "eth0.5", security: Auth},
		{text: "(vnet (@ (x y)) (id 97))", idText: "97", bridge: "vnet97", vnetif: "vnif97"},
		{text: "(vnet (id aBc))", id: "0000:0000:0000:0000:0000:0000:0000:0abc", idText: "aBc", bridge: "vnetaBc", vnetif: "vnifaBc"},
		{text: "(vnet (id 0:0:0:0:0:0:1:2))", id: "0000:0000:0000:0000:0000:0000:0001:0002", idText: "0:0:0:0:0:0:1:2", bridge: "vnet10002", vnetif: "vnif10002"},
		{text: "(vnet (id 0:0:0:0:0:0:0:97))", idText: "0:0:0:0:0:0:0:97", bridge: "vnet97", vnetif: "vnif97"},
		{text: "(vnet (id 0:0:0:0:0:12:3456:789A))", id: "0000:0000:0000:0000:0000:0012:3456:789a", idText: "0:0:0:0:0:12:3456:789A", bridge: "vnet123456789a", vnetif: "vnif123456789a"},
		{text: "(vnet (id 1:2:3:4:5:6:7:8))", id: "0001:0002:0003:0004:0005:0006:0007:0008", idText: "1:2:3:4:5:6:7:8", bridge: "vnet" + short, vnetif: "vnif" + short},
		{text: "(vnet (id 97) (vnetif_ v) stray ((x)) () (bridge 14characters--) (vnetif_ w))", idText: "97",
			bridge: "14characters--", vnetif: "vnif97", unknown: []string{"vnetif_", `"stray"`, "(( ...) ...)", "()", "vnetif_"}},
		{text: "(vnet (id 97) (bridge br\xc3\xa9))", idText: "97", bridge: "br\xc3\xa9", vnetif: "vnif97"},
		{text: "(vnet (id 97) (bridge 15characters---) (vnetif) (security))", idText: "97", bridge: "15characters---", vnetif: "vnif97"},
		{text: "(vnet (id 97) (bridge) (vnetif '') (security ''))", idText: "97", bridge: "vnet97", vnetif: "vnif97"},
		{text: "(vnet (id 97) (mac a) (mac b))", idText: "97", bridge: "vnet97", vnetif: "vnif97", unknown: []string{"mac", "mac"}},
	} {
		t.Run(test.text, func(t *testing.T) {
			c, err := ParseConfig([]byte(test.text))
			require.NoError(t, err)
			if test.id == "" {
				test.id = full97
			}
			require.Equal(t, test.id, c.ID.String())
			require.Equal(t, test.idText, c.IDText)
			require.Equal(t, test.bridge, c.Bridge)
			require.Equal(t, test.vnetif, c.Vnetif)
			require.Equal(t, test.security, c.Security)
			require.Equal(t, test.unknown, c.Unknown)
			given, err := sxp.Parse([]byte(test.text), sxp.Xend)
			require.NoError(t, err)
			require.True(t, c.Form.Equal(given[0]), "the form is as it was given")
		})
	}
}

func TestParseConfigErrors(t *testing.T) {
	const config = "invalid vnet config: "
	for text, want := range map[string]string{
		"":                                    config + "it is empty, a (vnet ...) form is expected",
		" # nothing\n":                        config + "it is empty, a (vnet ...) form is expected",
		")":                                   "Coercion to sxpr failed: syntax error: ) (line 1, column 1)",
		"(vnet \"x":                           "Coercion to sxpr failed: unexpected EOF (line 1, column 9): the string that begins at line 1, column 7 is not closed",
		"(vnet\n(id 98)\n":                    "Coercion to sxpr failed: unexpected EOF (line 3, column 1): the list that begins at line 1, column 1 is not closed",
		"(vnet (id 1))(vnet (id 2))":          "Too many sxprs",
		"(vnet (id 97)) x":                    "Too many sxprs",
		"vnet":                                config + `"vnet" is not a (vnet ...) form`,
		"()":                                  config + "() is not a (vnet ...) form",
		"(vm (name vm1))":                     config + "(vm ...) is not a (vnet ...) form",
		"((vnet) (id 97))":                    config + "(( ...) ...) is not a (vnet ...) form",
		"(VNET (id 97))":                      config + "(VNET ...) is not a (vnet ...) form",
		"(vnet)":                              config + "id: it is missing",
		"(vnet (bridge b))":                   config + "id: it is missing",
		"(vnet id 97)":                        config + "id: it is missing",
		"(vnet (id))":                         config + `id: invalid vnet id "": it is empty`,
		"(vnet (id 97 98))":                   config + "id: it has 2 values instead of one",
		"(vnet (id (97)))":                    config + "id: its value is a list",
		"(vnet (id 97) (id 97))":              config + "id: it is given more than once",
		"(vnet (id ''))":                      config + `id: invalid vnet id "": it is empty`,
		"(vnet (id 0))":                       config + `id: invalid vnet id "0": it is zero`,
		"(vnet (id 1))":                       config + `id: invalid vnet id "1": id 1 is reserved for the physical network`,
		"(vnet (id 0:0:0:0:0:0:0:1))":         config + `id: invalid vnet id "0:0:0:0:0:0:0:1": id 1 is reserved for the physical network`,
		"(vnet (id xyz))":                     config + `id: invalid vnet id "xyz": group "xyz" is not 1 to 4 hexadecimal digits`,
		"(vnet (id 97) (bridge)(bridge a))":   config + "bridge: it is given more than once",
		"(vnet (id 97) (bridge a b))":         config + "bridge: it has 2 values instead of one",
		"(vnet (id 97) (bridge a)(bridge a))": config + "bridge: it is given more than once",
		"(vnet (id 97) (bridge 16characters----))": config + `bridge: the name "16characters----" is longer than 15 characters`,
		"(vnet (id 97) (vnetif a/b))":              config + `vnetif: the name "a/b" contains "/", which no device name may`,
		"(vnet (id 97) (vnetif a:b))":              config + `vnetif: the name "a:b" contains ":", which no device name may`,
		"(vnet (id 97) (vnetif 'a b'))":            config + `vnetif: the name "a b" contains whitespace`,
		"(vnet (id 97) (vnetif 'a\\n'))":           config + `vnetif: the name "a\n" contains whitespace`,
		"(vnet (id 97) (vnetif 'a\\v'))":           config + `vnetif: the name "a\v" contains whitespace`,
		"(vnet (id 97) (vnetif '\\xa0'))":          config + `vnetif: the name "\xa0" contains whitespace`,
		"(vnet (id 97) (vnetif 'a\\0'))":           config + `vnetif: the name "a\x00" contains a control character`,
		"(vnet (id 97) (vnetif 'a\\x7f'))":         config + `vnetif: the name "a\x7f" contains a control character`,
		"(vnet (id 97) (vnetif v%d))":              config + `vnetif: the name "v%d" contains "%", which the kernel would replace`,
		"(vnet (id 97) (vnetif .))":                config + `vnetif: a device cannot be named "."`,
		"(vnet (id 97) (bridge ..))":               config + `bridge: a device cannot be named ".."`,
		"(vnet (id 97) (bridge all))":              config + `bridge: a device cannot be named "all"`,
		"(vnet (id 97) (bridge default))":          config + `bridge: a device cannot be named "default"`,
		"(vnet (id 97) (bridge x) (vnetif x))":     config + `vnetif: the bridge and the interface are both named "x"`,
		"(vnet (id 97) (bridge vnif97))":           config + `vnetif: the bridge and the interface are both named "vnif97"`,
		"(vnet (id 97) (security foo))":            config + `security: unknown security level "foo": it must be none, auth or conf`,
		"(vnet (id 97) (security None))":           config + `security: unknown security level "None": it must be none, auth or conf`,
		"(vnet (id 97) (security (none)))":         config + "security: its value is a list",
	} {
		c, err := ParseConfig([]byte(text))
		require.EqualError(t, err, want, text)
		require.Equal(t, Config{}.ID, c.ID)
		var form *FormError
		var field *FieldError
		if strings.Contains(want, config) && !strings.HasSuffix(want, "form") && !strings.HasSuffix(want, "expected") {
			require.ErrorAs(t, err, &field)
		} else {
			require.ErrorAs(t, err, &form)
		}
	}

	_, err := ParseConfig([]byte("(vnet"))
	var syntax *sxp.SyntaxError
	require.ErrorAs(t, err, &syntax)
	_, err = ParseConfig([]byte("a b"))
	require.ErrorIs(t, err, ErrTooMany)
	_, err = ParseConfig([]byte("(vnet (id x))"))
	var id *IDError
	require.ErrorAs(t, err, &id)
}

func TestErrorsAreShort(t *testing.T) {
	long := strings.Repeat("x", 1<<18)
	for _, text := range []string{long, "(" + long + ")", "(vnet (id " + long + "))", "(vnet (id 1) (bridge " + long + "))", "(vnet (id 97) (security " + long + "))"} {
		_, err := ParseConfig([]byte(text))
		require.Error(t, err)
		require.Less(t, len(err.Error()), 300)
	}
	c, err := ParseConfig([]byte("(vnet (id 97) " + long + "(" + long + "))"))
	require.NoError(t, err)
	require.Less(t, len(strings.Join(c.Unknown, "")), 200)
}

func TestDefaultNames(t *testing.T) {
	for _, test := range []struct{ id, text, want string }{
		{full97, "97", "97"},
		{full97, "0097", "0097"},
		{full97, full97, "97"},
		{"0:0:0:0:0:ff:ffff:ffff", "0:0:0:0:0:ff:ffff:ffff", "ffffffffff"},
		{"0:0:0:0:0:1ff:ffff:ffff", "0:0:0:0:0:1ff:ffff:ffff", ""},
		{"0:0:0:0:0:0:1:2", "1:2", "10002"},
		{"0:0:0:0:0:0:1:2", "0123456789a", "10002"}, // too long
	} {
		id, err := ParseID(test.id)
		require.NoError(t, err)
		if test.want == "" {
			sum := sha256.Sum256([]byte(id.String()))
			test.want = hex.EncodeToString(sum[:])[:10]
		}
		require.Equal(t, "vnet"+test.want, DefaultBridge(id, test.text))
		require.Equal(t, "vnif"+test.want, DefaultVnetif(id, test.text))
	}
}

func TestSecurity(t *testing.T) {
	for _, level := range []Security{None, Auth, Conf} {
		again, err := ParseSecurity(level.String())
		require.NoError(t, err)
		require.Equal(t, level, again)
	}
	require.Equal(t, "security(3)", Security(3).String())
}

func TestDefaultVnets(t *testing.T) {
	vnets := DefaultVnets()
	require.Len(t, vnets, 3)
	for i, want := range []string{"vnif0002", "vnif0003", "vnif0004"} {
		c := vnets[i]
		require.True(t, c.ID.Default())
		require.Equal(t, want, c.Vnetif)
		require.Empty(t, c.Bridge)
		require.Equal(t, None, c.Security)
		again, err := ConfigFromSXP(c.Form)
		require.NoError(t, err)
		require.Equal(t, c.ID, again.ID)
		require.Equal(t, c.IDText, again.IDText)
		require.Equal(t, c.Vnetif, again.Vnetif)
	}
}

func FuzzParseConfig(f *testing.F) {
	for _, s := range []string{
		"(vnet (id 97) (bridge vnet97) (vnetif vnif97) (security none))",
		"(vnet (id 1:2:3:4:5:6:7:8) (x y))", "(vnet (@ (a b)) (id 0:0:0:0:0:0:1:2))", "()", "(vnet (id 97", "a b",
		"(vnet (id 97) (bridge 'a\\0b'))",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		c, err := ParseConfig(text)
		if err != nil {
			require.NotEmpty(t, err.Error())
			return
		}
		require.NoError(t, CheckDeviceName(c.Bridge))
		require.NoError(t, CheckDeviceName(c.Vnetif))
		require.NotEqual(t, c.Bridge, c.Vnetif)
		require.False(t, c.ID.Reserved() || c.ID == ID{})

		// What the registry writes reads as the same.
		again, err := ParseConfig(sxp.AppendPretty(nil, c.Form, 80))
		require.NoError(t, err)
		require.True(t, c.Form.Equal(again.Form))
		c.Form, again.Form = sxp.Value{}, sxp.Value{}
		require.Equal(t, c, again)
	})
}
