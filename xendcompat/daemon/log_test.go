package daemon

import (
	"bytes"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/coreos/go-systemd/v22/journal"
	"github.com/stretchr/testify/require"

	"github.com/xenvnet/xend/vnet"
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

// TestJournal: what people read is whole, and what the journal looks for are fields.
func TestJournal(t *testing.T) {
	type entry struct {
		text   string
		p      journal.Priority
		fields map[string]string
	}
	var sent []entry
	h, ok := newJournalHandler(slog.LevelInfo).(journalHandler)
	require.True(t, ok)
	h.send = func(text string, p journal.Priority, fields map[string]string) error {
		require.Equal(t, "xend", fields["SYSLOG_IDENTIFIER"])
		delete(fields, "SYSLOG_IDENTIFIER")
		sent = append(sent, entry{text, p, fields})
		return nil
	}
	log := slog.New(h)
	log.Debug("nobody hears")
	log.Info("xend is ready", "vnets", 2)
	with := log.With("a", 1)
	with.WithGroup("peer").Warn("w", "pid", 7)
	with.Error("e", slog.Group("client", "uid", 0, "pid", 9), "again_in", time.Second)
	log.Log(t.Context(), slog.LevelError+4, "c", "bad key!\n", "x\ny")
	log.Info("i", "vnet", vnet.ID{15: 0x97})
	require.Equal(t, []entry{
		{"xend is ready vnets=2", journal.PriInfo, map[string]string{"XEND_VNETS": "2"}},
		{"w a=1 peer.pid=7", journal.PriWarning, map[string]string{"XEND_A": "1", "XEND_PEER_PID": "7"}},
		{"e a=1 client.uid=0 client.pid=9 again_in=1s", journal.PriErr,
			map[string]string{"XEND_A": "1", "XEND_CLIENT_UID": "0", "XEND_CLIENT_PID": "9", "XEND_AGAIN_IN": "1s"}},
		{`c "bad key!\n"="x\ny"`, journal.PriCrit, map[string]string{"XEND_BAD_KEY__": "x\ny"}},
		{"i vnet=0000:0000:0000:0000:0000:0000:0000:0097", journal.PriInfo, map[string]string{"XEND_VNET": "97"}},
	}, sent)
	require.Equal(t, journal.PriDebug, priority(slog.LevelDebug))

	// What somebody else chooses is bounded.
	sent = nil
	var many []any
	for i := range 100 {
		many = append(many, fmt.Sprintf("key%d", i), strings.Repeat("x", 1<<16))
	}
	log.Info("much", many...)
	log.Info("long", strings.Repeat("k", 100), 1)
	require.Less(t, len(sent[0].fields), 33)
	require.Len(t, sent[0].fields["XEND_KEY1"], 4096)
	require.Empty(t, sent[1].fields)
}
