package xmlrpc

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/xenvnet/xend/xendcompat/fronttest"
	"github.com/xenvnet/xend/xendcompat/httpx"
	"github.com/xenvnet/xend/xendcompat/xmlrpc/codec"
)

func TestVnetMethods(t *testing.T) {
	_, address, _ := start(t)
	for _, config := range []any{
		"(vnet (id 97))",
		"# comment\n(vnet (id 97))\n",
		" \n (vnet (id 97))",
		[]any{"vnet", []any{"id", "97"}},
		[]any{"vnet", []any{"id", int64(97)}},
	} {
		v, err := call(t, address, "xend_vnet_create", config)
		require.NoError(t, err)
		require.Nil(t, v, "a method without a value answers nil")
		v, err = call(t, address, "xend_vnets")
		require.NoError(t, err)
		require.Equal(t, []any{"97"}, v)
		v, err = call(t, address, "xend_vnet", "0:0:0:0:0:0:0:97")
		require.NoError(t, err)
		require.Equal(t, []any{"vnet", []any{"id", "97"}}, v)
		// A number is taken for its digits.
		_, err = call(t, address, "xend_vnet", int64(97))
		require.NoError(t, err)
		_, err = call(t, address, "xend_vnet_create", "(vnet (id 97) (bridge br1))")
		require.Equal(t, &Fault{Code: FaultGeneric, Text: "invalid vnet config: id: vnet 97 exists already, with bridge vnet97 instead of br1"}, err)
		_, err = call(t, address, "xend_vnet_create", config)
		require.NoError(t, err, "it is there as asked for")
		v, err = call(t, address, "xend_vnet_delete", "97")
		require.NoError(t, err)
		require.Nil(t, v)
	}
	for _, tt := range []struct {
		method string
		params []any
		fault  Fault
	}{
		{"xend_vnet", []any{"404"}, Fault{Code: FaultInternal, Text: "No such vnet 404"}},
		{"xend_vnet_delete", []any{"404"}, Fault{Code: FaultInternal, Text: "No such vnet 404"}},
		{"xend_vnet_delete", []any{"x y"}, Fault{Code: FaultInternal, Text: "No such vnet x y"}},
		{"xend_vnet", nil, Fault{Code: FaultGeneric, Text: "xend_vnet takes 1 parameter, not 0"}},
		{"xend_vnet", []any{[]any{}}, Fault{Code: FaultGeneric, Text: "xend_vnet: parameter 1 must be a string"}},
		{"xend_vnet_create", []any{"(vnet (id 98)"}, Fault{Code: FaultGeneric, Text: "Coercion to sxpr failed: unexpected EOF (line 1, column 14): the list that begins at line 1, column 1 is not closed"}},
		{"xend_vnet_create", []any{[]any{"vm"}}, Fault{Code: FaultGeneric, Text: "invalid vnet config: (vm ...) is not a (vnet ...) form"}},
		{"xend_vnet_create", []any{nil}, Fault{Code: FaultGeneric, Text: "xend_vnet_create: parameter 1 must be a string"}},
		{"xend_vnet_create", []any{"(vnet (id 98) (security conf))"}, Fault{Code: FaultGeneric, Text: "invalid vnet config: security: conf needs a key, and none is configured on this host"}},
		{"nosuch", nil, Fault{Code: FaultInternal, Text: `method "nosuch" is not supported`}},
		{"xend.domain.nosuch", []any{"x"}, Fault{Code: FaultInternal, Text: `method "xend.domain.nosuch" is not supported`}},
		{"xend.domains_with_state", []any{true, "odd"}, Fault{Code: FaultGeneric, Text: "unknown state: odd"}},
	} {
		_, err := call(t, address, tt.method, tt.params...)
		require.Equal(t, &tt.fault, err)
	}
}

