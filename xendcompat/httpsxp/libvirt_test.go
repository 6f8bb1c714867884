package httpsxp

import (
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/xenvnet/xend/sxp"
	"github.com/xenvnet/xend/xendcompat/fronttest"
)

// virsh is libvirt's xend driver: how it writes requests, and what it can read of replies. Late versions encode every byte
// that is no letter or digit, in lower-case hexadecimal, keys, too; those up to 0.9.4 send values as they are.
type virsh struct {
	t       *testing.T
	address string
	raw     bool
}

func (v virsh) send(request string) reply {
	v.t.Helper()
	conn := fronttest.Dial(v.t, v.address)
	for len(request) > 0 { // in many small segments
		n := min(11, len(request))
		_, err := io.WriteString(conn, request[:n])
		require.NoError(v.t, err)
		request = request[n:]
	}
	r := parseReply(v.t, "", fronttest.ReadAll(v.t, conn))
	require.True(v.t, strings.HasPrefix(r.line, "HTTP/1.1 "))
	require.NotEmpty(v.t, r.header.Get("Content-Length"))
	require.Empty(v.t, r.header.Get("Transfer-Encoding"))
	require.Less(v.t, len(r.body), 4000)
	require.NotContains(v.t, r.body, `"`, "it knows single quotes only")
	return r
}

func (v virsh) get(path string) reply {
	v.t.Helper()
	return v.send("GET " + path + " HTTP/1.1\r\nHost: localhost:8000\r\nContent-Type: application/x-www-form-urlencoded\r\n\r\n")
}

func (v virsh) form(path string) sxp.Value {
	v.t.Helper()
	r := v.get(path)
	require.Equal(v.t, ok, r.line, r.body)
	values, err := sxp.Parse([]byte(r.body), sxp.Xend)
	require.NoError(v.t, err)
	require.Len(v.t, values, 1)
	return values[0]
}

func (v virsh) encode(s string) string {
	if v.raw {
		return s
	}
	var b strings.Builder
	for i := range len(s) {
		c := s[i]
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "%%%02x", c)
		}
	}
	return b.String()
}

// post sends an operation; params are names and values.
func (v virsh) post(path string, params ...string) reply {
	v.t.Helper()
	var fields []string
	for i := 0; i < len(params); i += 2 {
		fields = append(fields, v.encode(params[i])+"="+v.encode(params[i+1]))
	}
	body := strings.Join(fields, "&")
	return v.send(fmt.Sprintf("POST %s HTTP/1.1\r\nHost: localhost:8000\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: %d\r\n\r\n%s", path, len(body), body))
}

// done posts an operation that must succeed as libvirt sees it: 200, 201 or 202, and no error in the body.
func (v virsh) done(path string, params ...string) string {
	v.t.Helper()
	r := v.post(path, params...)
	require.Contains(v.t, []string{"HTTP/1.1 200 OK", "HTTP/1.1 201 created", "HTTP/1.1 202 Accepted"}, r.line, r.body)
	require.NotContains(v.t, r.body, "xend.err")
	if strings.Contains(r.line, "202") {
		require.NotContains(v.t, r.body, "failed")
	}
	return r.body
}

func (v virsh) refused(text, path string, params ...string) {
	v.t.Helper()
	r := v.post(path, params...)
	require.Equal(v.t, ok, r.line)
	require.Contains(v.t, r.body, "(xend.err ")
	require.Contains(v.t, r.body, text)
}

// names are those of a flat list.
func (v virsh) names(path string) string {
	v.t.Helper()
	var names []string
	for _, e := range v.form(path).Items() {
		names = append(names, e.Text())
	}
	return strings.Join(names, " ")
}

