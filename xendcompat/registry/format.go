package registry

import (
	"bytes"
	"errors"
	"fmt"
	"os"

	"github.com/xenvnet/xend/internal/durable"
	"github.com/xenvnet/xend/internal/vnetfile"
)

const (
	formatFile = "format"
	formatLine = "xend vnet registry, format %d"
)

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
		return fmt.Errorf("%s does not say which format the directory has: %q", path, vnetfile.FirstLine(b))
	}
	if n > vnetfile.Format {
		return &vnetfile.FormatError{Path: path, Format: n}
	}
	return nil
}

func (r *Registry) writeFormat(path string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := fmt.Fprintf(f, formatLine+"\n", vnetfile.Format); err != nil {
		return err
	}
	return errors.Join(f.Sync(), durable.SyncDir(r.at))
}
