package recipes

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/xenvnet/xend/internal/lab"
)

// What troubleshooting.md has people look for on the wire is there, with the commands that stand there: between two hosts,
// first without security, then with it.
func TestOnTheWire(t *testing.T) {
	t.Parallel()
	suits(t, "../troubleshooting.md")
	page, err := os.ReadFile("../troubleshooting.md")
	require.NoError(t, err)
	comment := regexp.MustCompile(`(?m)  +#.*$`)
	var blocks [][]string
	for _, b := range regexp.MustCompile("(?s)```sh\n(.*?)```").FindAllStringSubmatch(string(page), -1) {
		blocks = append(blocks, strings.Split(strings.TrimSpace(comment.ReplaceAllString(b[1], "")), "\n"))
	}
	require.Len(t, blocks, 3, "a block that is not tried here")

	s, err := lab.New(t).Switch("lan", 0)
	require.NoError(t, err)
	tools := t.TempDir()
	lua, err := filepath.Abs("../../wireshark/xend.lua")
	require.NoError(t, err)
	var a, b *machine
	run := func(m *machine, command string) string {
		t.Helper()
		out, err := m.run(command)
		require.NoError(t, err, "%s\n%s", command, out)
		return out
	}
	for i, m := range []**machine{&a, &b} {
		*m = newMachine(t, s, string(rune('A'+i)))
		(*m).plain, (*m).tools = true, tools
		defer func() { _, _ = (*m).run("xend stop") }() // it may run no more
		run(*m, fmt.Sprintf("if mountpoint -q /sys/fs/cgroup; then umount -l /sys/fs/cgroup || exit 1; fi; rm -rf /etc/xen /var/lib/xend && mkdir -p /etc/xen && "+
			"xend start && echo '(vnet (id 97))' >/etc/xen/vnet97.sxp && xm vnet-create /etc/xen/vnet97.sxp && "+
			"ip link add port type veth peer name domain && ip link set port master vnet97 up && ip link set domain up && ip addr add 10.97.0.%d/24 dev domain", i+1))
	}
	// Something to see: frames for all and for one, and VARP.
	run(a, "(while :; do ip neigh flush dev domain; ping -c 1 -W 1 10.97.0.2; vn vif-add 97 00:16:3e:00:00:77; vn vif-delete 97 00:16:3e:00:00:77; done) >/dev/null 2>&1 & echo $! >/run/traffic")
	commands := append(blocks[0], blocks[1]...)
	require.Len(t, commands, 5)
	for _, command := range commands {
		limited := regexp.MustCompile(`^(tcpdump|ping)`).ReplaceAllString(command, "timeout 30 $1 -c 1")
		limited = strings.Replace(limited, "-ni", "--immediate-mode -ni", 1)
		require.NotEqual(t, command, limited)
		require.Regexp(t, `1 packet captured|1 received`, run(a, limited+" 2>&1"), command)
	}
	run(a, "kill $(cat /run/traffic)")

	// The key is copied before the vnets are there, and the capture begins before their KEY messages.
	run(a, "vn key-generate 97")
	key := run(a, "cat /etc/xen/vnet-keys/*")
	run(b, "mkdir -m 700 /etc/xen/vnet-keys && cat >/etc/xen/vnet-keys/0000-0000-0000-0000-0000-0000-0000-0097.key <<'END'\n"+key+"END\nchmod 600 /etc/xen/vnet-keys/*.key")
	capture := strings.Replace(blocks[2][0], "tcpdump", "tcpdump -U --immediate-mode", 1)
	run(a, capture+" >/dev/null 2>/run/said & echo $! >/run/tcpdump; until grep -q listening /run/said; do :; done")
	for _, m := range []*machine{b, a} {
		run(m, "xm vnet-delete 97; echo '(vnet (id 97) (security conf))' >/etc/xen/vnet97.sxp; xm vnet-create /etc/xen/vnet97.sxp; ip link set port master vnet97")
	}
	run(a, "until ping -c 1 -W 1 10.97.0.2; do :; done; ping -c 3 -i 0.2 10.97.0.2; kill -INT $(cat /run/tcpdump)")
	run(a, "while kill -0 $(cat /run/tcpdump) 2>/dev/null; do sleep 0.1; done")
	for _, command := range blocks[2][1:] {
		out := run(a, strings.Replace(command, "/usr/share/xend/wireshark/xend.lua", lua, 1))
		if strings.HasPrefix(command, "tshark") {
			require.Regexp(t, `10\.97\.0\.1 .* 10\.97\.0\.2 .*ICMP`, out, command)
		}
	}
}
