// Package vnetfile has the files of persistent vnets: a file for each vnet, named by its id and readable by people. The
// registry owns their directory; the network scripts read it, also while the daemon does not run.
package vnetfile

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/xenvnet/xend/sxp"
	"github.com/xenvnet/xend/vnet"
)

// Format is the version of the files' format, and of their directory's layout.
const Format = 1

// Ext is the ending of the files' names.
const Ext = ".sxp"

const (
	headerLine  = "# xend vnet, format %d; number %d, created %s"
	headerStart = "# xend vnet, format "
	// A form that is longer is written on one line, since indenting a deep one multiplies it.
	maxPretty = 64 << 10
	width     = 80
)

// FormatError says that something was written by a newer release.
type FormatError struct {
	Path   string // the file that says so
	Format int
}

func (e *FormatError) Error() string {
	return fmt.Sprintf("%s has format %d, and this xend knows only %d: it was written by a newer release", e.Path, e.Format, Format)
}

// File is what the file of a vnet holds.
type File struct {
	Config vnet.Config
	// Number is the vnet's place in the order of creation; 0 in a file that was written by hand.
	Number uint64
	// Created is when that was; the zero Time in a file that was written by hand.
	Created time.Time
}

// Name is the name of a vnet's file.
func Name(id vnet.ID) string { return id.FileName() + Ext }

// Encode returns the bytes of a vnet's file: a comment with what the form has no field for, then the form exactly as its
// owner gave it.
func Encode(f File) []byte {
	b := fmt.Appendf(nil, headerLine+"\n", Format, f.Number, f.Created.Format(time.RFC3339))
	form := sxp.Append(nil, f.Config.Form)
	if len(form) > maxPretty {
		return append(append(b, form...), '\n')
	}
	return sxp.AppendPretty(b, f.Config.Form, width)
}

// Decode reads a vnet's file. The error is a *FormatError, without a path, if a newer release wrote it.
func Decode(b []byte) (File, error) {
	var f File
	if line := FirstLine(b); strings.HasPrefix(line, headerStart) {
		var n int
		var created string
		if _, err := fmt.Sscanf(line, headerLine, &n, &f.Number, &created); err != nil {
			return File{}, fmt.Errorf("its first line can't be read: %q", line)
		}
		if n > Format {
			return File{}, &FormatError{Format: n}
		}
		var err error
		if f.Created, err = time.Parse(time.RFC3339, created); err != nil {
			return File{}, fmt.Errorf("its first line can't be read: %w", err)
		}
	}
	// The limit on the size is for what comes from clients; written back, it may be longer.
	forms, err := sxp.ParseLimited(b, sxp.Xend, sxp.Limits{Size: -1})
	if err != nil {
		return File{}, err
	}
	if len(forms) != 1 {
		return File{}, fmt.Errorf("it holds %d forms instead of one", len(forms))
	}
	f.Config, err = vnet.ConfigFromSXP(forms[0])
	return f, err
}

// FirstLine is the first line of a file, at most 200 bytes of it.
func FirstLine(b []byte) string {
	line, _, _ := bytes.Cut(b, []byte("\n"))
	return string(line[:min(len(line), 200)])
}

// List returns the vnets of a directory, in no order, without locking it. A file that cannot be read is left out: it is
// the daemon's business.
func List(dir string) []vnet.Config {
	var list []vnet.Config
	files, _ := filepath.Glob(filepath.Join(dir, "*"+Ext))
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		if f, err := Decode(b); err == nil && filepath.Base(file) == Name(f.Config.ID) {
			list = append(list, f.Config)
		}
	}
	return list
}
