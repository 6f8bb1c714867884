package dataplane

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A flood of moving MACs gets ten lines a second and their number, not a line each.
func TestMoveLog(t *testing.T) {
	var b bytes.Buffer
	log := slog.New(slog.NewTextHandler(&b, nil))
	var m moveLog
	now := int64(time.Hour)
	told := 0
	for range 5000 {
		if m.tell(now, log) {
			told++
		}
	}
	require.Equal(t, movesTold, told)
	require.Empty(t, b.String())
	now += int64(time.Second)
	require.True(t, m.tell(now, log))
	require.Equal(t, 1, strings.Count(b.String(), "\n"))
	require.Contains(t, b.String(), `msg="more MACs moved" moves=4990`)
	require.True(t, m.tell(now+int64(time.Second), log))
	require.Equal(t, 1, strings.Count(b.String(), "\n"), "nothing was left out")
}
