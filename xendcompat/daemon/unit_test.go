package daemon

import (
	"errors"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/xenvnet/xend/internal/paths"
	"github.com/xenvnet/xend/xendcompat/config"
)

func TestHandOver(t *testing.T) {
	show := func(load, pid, path string) string {
		return "ExecStart={ path=" + path + " ; argv[]=" + path + " --foreground ; ignore_errors=no ; start_time=[n/a] }\nMainPID=" + pid + "\nLoadState=" + load + "\n"
	}
	for name, tt := range map[string]struct {
		show    string
		showErr error
		pid     int
		done    bool
	}{
		"its daemon runs":            {show: show("loaded", "7", "/usr/sbin/xend"), pid: 7, done: true},
		"none runs":                  {show: show("loaded", "0", "/usr/sbin/xend"), done: true},
		"one was started by hand":    {show: show("loaded", "0", "/usr/sbin/xend"), pid: 7},
		"another was started":        {show: show("loaded", "8", "/usr/sbin/xend"), pid: 7},
		"no unit":                    {show: show("not-found", "0", "/usr/sbin/xend")},
		"unit of another program":    {show: show("loaded", "0", "/usr/local/sbin/xend")},
		"unit without a program":     {show: "LoadState=loaded\nMainPID=0\n"},
		"systemctl does not answer":  {showErr: errors.New("Failed to connect to bus")},
		"masked":                     {show: show("masked", "0", "/usr/sbin/xend")},
		"something else is answered": {show: "?"},
	} {
		t.Run(name, func(t *testing.T) {
			var asked []string
			u := &unit{exe: "/usr/sbin/xend", systemctl: func(args ...string) (string, error) {
				asked = append(asked, strings.Join(args, " "))
				if args[0] == "show" {
					return tt.show, tt.showErr
				}
				return "", nil
			}}
			done, err := u.handOver("restart", tt.pid)
			require.NoError(t, err)
			require.Equal(t, tt.done, done)
			if tt.done {
				require.Equal(t, "restart xend.service", asked[len(asked)-1])
			} else {
				require.Len(t, asked, 1)
			}
		})
	}
	u := &unit{exe: "/usr/sbin/xend", systemctl: func(args ...string) (string, error) {
		if args[0] == "show" {
			return show("loaded", "0", "/usr/sbin/xend"), nil
		}
		return "", errors.New("exit status 1")
	}}
	done, err := u.handOver("start", 0)
	require.True(t, done)
	require.EqualError(t, err, "systemctl start xend.service: exit status 1; 'journalctl -u xend' says why")
}

func TestNoUnit(t *testing.T) {
	for _, o := range []Options{{Paths: paths.Paths{Prefix: "/p"}}, {Config: config.Options{XendConfig: "/x"}}} {
		require.Nil(t, machineUnit(o))
	}
	done, err := (*unit)(nil).handOver("start", 0)
	require.NoError(t, err)
	require.False(t, done)
}
