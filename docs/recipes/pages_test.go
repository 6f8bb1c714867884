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
	"github.com/xenvnet/xend/internal/transcript"
)

// setups are what is there before the first command of a page of the manual, besides two hosts that can call each other
// hostA and hostB: commands, of A and of B.
var setups = map[string][2]string{
	"domains.md": {`xend start
echo '(vnet (id 97))' >/etc/xen/vnet97.sxp; xm vnet-create /etc/xen/vnet97.sxp
echo 'vif = ["bridge=vnet97, mac=00:16:3e:00:00:01"]' >/etc/xen/vm1.cfg
echo 'vif = ["bridge=vnet98"]' >/etc/xen/vm2.cfg`},
	"labs.md": {`xend start
echo '(vnet (id 97))' >/etc/xen/vnet97.sxp; xm vnet-create /etc/xen/vnet97.sxp
printf '%s\n' 'name = "vm1"' 'memory = 64' "vif = ['bridge=vnet97, ip=10.97.0.1']" >/etc/xen/vm1.cfg`,
		`echo '(vnet (id 97))' >/etc/xen/vnet97.sxp; xend start && xm vnet-create /etc/xen/vnet97.sxp && xend stop`},
	"migration.md": {`echo '(vnet (id 97) (bridge vnet97) (vnetif vnif97) (security none))' >/etc/xen/vnet97.sxp
echo '(vnet (id 98) (bridge vnet98))' >/etc/xen/vnet98.sxp
mkdir /etc/xen/scripts && ln -s $(command -v network-vnet) /etc/xen/scripts/`, `xend start`},
	"monitoring.md": {`xend start; echo '(vnet (id 97))' >v; xm vnet-create v`, `xend start`},
	"protocol.md":   {`xend start; echo '(vnet (id 97))' >v; xm vnet-create v`},
	"security.md": {`xend start; echo '(vnet (id 97) (security conf))' >/etc/xen/vnet97.sxp`,
		`xend start; echo '(vnet (id 97) (security conf))' >/etc/xen/vnet97.sxp`},
}

// scp copies a directory to another host of the lab as scp(1) does by ssh.
const scp = `#!/bin/sh
# scp -rp SOURCE root@HOST:DIRECTORY
to=${3#root@} && tar -C "$(dirname "$2")" -cpf - "$(basename "$2")" |
	nsenter --mount=/proc/$(cat "%s/${to%%:*}")/ns/mnt tar -C "${to#*:}" -xpf -
`

// What the pages of the manual show is so: their console blocks are run, in order, on two hosts.
func TestPages(t *testing.T) {
	t.Parallel() // with TestOnTheWire
	pages, err := filepath.Glob("../*.md")
	require.NoError(t, err)
	ran := map[string]bool{}
	for _, page := range pages {
		steps, err := transcript.Read(page)
		require.NoError(t, err)
		if len(steps) == 0 {
			continue
		}
		name := filepath.Base(page)
		ran[name] = true
		t.Run(strings.TrimSuffix(name, ".md"), func(t *testing.T) {
			t.Parallel() // some wait for what takes seconds
			suits(t, page)
			setup, known := setups[name]
			require.True(t, known, "what is there before the first command of %s?", name)
			s, err := lab.New(t).Switch("lan", 0)
			require.NoError(t, err)
			tools := t.TempDir()
			require.NoError(t, os.WriteFile(filepath.Join(tools, "scp"), fmt.Appendf(nil, scp, tools), 0o755))
			hosts := map[string]*machine{}
			names := ""
			for _, name := range []string{"A", "B"} {
				m := newMachine(t, s, name)
				m.plain, m.tools = true, tools
				hosts[name] = m
				names += fmt.Sprintf("%s host%s\n", m.Addr(), name)
				require.NoError(t, os.WriteFile(filepath.Join(tools, "host"+name), []byte(m.mount), 0o600))
			}
			hosts[""] = hosts["A"]
			for i, name := range []string{"A", "B"} {
				m := hosts[name]
				defer m.run("xend stop") //nolint:errcheck // it may run no more
				// Two hosts would take each other's control groups for their own.
				out, err := m.run("if mountpoint -q /sys/fs/cgroup; then umount -l /sys/fs/cgroup || exit 1; fi; rm -rf /etc/xen /var/lib/xend && mkdir -p /etc/xen && printf '" + names + "' >>/etc/hosts && cd /etc/xen && " + "{ " + setup[i] + "\n:; }")
				require.NoError(t, err, out)
			}
			for _, s := range steps {
				m := hosts[s.Prompt]
				require.NotNil(t, m, "%s:%d: there is no host %q", page, s.Line, s.Prompt)
				out, err := m.run(s.Command)
				require.Regexp(t, transcript.Pattern(s.Output), out, "%s:%d: %s", page, s.Line, s.Command)
				if !regexp.MustCompile(`(?m)^Error: `).MatchString(strings.Join(s.Output, "\n")) {
					require.NoError(t, err, "%s:%d: %s\n%s", page, s.Line, s.Command, out)
				}
			}
		})
	}
	for name := range setups {
		require.True(t, ran[name], "%s has no console block", name)
	}
}
