package codec

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/xenvnet/xend/sxp"
)

// callOf is a call with one parameter, whose value is given as XML.
func callOf(value string) string {
	return "<?xml version='1.0'?>\n<methodCall>\n<methodName>m</methodName>\n<params>\n<param>\n" + value + "\n</param>\n</params>\n</methodCall>\n"
}

func TestDecodeValues(t *testing.T) {
	for value, want := range map[string]any{
		"<value>text</value>":                                                   "text",
		"<value> a &lt;b&gt; &amp;&#39;</value>":                                " a <b> &'",
		"<value></value>":                                                       "",
		"<value/>":                                                              "",
		"<value><string/></value>":                                              "",
		"<value><string> x </string></value>":                                   " x ",
		"<value>\n <string>x</string>\n</value>":                                "x",
		"<value><![CDATA[<x>]]></value>":                                        "<x>",
		"<value>a<!-- no -->b</value>":                                          "ab",
		"<value><int>-5</int></value>":                                          int64(-5),
		"<value><i4> 5 </i4></value>":                                           int64(5),
		"<value><i8>5000000000</i8></value>":                                    int64(5000000000),
		"<value><ex:i8 xmlns:ex='http://x/'>1</ex:i8></value>":                  int64(1),
		"<value><boolean>1</boolean></value>":                                   true,
		"<value><boolean>false</boolean></value>":                               false,
		"<value><double>-1.5e3</double></value>":                                -1500.0,
		"<value><nil/></value>":                                                 nil,
		"<value><ex:nil/></value>":                                              nil,
		"<value><base64>aGVs\n bG8=\n</base64></value>":                         []byte("hello"),
		"<value><dateTime.iso8601>20060323T10:58:39</dateTime.iso8601></value>": time.Date(2006, 3, 23, 10, 58, 39, 0, time.UTC),
		"<value><array><data></data></array></value>":                           []any{},
		"<value><array/></value>":                                               []any{},
		"<value><array><data><value>a</value><value><array><data><value><int>1</int></value></data></array></value></data></array></value>":         []any{"a", []any{int64(1)}},
		"<value><struct><member><name>a</name><value><int>1</int></value></member><member><value>x</value><name>b</name></member></struct></value>": Struct{{"a", int64(1)}, {"b", "x"}},
		"<value><strange>x</strange></value>": "x",
	} {
		got, err := DecodeCall([]byte(callOf(value)))
		require.NoError(t, err, value)
		require.Equal(t, Call{"m", []any{want}}, got, value)
	}
}

func TestDecodeErrors(t *testing.T) {
	for text, want := range map[string]string{
		"":              "not an XML-RPC call: unexpected EOF",
		"hello":         "not an XML-RPC call: unexpected EOF",
		"<methodCall>":  "not an XML-RPC call",
		"<x></x>":       "not an XML-RPC call: element x instead of methodCall",
		"<methodCall/>": "it has no method name",
		"<methodCall><methodName>m</methodName><params>":                 "not an XML-RPC call",
		callOf("<value><int>x</int></value>"):                            `not an integer: "x"`,
		callOf("<value><int></int></value>"):                             `not an integer: ""`,
		callOf("<value><boolean>2</boolean></value>"):                    `not a boolean: "2"`,
		callOf("<value><double>NaN</double></value>"):                    `not a double: "NaN"`,
		callOf("<value><base64>???</base64></value>"):                    "base64: ",
		callOf("<value><dateTime.iso8601>x</dateTime.iso8601></value>"):  `not a date: "x"`,
		callOf("<value><int>1</int><int>2</int></value>"):                "a second type",
		callOf("<value>&nosuch;</value>"):                                "invalid character entity",
		callOf("<value>" + strings.Repeat("<array><data><value>", 2000)): "nested more than 1000 deep",
		// No entity is ever expanded.
		`<!DOCTYPE x [<!ENTITY e "eeee">]>` + callOf("<value>&e;</value>"): "invalid character entity",
	} {
		_, err := DecodeCall([]byte(text))
		require.ErrorContains(t, err, want, "%.200q", text)
	}
}

func TestDecodeEncodings(t *testing.T) {
	for _, declaration := range []string{"", "<?xml version='1.0'?>", "<?xml version='1.0' encoding='UTF-8'?>", "<?xml version='1.0' encoding='iso-8859-1'?>"} {
		body := strings.TrimPrefix(callOf("<value>\xc3\xa4</value>"), "<?xml version='1.0'?>")
		got, err := DecodeCall([]byte(declaration + body))
		require.NoError(t, err)
		require.Equal(t, []any{"ä"}, got.Params)
		got, err = DecodeCall([]byte(declaration + strings.Replace(body, "\xc3\xa4", "\xe4", 1)))
		require.NoError(t, err, "no UTF-8")
		require.Equal(t, []any{"ä"}, got.Params)
	}
}

