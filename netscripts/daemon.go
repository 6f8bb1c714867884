package netscripts

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"strings"
	"syscall"
	"time"

	"github.com/xenvnet/xend/internal/ctl"
)

// daemonTimeout bounds what the daemon may take to answer.
const daemonTimeout = 3 * time.Second

// tellDaemon tells the daemon that a MAC is, or is not, behind this host, so that other hosts know at
// once. Without a daemon there is nobody to tell, and it learns from traffic in any case.
func (s *script) tellDaemon(ctx context.Context, command, vnet string, mac net.HardwareAddr) {
	text := fmt.Sprintf("(%s (vnet %s) (vmac %s))", command, vnet, mac)
	ctx, cancel := context.WithTimeout(ctx, daemonTimeout)
	defer cancel()
	answer, err := ctl.Do(ctx, s.conf.Paths.ControlSocket, text)
	switch {
	case err == nil && command == "vif.del":
		// What is to go may be gone: with its vnet, or with the daemon that was told of it.
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
	case err != nil:
		s.warn("%s: %v", text, err)
	case strings.Contains(answer, "(error"):
		s.warn("%s: xend answers %s", text, answer)
	}
}