// TestLibvirtDomains plays virsh's life with domains, in both ways that it wrote requests.
func TestLibvirtDomains(t *testing.T) {
	for name, raw := range map[string]bool{"raw": true, "encoded": false} {
		t.Run(name, func(t *testing.T) {
			tool, d, address := startDomains(t)
			v := virsh{t, address, raw}
			v.done("/xend/vnet", "op", "create", "config", "(vnet (id 97))")

			// Connecting.
			fronttest.Dial(t, address).Close() // a probe
			node := v.form("/xend/node/")
			require.Equal(t, "4", node.ChildValue("xend_config_format", ""))
			require.Equal(t, "Domain-0", v.names("/xend/domain"))
			require.Equal(t, "", v.names("/xend/domain?state=halted"))

			// virsh define, list --inactive, start.
			const config = `(vm (name 'vm1')(memory 64)(maxmem 128)(vcpus 2)(uuid '06ed00fe-1162-4fc4-b5d8-11993ee4a8b9')(on_poweroff 'destroy')(on_reboot 'restart')(on_crash 'restart')(image (linux (kernel '/boot/vmlinuz')(root '/dev/xvda1')(args 'x & y=z % it\'s; done')))(device (vif (mac '00:16:3e:00:00:01')(bridge 'vnet97')(script 'vif-bridge')))(device (vbd (dev 'xvda1:disk')(uname 'phy:/dev/vg/vm1')(mode 'w'))))`
			v.done("/xend/domain/", "op", "new", "config", config)
			require.Equal(t, "vm1", v.names("/xend/domain?state=halted"))
			require.Equal(t, "Domain-0", v.names("/xend/domain"))
			halted := v.form("/xend/domain/vm1?detail=1")
			_, running := halted.Child("domid")
			require.False(t, running)
			require.Equal(t, "06ed00fe-1162-4fc4-b5d8-11993ee4a8b9", halted.ChildValue("uuid", ""))
			require.Contains(t, v.get("/xend/domain/vm1?detail=1").body, `(args 'x & y=z % it\'s; done')`)
			v.done("/xend/domain/vm1", "op", "start")
			require.Equal(t, "Domain-0 vm1", v.names("/xend/domain"))
			require.Equal(t, "", v.names("/xend/domain?state=halted"))

			// dominfo, by name, id and uuid.
			for _, key := range []string{"vm1", "1", "06ed00fe-1162-4fc4-b5d8-11993ee4a8b9"} {
				f := v.form("/xend/domain/" + key + "?detail=1")
				for _, field := range []string{"domid", "uuid", "name", "state", "memory", "maxmem", "vcpus", "vcpu_avail", "cpu_time", "cpu_weight", "cpu_cap",
					"on_poweroff", "on_reboot", "on_crash", "on_xend_start"} {
					require.NotEmpty(t, f.ChildValue(field, ""), field)
				}
				require.NotContains(t, f.ChildValue("memory", ""), ".")
				image, _ := f.Child("image")
				require.Equal(t, "/boot/vmlinuz", image.Items()[1].ChildValue("kernel", ""))
				var kinds []string
				for _, dev := range f.Children("device") {
					kinds = append(kinds, dev.Items()[1].Name())
				}
				require.Equal(t, []string{"vif", "vbd"}, kinds)
			}
			require.Equal(t, "HTTP/1.1 404 Not found", v.get("/xend/domain/nosuch?detail=1").line)

			// vcpuinfo, setvcpus, vcpupin, schedinfo, setmem, setmaxmem.
			info := v.form("/xend/domain/vm1?op=vcpuinfo")
			require.Len(t, info.Children("vcpu"), 2)
			require.Equal(t, "1", info.Children("vcpu")[1].ChildValue("number", ""))
			v.done("/xend/domain/vm1", "op", "set_vcpus", "vcpus", "1")
			v.done("/xend/domain/vm1", "op", "pincpu", "vcpu", "0", "cpumap", "0")
			v.done("/xend/domain/vm1", "op", "domain_sched_credit_set", "weight", "512", "cap", "50")
			v.done("/xend/domain/vm1", "op", "mem_target_set", "target", "48")
			v.done("/xend/domain/vm1", "op", "maxmem_set", "memory", "256")
			f := v.form("/xend/domain/vm1?detail=1")
			require.Equal(t, []string{"512", "50", "48", "256", "1"}, []string{f.ChildValue("cpu_weight", ""), f.ChildValue("cpu_cap", ""),
				f.ChildValue("memory", ""), f.ChildValue("maxmem", ""), f.ChildValue("vcpu_avail", "")})

			// attach-device, detach-device.
			v.done("/xend/domain/vm1", "op", "device_create", "config", "(vif (mac '00:16:3e:00:00:02')(bridge 'vnet97'))")
			v.done("/xend/domain/vm1", "op", "device_create", "config", "(vbd (dev 'xvdb:disk')(uname 'file:/srv/b.img')(mode 'w'))")
			v.done("/xend/domain/vm1", "op", "device_configure", "config", "(vbd (dev 'xvdb:cdrom')(uname 'file:/srv/c.iso')(mode 'r'))", "dev", "xvdb")
			require.Contains(t, v.get("/xend/domain/vm1").body, "file:/srv/c.iso")
			require.NotContains(t, v.get("/xend/domain/vm1").body, "b.img")
			v.refused("not connected", "/xend/domain/vm1", "op", "device_configure", "config", "(vbd (dev 'hdc:cdrom')(uname 'file:/x'))", "dev", "hdc")
			v.done("/xend/domain/vm1", "op", "device_destroy", "type", "vif", "dev", "1", "force", "0", "rm_cfg", "1")
			v.done("/xend/domain/vm1", "op", "device_destroy", "type", "vbd", "dev", "xvdb", "force", "0", "rm_cfg", "1")
			v.refused("not connected", "/xend/domain/vm1", "op", "device_destroy", "type", "vif", "dev", "9")

			// suspend, resume, dump, save, restore.
			v.done("/xend/domain/vm1", "op", "pause")
			require.Equal(t, "--p---", v.form("/xend/domain/vm1").ChildValue("state", ""))
			v.done("/xend/domain/vm1", "op", "unpause")
			v.done("/xend/domain/vm1", "op", "dump", "file", d.Dir+"/core", "live", "0", "crash", "0")
			v.done("/xend/domain/vm1", "op", "save", "file", d.Dir+"/vm1.save")
			require.Equal(t, "vm1", v.names("/xend/domain?state=halted"))
			v.done("/xend/domain/", "op", "restore", "file", d.Dir+"/vm1.save")
			require.Equal(t, "Domain-0 vm1", v.names("/xend/domain"))

			// create: it is made, its devices are waited for, it goes on.
			v.done("/xend/domain/", "op", "create", "config", "(vm (name 'vm2')(memory 32)(image (hvm (loader '/usr/lib/xen/boot/hvmloader')(vnc 1)(serial 'pty')))(device (vif (bridge 'vnet97')(model 'e1000')(type ioemu))))")
			v.done("/xend/domain/vm2", "op", "wait_for_devices")
			v.done("/xend/domain/vm2", "op", "unpause")
			require.Equal(t, "r-----", v.form("/xend/domain/vm2").ChildValue("state", ""))
			v.refused("no such bridge; vnets known here: 97 (vnet97)", "/xend/domain/", "op", "create", "config", "(vm (name 'vm3')(device (vif (bridge 'vnet98'))))")
			v.done("/xend/domain/vm2", "op", "migrate", "destination", "hostb", "live", "1", "port", "0", "node", "-1", "ssl", "0", "change_home_server", "0", "resource", "0")
			require.Contains(t, tool.Calls(), "migrate 3 hostb:0 live=true")

			// shutdown, undefine.
			v.refused("shut it down or destroy it first", "/xend/domain/vm1", "op", "delete")
			v.done("/xend/domain/vm1", "op", "shutdown", "reason", "poweroff")
			require.Eventually(t, func() bool { return v.names("/xend/domain?state=halted") == "vm1" }, 10*time.Second, time.Millisecond)
			v.done("/xend/domain/vm1", "op", "start")
			v.done("/xend/domain/vm1", "op", "destroy")
			v.done("/xend/domain/vm1", "op", "delete")
			require.Equal(t, "HTTP/1.1 404 Not found", v.get("/xend/domain/vm1?detail=1").line)
		})
	}
}

