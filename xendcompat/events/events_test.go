package events

import (
	"bytes"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// What the log says is kept in its words, also what the log itself does not want, but for DEBUG.
func TestHandler(t *testing.T) {
	var file bytes.Buffer
	r := New()
	log := slog.New(r.Handler(slog.NewTextHandler(&file, &slog.HandlerOptions{Level: slog.LevelError})))
	log.Debug("not an event")
	log.With("vnet", "97").WithGroup("at").Warn("MAC moved", "host", "192.0.2.1", slog.Group("mac", "old", "a b"))
	log.Error("bad", "text", strings.Repeat("ä", 600), "control", "\x1b[2J")
	l := r.Since(0, 0)
	require.Len(t, l.Events, 2)
	require.Equal(t, `WARNING MAC moved vnet=97 at.host=192.0.2.1 at.mac.old="a b"`, l.Events[0].String())
	require.Equal(t, "97", l.Events[0].Attr("vnet"))
	require.Empty(t, l.Events[0].Attr("none"))
	require.Equal(t, strings.Repeat("ä", 256)+"…", l.Events[1].Attr("text"))
	require.Equal(t, " [2J", l.Events[1].Attr("control"))
	require.Equal(t, uint64(3), l.Next)
	require.False(t, l.Started.IsZero())
	require.Equal(t, 1, strings.Count(file.String(), "\n"))
	require.Contains(t, file.String(), "msg=bad")
}

// Much that is unimportant pushes out nothing that is important, and who asks is told what is missing.
func TestBounds(t *testing.T) {
	r := New()
	log := slog.New(r.Handler(slog.DiscardHandler))
	log.Warn("look")
	for i := range keptInfos + 10 {
		log.Info("again", "i", fmt.Sprint(i))
	}
	l := r.Since(0, 0)
	require.Len(t, l.Events, 1+keptInfos)
	require.Equal(t, uint64(10), l.Lost)
	require.Equal(t, "look", l.Events[0].Text)
	require.Equal(t, "10", l.Events[1].Attr("i"))
	for i, e := range l.Events[1:] {
		require.Equal(t, uint64(12+i), e.Seq)
	}
	last := r.Since(l.Next-2, 0)
	require.Len(t, last.Events, 2)
	require.Zero(t, last.Lost)
	require.Len(t, r.Since(0, 5).Events, 5)
	require.Equal(t, l.Next-1, r.Since(0, 5).Events[4].Seq)
	require.Empty(t, r.Since(l.Next, 0).Events)
	require.Empty(t, (*Ring)(nil).Since(0, 0).Events)
}
