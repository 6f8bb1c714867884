package daemon

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/coreos/go-systemd/v22/journal"
	"github.com/stretchr/testify/require"
)

func TestLevelNames(t *testing.T) {
	var b bytes.Buffer
	var level slog.LevelVar
	level.Set(slog.LevelDebug)
	log := slog.New(newFileHandler(&b, &level))
	for _, l := range []slog.Level{slog.LevelDebug, slog.LevelInfo, slog.LevelWarn, slog.LevelError, slog.LevelError + 4} {
		log.Log(t.Context(), l, "x")
	}
	for _, name := range []string{"DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"} {
		require.Contains(t, b.String(), "level="+name+" msg=x\n")
	}
	b.Reset()
	level.Set(slog.LevelError)
	log.Warn("x")
	require.Empty(t, b.String())
}

func TestLogReopens(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "log", "xend.log")
	l, err := openLog(path)
	require.NoError(t, err)
	t.Cleanup(func() { l.f.Close() })
	write := func(text string) {
		_, err := l.Write([]byte(text))
		require.NoError(t, err)
	}
	write("one\n")
	require.NoError(t, os.Rename(path, path+".1"))
	write("two\n")
	require.NoError(t, l.reopen(path))
	write("three\n")
	old, err := os.ReadFile(path + ".1")
	require.NoError(t, err)
	require.Equal(t, "one\ntwo\n", string(old))
	now, err := os.ReadFile(l.path())
	require.NoError(t, err)
	require.Equal(t, "three\n", string(now))
	require.ErrorContains(t, l.reopen(dir), "log: ")
	write("four\n") // it goes on where it was
}

func TestJournal(t *testing.T) {
	type entry struct {
		text string
		p    journal.Priority
	}
	var sent []entry
	h, ok := newJournalHandler(slog.LevelInfo).(journalHandler)
	require.True(t, ok)
	h.send = func(text string, p journal.Priority, fields map[string]string) error {
		require.Equal(t, "xend", fields["SYSLOG_IDENTIFIER"])
		sent = append(sent, entry{text, p})
		return nil
	}
	log := slog.New(h)
	log.Debug("nobody hears")
	log.Info("xend is ready", "vnets", 2)
	log.With("a", 1).WithGroup("peer").Warn("w", "pid", 7)
	log.Error("e")
	log.Log(t.Context(), slog.LevelError+4, "c")
	require.Equal(t, []entry{
		{"xend is ready vnets=2", journal.PriInfo},
		{"w a=1 peer.pid=7", journal.PriWarning},
		{"e", journal.PriErr},
		{"c", journal.PriCrit},
	}, sent)
	require.Equal(t, journal.PriDebug, priority(slog.LevelDebug))
}
