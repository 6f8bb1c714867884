package xmlrpc

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/xenvnet/xend/xendcompat/fronttest"
	"github.com/xenvnet/xend/xendcompat/xmlrpc/codec"
)

// clientArg makes the test binary a client, in a process of its own.
const clientArg = "be-client"

// beClient connects to the socket args[0], does what is said in args[2:], asks for a vnet to be created
// from the file args[1], and prints the reply.
func beClient(args []string) {
	fail := func(err error) {
		if err != nil {
			fmt.Println("client:", err)
			os.Exit(1)
		}
	}
	c, err := net.Dial("unix", args[0])
	fail(err)
	for _, a := range args[2:] {
		verb, arg, _ := strings.Cut(a, "=")
		switch verb {
		case "chroot":
			fail(syscall.Chroot(arg))
		case "chdir":
			fail(os.Chdir(arg))
		case "tmpfs":
			fail(syscall.Mount("none", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""))
			fail(syscall.Mount("none", arg, "tmpfs", 0, ""))
		case "write":
			fail(os.WriteFile(arg, []byte("(vnet (id 97) (from "+filepath.Base(arg)+"))"), 0o600))
		case "rmdir":
			fail(os.Remove(arg))
		}
	}
	_, err = c.Write(request("xend_vnet_create", args[1]))
	fail(err)
	b, err := io.ReadAll(c)
	fail(err)
	_, err = os.Stdout.Write(b)
	fail(err)
}

// request is a call as Python 2.4's library sends it.
func request(method string, params ...any) []byte {
	call := codec.EncodeCall(codec.Call{Method: method, Params: params})
	return append(fmt.Appendf(nil, "POST /RPC2 HTTP/1.0\r\nHost: \r\nUser-Agent: xmlrpclib.py/1.0.1 (by www.pythonware.com)\r\nContent-Type: text/xml\r\nContent-Length: %d\r\n\r\n", len(call)), call...)
}

// call calls a method over a connection of its own.
func call(t testing.TB, address, method string, params ...any) (any, error) {
	t.Helper()
	return codec.DecodeResponse(body(t, fronttest.Exchange(t, address, request(method, params...))))
}

// code returns the code of a fault.
func code(err error) int {
	var f *Fault
	if errors.As(err, &f) {
		return f.Code
	}
	return 0
}

