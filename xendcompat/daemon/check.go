package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/xenvnet/xend/internal/ctl"
	"github.com/xenvnet/xend/xendcompat/config"
	"github.com/xenvnet/xend/xendcompat/finding"
)

// Check has this host's daemon find out what is wrong, and looks at its configuration. A daemon that does not run is no
// error, but a finding.
func Check(ctx context.Context, o Options) (*finding.Report, error) {
	cfg, mistake := config.Load(o.Paths, o.Config)
	if mistake != nil {
		c := config.Default(o.Paths)
		cfg = &c
	}
	r := &finding.Report{}
	pid, err := runningPID(o.Paths.PidFile())
	if err != nil {
		return nil, err
	}
	if pid == 0 {
		r.Name, _ = os.Hostname()
		r.Time, r.Hosts = time.Now(), []finding.Host{}
		r.Add(finding.Finding{Name: "xend-down", Level: finding.Fail, Of: "local", Text: ErrNotRunning.Error(), Cure: "xend start"})
	} else {
		answer, err := ctl.Do(ctx, cfg.ControlSocket, "(vn.check)")
		if err != nil {
			return nil, fmt.Errorf("it does not say how it is: %w", err)
		}
		if strings.HasPrefix(answer, "(") { // it refuses, or does not know the question
			return nil, fmt.Errorf("it does not say how it is: %s; if it is of another version: xend restart", strings.TrimSpace(answer))
		}
		if json.Unmarshal([]byte(answer), r) != nil {
			return nil, errors.New("the daemon is of another version; xend restart")
		}
	}
	if mistake != nil {
		r.Add(finding.Finding{Name: "config-mistake", Level: finding.Fail, Of: "configuration", Text: mistake.Error(),
			Cure: "mend it, then xend reload; a running daemon keeps what it had"})
	}
	for _, doubt := range cfg.Doubts {
		r.Add(finding.Finding{Name: "config-mistake", Level: finding.Warn, Of: "configuration", Text: doubt})
	}
	r.Sort()
	return r, nil
}