func TestEncode(t *testing.T) {
	for want, v := range map[string]any{
		"<value><nil/></value>\n":                                 nil,
		"<value><int>5</int></value>\n":                           int64(5),
		"<value><i8>5000000000</i8></value>\n":                    int64(5000000000),
		"<value><double>12.345678</double></value>\n":             12.345678,
		"<value><double>100.0</double></value>\n":                 100.0,
		"<value><boolean>1</boolean></value>\n":                   true,
		"<value><string>&lt;&amp;&gt;\n&#13;ä</string></value>\n": "<&>\n\rä",
		"<value><string>ä??</string></value>\n":                   "\xe4\x00\x1b",
		"<value><base64>aGVsbG8=</base64></value>\n":              []byte("hello"),
		"<value><array><data>\n</data></array></value>\n":         []any{},
		"<value><struct>\n<member>\n<name>a</name>\n<value><string>b</string></value>\n</member>\n</struct></value>\n": Struct{{"a", "b"}},
	} {
		require.Equal(t, want, string(appendValue(nil, v)))
	}
}

func TestEscape(t *testing.T) {
	for _, text := range []string{"", "a\\b'c\"\n\r\t\x00\x7fä", "\\", "\\x"} {
		require.Equal(t, text, Unescape(Escape(text)))
	}
	require.Equal(t, `a\\b\'c"\n\r\t\x00\x7f\xc3\xa4`, Escape("a\\b'c\"\n\r\t\x00\x7fä"))
}

func TestFromSXP(t *testing.T) {
	numbers := Numbers{}.With(Integer, "domid", "memory", "maxmem", "vcpus", "backend-id").With(Double, "cpu_time")
	v, err := sxp.Parse([]byte("(domain (domid 3) (name 3) (cpu_time 12.5) (memory x) (maxmem 64 65) (vcpus (1)) (0 ((backend-id 0) (mac 1))) ())"), sxp.Xend)
	require.NoError(t, err)
	require.Equal(t, []any{"domain", []any{"domid", int64(3)}, []any{"name", "3"}, []any{"cpu_time", 12.5}, []any{"memory", "x"},
		[]any{"maxmem", int64(64), "65"}, []any{"vcpus", []any{"1"}}, []any{"0", []any{[]any{"backend-id", int64(0)}, []any{"mac", "1"}}}, []any{}},
		FromSXP(v[0], numbers))
	require.Equal(t, "((a 5) x 1 '' 1.5 b)", ToSXP([]any{[]any{"a", int64(5)}, "x", true, nil, 1.5, []byte("b")}).String())
	require.Equal(t, "((a 5))", ToSXP(Struct{{"a", int64(5)}}).String())
}

func FuzzDecode(f *testing.F) {
	for _, s := range []string{
		callOf("<value>x</value>"),
		callOf("<value><array><data><value><i4>1</i4></value></data></array></value>"),
		callOf("<value><struct><member><name>a</name><value><double>1.5</double></value></member></struct></value>"),
		"<methodResponse><fault><value><struct><member><name>faultCode</name><value><int>3</int></value></member></struct></value></fault></methodResponse>",
		"<?xml version='1.0' encoding='iso-8859-1'?>\xe4",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		_, _ = DecodeResponse(b)
		call, err := DecodeCall(b)
		if err != nil {
			return
		}
		// What was understood can be said again, and is understood in the same way.
		again, err := DecodeCall(EncodeCall(call))
		require.NoError(t, err)
		require.Equal(t, fmt.Sprintf("%#v", normal(call)), fmt.Sprintf("%#v", normal(again)))
	})
}

// normal drops what is not carried: the zone and the fraction of a time.
func normal(v any) any {
	switch v := v.(type) {
	case Call:
		return []any{strings.TrimSpace(v.Method), normal(v.Params)}
	case []any:
		out := make([]any, len(v))
		for i := range v {
			out[i] = normal(v[i])
		}
		return out
	case Struct:
		out := make(Struct, len(v))
		for i := range v {
			out[i] = Member{v[i].Name, normal(v[i].Value)}
		}
		return out
	case time.Time:
		return v.Format(dateLayout)
	}
	return v
}