// TestClientsFiles creates vnets from files as clients in all sorts of places name them.
func TestClientsFiles(t *testing.T) {
	_, socket, _ := start(t)
	dir := t.TempDir()
	write := func(name, config string) {
		require.NoError(t, os.MkdirAll(filepath.Join(dir, filepath.Dir(name)), 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(config), 0o600))
	}
	write("a.sxp", "(vnet (id 97) (from outside))")
	write("sub/a.sxp", "(vnet (id 97) (from sub))")
	write("jail/a.sxp", "(vnet (id 97) (from jail))")
	write("jail/sub/b.sxp", "(vnet (id 97) (from jail-sub))")
	write("big.sxp", strings.Repeat("#", maxFile+1))
	write("bad.sxp", "(vnet")
	require.NoError(t, os.Symlink("/a.sxp", filepath.Join(dir, "jail/sub/absolute.sxp")))
	require.NoError(t, os.Symlink("../sub", filepath.Join(dir, "jail/link")))
	require.NoError(t, os.Symlink("../../a.sxp", filepath.Join(dir, "jail/sub/up.sxp")))
	require.NoError(t, unix.Mkfifo(filepath.Join(dir, "fifo"), 0o600))
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "mount"), 0o755))
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "gone"), 0o755))
	jail := "chroot=" + filepath.Join(dir, "jail")

	for _, tt := range []struct {
		name  string
		steps []string
		from  string // the field in the file that must be read
		err   string
	}{
		{name: filepath.Join(dir, "a.sxp"), from: "outside"},
		{name: "a.sxp", from: "outside"},
		{name: "./sub/../a.sxp", from: "outside"},
		{name: "a.sxp", steps: []string{"chdir=sub"}, from: "sub"},
		{name: "../a.sxp", steps: []string{"chdir=sub"}, from: "outside"},
		{name: "/a.sxp", steps: []string{jail, "chdir=/"}, from: "jail"},
		{name: "b.sxp", steps: []string{jail, "chdir=/sub"}, from: "jail-sub"},
		{name: "absolute.sxp", steps: []string{jail, "chdir=/sub"}, from: "jail"},
		{name: "../../../a.sxp", steps: []string{jail, "chdir=/sub"}, from: "jail"},
		{name: "up.sxp", steps: []string{jail, "chdir=/sub"}, from: "jail"},
		{name: filepath.Join(dir, "mount/c.sxp"), steps: []string{"tmpfs=mount", "write=mount/c.sxp"}, from: "c.sxp"},
		{name: "c.sxp", steps: []string{"tmpfs=mount", "chdir=mount", "write=c.sxp"}, from: "c.sxp"},

		{name: "nosuch.sxp", err: "File not found: nosuch.sxp (no such file or directory)"},
		{name: "sub", err: "sub is not a regular file"},
		{name: "fifo", err: "fifo is not a regular file"},
		{name: "/dev/null", err: "/dev/null is not a regular file"},
		{name: "/dev/stdin", err: "File not found: /dev/stdin (too many levels of symbolic links)"},
		{name: "big.sxp", err: "big.sxp is larger than 1048576 bytes"},
		{name: "bad.sxp", err: "Coercion to sxpr failed: unexpected EOF"},
		{name: "../a.sxp", steps: []string{"chdir=gone", "rmdir=../gone"}, err: "the working directory of the client"},
		{name: "a.sxp", steps: []string{jail}, err: "the working directory of the client"},
	} {
		t.Run(tt.name+strings.Join(tt.steps, ","), func(t *testing.T) {
			if os.Getuid() != 0 {
				t.Skip("a client with a mount namespace of its own needs root")
			}
			self, err := os.Executable()
			require.NoError(t, err)
			cmd := exec.Command(self, append([]string{clientArg, socket, tt.name}, tt.steps...)...)
			cmd.Dir = dir
			cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
			out, err := cmd.Output()
			require.NoError(t, err, "%s", out)
			v, err := codec.DecodeResponse(body(t, out))
			if tt.err != "" {
				require.ErrorContains(t, err, tt.err)
				require.Equal(t, FaultGeneric, code(err))
				return
			}
			require.NoError(t, err)
			require.Nil(t, v)
			v, err = call(t, socket, "xend_vnet", "97")
			require.NoError(t, err)
			require.Equal(t, []any{"vnet", []any{"id", "97"}, []any{"from", tt.from}}, v)
			_, err = call(t, socket, "xend_vnet_delete", "97")
			require.NoError(t, err)
		})
	}
}

func TestNoFilesOverTCP(t *testing.T) {
	_, _, tcp := start(t)
	file := filepath.Join(t.TempDir(), "a.sxp")
	require.NoError(t, os.WriteFile(file, []byte("(vnet (id 97))"), 0o644))
	for _, name := range []string{file, "/nosuch", "/etc/shadow", "relative"} {
		_, err := call(t, tcp, "xend_vnet_create", name)
		require.Equal(t, &Fault{Code: FaultGeneric, Text: "a file name is only accepted over the unix socket: send the (vnet ...) form itself"}, err,
			"the same answer for every name")
	}
	_, err := call(t, tcp, "xend_vnet_create", "(vnet (id 97))")
	require.NoError(t, err)
	reply := fronttest.Exchange(t, tcp, bytes.Replace(request("xend_vnets"), []byte("Host: "), []byte("Accept: */*\r\nHost: evil.example"), 1))
	require.Contains(t, string(reply), "HTTP/1.1 403 ")
}
