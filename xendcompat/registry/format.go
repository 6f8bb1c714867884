package registry

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/xenvnet/xend/internal/durable"
	"github.com/xenvnet/xend/sxp"
	"github.com/xenvnet/xend/vnet"
)

// format is the version of the directory's layout and of its files'.
const format = 1

const (
	formatFile  = "format"
	formatLine  = "xend vnet registry, format %d"
	headerLine  = "# xend vnet, format %d; number %d, created %s"
	headerStart = "# xend vnet, format "
	// A form that is longer is written on one line, since indenting a deep one multiplies it.
	maxPretty = 64 << 10
	width     = 80
)

// FormatError says that the directory was written by a newer release.
type FormatError struct {
	Path   string // the file that says so
	Format int
}

func (e *FormatError) Error() string {
	return fmt.Sprintf("%s has format %d, and this xend knows only %d: it was written by a newer release", e.Path, e.Format, format)
}

// checkFormat reads the directory's format, and writes it into a new one.
func (r *Registry) checkFormat() error {
	path := r.dir.Path(formatFile)
	b, err := os.ReadFile(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return r.writeFormat(path)
	case err != nil:
		return err
	case len(bytes.TrimSpace(b)) == 0:
		// A machine that stopped while the directory was being made.
		return r.writeFormat(path)
	}
	var n int
	if _, err := fmt.Sscanf(string(b), formatLine, &n); err != nil || n < 1 {
		return fmt.Errorf("%s does not say which format the directory has: %q", path, firstLine(b))
	}
	if n > format {
		return &FormatError{Path: path, Format: n}
	}
	return nil
}

func (r *Registry) writeFormat(path string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := fmt.Fprintf(f, formatLine+"\n", format); err != nil {
		return err
	}
	return errors.Join(f.Sync(), durable.SyncDir(r.at))
}

// encode writes a vnet's file: a comment with what the form has no field for, then the form exactly
// as its owner gave it.
func encode(e entry) []byte {
	b := fmt.Appendf(nil, headerLine+"\n", format, e.number, e.created.Format(time.RFC3339))
	form := sxp.Append(nil, e.config.Form)
	if len(form) > maxPretty {
		return append(append(b, form...), '\n')
	}
	return sxp.AppendPretty(b, e.config.Form, width)
}

// decode reads a vnet's file. One without a header, written by hand, has number 0.
func decode(b []byte) (entry, error) {
	var e entry
	if line := firstLine(b); strings.HasPrefix(line, headerStart) {
		var n int
		var created string
		if _, err := fmt.Sscanf(line, headerLine, &n, &e.number, &created); err != nil {
			return entry{}, fmt.Errorf("its first line can't be read: %q", line)
		}
		if n > format {
			return entry{}, &FormatError{Format: n}
		}
		var err error
		if e.created, err = time.Parse(time.RFC3339, created); err != nil {
			return entry{}, fmt.Errorf("its first line can't be read: %w", err)
		}
	}
	// The limit on the size is for what comes from clients; written back, it may be longer.
	forms, err := sxp.ParseLimited(b, sxp.Xend, sxp.Limits{Size: -1})
	if err != nil {
		return entry{}, err
	}
	if len(forms) != 1 {
		return entry{}, fmt.Errorf("it holds %d forms instead of one", len(forms))
	}
	e.config, err = vnet.ConfigFromSXP(forms[0])
	return e, err
}

func firstLine(b []byte) string {
	line, _, _ := bytes.Cut(b, []byte("\n"))
	return string(line[:min(len(line), 200)])
}
