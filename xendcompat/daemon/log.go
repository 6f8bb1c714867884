package daemon

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"sync"
	"syscall"

	"github.com/coreos/go-systemd/v22/journal"

	"github.com/xenvnet/xend/vnet"
)

// levelName is a level's name in xend-config.sxp and in the log.
func levelName(l slog.Level) string {
	switch {
	case l < slog.LevelInfo:
		return "DEBUG"
	case l < slog.LevelWarn:
		return "INFO"
	case l < slog.LevelError:
		return "WARNING"
	case l < slog.LevelError+4:
		return "ERROR"
	}
	return "CRITICAL"
}

// nameLevel writes levels by their names.
func nameLevel(groups []string, a slog.Attr) slog.Attr {
	if len(groups) == 0 && a.Key == slog.LevelKey {
		if l, ok := a.Value.Any().(slog.Level); ok {
			a.Value = slog.StringValue(levelName(l))
		}
	}
	return a
}

// logFile is a log that can be opened anew, after somebody has renamed it.
type logFile struct {
	mu    sync.Mutex
	f     *os.File
	stdio bool // standard output and error go there, too
}

func openLog(path string) (*logFile, error) {
	l := &logFile{}
	return l, l.reopen(path)
}

// reopen goes on in the file at path. On an error the old one stays.
func (l *logFile) reopen(path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("log: %w", err)
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o640)
	if err != nil {
		return fmt.Errorf("log: %w", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.f != nil {
		l.f.Close()
	}
	l.f = f
	// A crash is told there.
	if err := debug.SetCrashOutput(f, debug.CrashOptions{}); err != nil {
		return fmt.Errorf("log: %w", err)
	}
	if l.stdio {
		return redirect(f)
	}
	return nil
}

func (l *logFile) path() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.f.Name()
}

func (l *logFile) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.f.Write(b)
}

// takeStdio sends standard output and error to the log from now on.
func (l *logFile) takeStdio() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.stdio = true
	return redirect(l.f)
}

// redirect makes f standard output and error.
func redirect(f *os.File) error {
	for _, std := range []int{syscall.Stdout, syscall.Stderr} {
		if err := syscall.Dup3(int(f.Fd()), std, 0); err != nil {
			return fmt.Errorf("standard output to %s: %w", f.Name(), err)
		}
	}
	return nil
}

// newFileHandler writes records to a file, a line each.
func newFileHandler(w io.Writer, level slog.Leveler) slog.Handler {
	return slog.NewTextHandler(w, &slog.HandlerOptions{Level: level, ReplaceAttr: nameLevel})
}

// journalHandler sends records to systemd's journal: as one text, since journalctl does not show fields unless it is asked
// to and people would read "vnet is up", and not which; and every attribute as a field as well, XEND_VNET for vnet, by which
// the journal finds records. (systemd/slog-journal sends the message alone as text.)
type journalHandler struct {
	level slog.Leveler
	// render makes a handler that writes the text of a record.
	render func(io.Writer) slog.Handler
	// fields are those of attributes that all records have, and prefix is that of groups.
	fields map[string]string
	prefix string
	send   func(text string, p journal.Priority, fields map[string]string) error
}

// errNoJournal means that nobody would see the log.
var errNoJournal = errors.New("log: this machine has no systemd journal ([log] target in vnet.toml)")

func newJournalHandler(level slog.Leveler) slog.Handler {
	return journalHandler{
		level:  level,
		prefix: "XEND",
		send:   journal.Send,
		render: func(w io.Writer) slog.Handler {
			return slog.NewTextHandler(w, &slog.HandlerOptions{Level: level, ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
				// The journal has fields of its own for these.
				if len(groups) == 0 && (a.Key == slog.TimeKey || a.Key == slog.LevelKey || a.Key == slog.MessageKey) {
					return slog.Attr{}
				}
				return a
			}})
		},
	}
}

func (h journalHandler) Enabled(_ context.Context, l slog.Level) bool { return l >= h.level.Level() }

func (h journalHandler) Handle(ctx context.Context, r slog.Record) error {
	var attrs bytes.Buffer
	if err := h.render(&attrs).Handle(ctx, r); err != nil {
		return err
	}
	text := r.Message
	if b := bytes.TrimSpace(attrs.Bytes()); len(b) > 0 {
		text += " " + string(b)
	}
	fields := maps.Clone(h.fields)
	if fields == nil {
		fields = map[string]string{}
	}
	r.Attrs(func(a slog.Attr) bool {
		addField(fields, h.prefix, a)
		return true
	})
	fields["SYSLOG_IDENTIFIER"] = "xend"
	return h.send(text, priority(r.Level), fields)
}

// Bounds of what becomes fields: other programs and hosts choose some of it.
const (
	maxFields     = 32
	maxFieldName  = 64 // systemd.journal-fields(7)
	maxFieldValue = 4096
)

// addField adds the field of an attribute, or those of a group.
func addField(fields map[string]string, prefix string, a slog.Attr) {
	v := a.Value.Resolve()
	name := prefix
	if a.Key != "" {
		name += "_" + fieldName(a.Key)
	}
	if v.Kind() == slog.KindGroup {
		for _, member := range v.Group() {
			addField(fields, name, member)
		}
		return
	}
	if a.Key == "" || len(name) > maxFieldName || len(fields) >= maxFields {
		return // it is in the text
	}
	text := v.String()
	// One id has many forms, and who looks for a vnet by XEND_VNET knows the short one.
	if a.Key == "vnet" {
		text = vnet.ShortText(text)
	}
	fields[name] = text[:min(len(text), maxFieldValue)]
}

// fieldName writes a key as the journal has names: capital letters, digits and underscores.
func fieldName(key string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z':
			return r - 'a' + 'A'
		case r >= 'A' && r <= 'Z', r >= '0' && r <= '9':
			return r
		}
		return '_'
	}, key)
}

func (h journalHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	render, fields := h.render, maps.Clone(h.fields)
	if fields == nil {
		fields = map[string]string{}
	}
	for _, a := range attrs {
		addField(fields, h.prefix, a)
	}
	h.fields, h.render = fields, func(w io.Writer) slog.Handler { return render(w).WithAttrs(attrs) }
	return h
}

func (h journalHandler) WithGroup(name string) slog.Handler {
	render := h.render
	if name != "" {
		h.prefix += "_" + fieldName(name)
	}
	h.render = func(w io.Writer) slog.Handler { return render(w).WithGroup(name) }
	return h
}

// priority is the syslog level of a level.
func priority(l slog.Level) journal.Priority {
	switch levelName(l) {
	case "DEBUG":
		return journal.PriDebug
	case "INFO":
		return journal.PriInfo
	case "WARNING":
		return journal.PriWarning
	case "ERROR":
		return journal.PriErr
	}
	return journal.PriCrit
}