// TestBrowserDomains clicks a domain's life.
func TestBrowserDomains(t *testing.T) {
	tool, _, address := startDomains(t)
	send := func(method, path, body string) reply {
		t.Helper()
		return parseReply(t, "", fronttest.Exchange(t, address, fmt.Appendf(nil, "%s %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nUser-Agent: Mozilla/5.0\r\nAccept: text/html\r\n"+
			"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: %d\r\n\r\n%s", method, path, len(body), body)))
	}
	require.Contains(t, send("GET", "/xend/domain/", "").body, `value="create"`)
	r := send("POST", "/xend/domain", "op=create&config=%28vm+%28name+vm1%29%29")
	require.Equal(t, "/xend/domain/vm1", r.header.Get("Location"), r.body)
	require.Equal(t, []string{"create vm1", "unpause 1"}, tool.Calls())
	require.Contains(t, send("GET", "/xend/domain/", "").body, `href="/xend/domain/vm1"`)
	require.Contains(t, send("GET", "/xend/domain/vm1", "").body, `value="destroy"`)
	require.NotContains(t, send("GET", "/xend/domain/Domain-0", "").body, `value="destroy"`)
	r = send("POST", "/xend/domain", "op=create&config=%28vm+%28name+vm1%29%29")
	require.Contains(t, r.body, "the name vm1 is that of domain")
	require.Contains(t, r.body, "(vm (name vm1))", "what was refused can be mended")
	require.Contains(t, send("POST", "/xend/domain/Domain-0", "op=destroy").body, "Domain-0 is this host itself")
	require.Equal(t, "/xend/domain/vm1", send("POST", "/xend/domain/vm1", "op=pause").header.Get("Location"))
	require.Contains(t, send("GET", "/xend/domain/vm1", "").body, `value="unpause"`)
	require.Equal(t, "/xend/domain/", send("POST", "/xend/domain/vm1", "op=destroy").header.Get("Location"))
	require.Equal(t, "/xend/domain/vm2", send("POST", "/xend/domain", "op=new&config=%28vm+%28name+vm2%29%29").header.Get("Location"))
	require.Contains(t, send("GET", "/xend/domain/vm2", "").body, `value="start"`)
}