func TestDomainMethods(t *testing.T) {
	_, address, _ := start(t)
	v, err := call(t, address, "xend.domains")
	require.NoError(t, err)
	forms := v.([]any)
	require.Len(t, forms, 1)
	require.Equal(t, "Domain-0", fields(forms[0])["name"])
	require.Equal(t, int64(0), fields(forms[0])["domid"])
	require.IsType(t, 1.5, fields(forms[0])["cpu_time"])
	for _, tt := range []struct {
		method string
		params []any
		want   any
	}{
		{"xend.domains", []any{false, false}, []any{"Domain-0"}},
		{"xend.domains", []any{int64(0)}, []any{"Domain-0"}},
		{"xend.domains_with_state", []any{false, "all", false}, []any{"Domain-0"}},
		{"xend.domains_with_state", []any{false, "halted"}, []any{}},
		{"xend.domain.getDeviceSxprs", []any{"Domain-0", "vif"}, []any{}},
		{"xend.domain.getDeviceSxprs", []any{int64(0), "vbd"}, []any{}},
	} {
		v, err := call(t, address, tt.method, tt.params...)
		require.NoError(t, err)
		require.Equal(t, tt.want, v, tt.method)
	}
	v, err = call(t, address, "xend.domain", int64(0), false)
	require.NoError(t, err)
	require.Equal(t, "Domain-0", fields(v)["name"])
	v, err = call(t, address, "xend.domain.getVCPUInfo", "Domain-0")
	require.NoError(t, err)
	require.Equal(t, "domain", v.([]any)[0])

	for _, method := range []string{"pause", "destroy", "device_create", "destroyDevice", "setVCpuCount", "migrate"} {
		// xm network-detach sends a nil, too.
		_, err := call(t, address, "xend.domain."+method, "Domain-0", "vif", nil, []any{"a"})
		require.ErrorContains(t, err, "is not supported")
		require.Equal(t, FaultGeneric, code(err))
		_, err = call(t, address, "xend.domain."+method, "nosuch")
		require.Equal(t, &Fault{Code: FaultNoDomain, Text: "nosuch"}, err)
	}
}

func TestNodeMethods(t *testing.T) {
	d := fronttest.New(t, false)
	address := d.Unix(t, New(d.Service, httpx.Options{Log: d.Log}))
	for _, params := range [][]any{nil, {int64(0)}} {
		v, err := call(t, address, "xend.node.info", params...)
		require.NoError(t, err)
		require.Equal(t, "Linux", fields(v)["system"])
		require.IsType(t, int64(0), fields(v)["nr_cpus"])
		require.IsType(t, int64(0), fields(v)["xend_config_format"])
	}
	log := "a 'b' \\ \xff\n"
	require.NoError(t, os.WriteFile(d.Dir+"/xend.log", []byte(log), 0o600))
	v, err := call(t, address, "xend.node.log")
	require.NoError(t, err)
	require.Equal(t, `a \'b\' \\ \xff\n`, v)
	_, err = call(t, address, "xend.node.dmesg.info")
	require.Error(t, err, "there is no hypervisor")
}

func TestIntrospection(t *testing.T) {
	_, address, _ := start(t)
	v, err := call(t, address, "system.listMethods")
	require.NoError(t, err)
	require.Contains(t, v, "xend_vnet_create")
	for _, name := range v.([]any) {
		help, err := call(t, address, "system.methodHelp", name)
		require.NoError(t, err)
		require.NotEmpty(t, help, name)
		signature, err := call(t, address, "system.methodSignature", name)
		require.NoError(t, err)
		require.Equal(t, "signatures not supported", signature)
	}
	v, err = call(t, address, "system.methodHelp", "nosuch")
	require.NoError(t, err)
	require.Equal(t, "", v)
}

func TestHTTP(t *testing.T) {
	_, address, _ := start(t)
	send := func(request string) string { return string(fronttest.Exchange(t, address, []byte(request))) }
	post := func(path, body string) string {
		return send(fmt.Sprintf("POST %s HTTP/1.1\r\nHost: /var/run/xend/xmlrpc.sock\r\nContent-Length: %d\r\n\r\n%s", path, len(body), body))
	}
	for _, path := range []string{"/RPC2", "/", "/any/path"} {
		require.Contains(t, post(path, string(codec.EncodeCall(codec.Call{Method: "xend_vnets"}))), "<array>")
	}
	require.Contains(t, post("/RPC2", "garbage"), "not an XML-RPC call")
	require.Contains(t, post("/RPC2", ""), "not an XML-RPC call")
	got := send("GET /RPC2 HTTP/1.1\r\n\r\n")
	require.True(t, strings.HasPrefix(got, "HTTP/1.1 501 Not implemented\r\n"), got)
	require.Contains(t, got, "Accept: POST\r\n")
}
