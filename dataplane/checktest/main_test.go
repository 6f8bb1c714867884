// Package checktest compares what goes into one vnif with what comes out of the other, byte for byte, and
// looks at every packet on the wire between them: two hosts with running engines on a switch, frames of
// all kinds and sizes, all offload settings, several MTUs. What it compares with is the slow code in
// this package, which knows the RFCs and nothing of the fast code.
package checktest

import (
	"log/slog"
	"testing"

	"go.uber.org/goleak"

	"github.com/xenvnet/xend/internal/nettest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// soon and eventually wait for what has an event, and for what has none.
var soon, eventually = nettest.Soon, nettest.Eventually

func logger(t testing.TB, name string) *slog.Logger {
	return (&nettest.Log{T: t, Name: name}).Logger(slog.LevelWarn)
}
