package service

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
)

// maxLog bounds what NodeLog returns, in bytes.
const maxLog = 1 << 20

// NodeLog returns the end of the daemon's log, in whole lines and 1 MiB at most.
func (s *Service) NodeLog(context.Context) ([]byte, error) {
	path := s.o.LogFile()
	if path == "" {
		return []byte("The log is in the journal: journalctl -u xend\n"), nil
	}
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, failed("read the log", err)
	}
	defer f.Close()
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil { // a log to a pipe or a terminal
		return nil, failed("read the log", err)
	}
	from := max(0, size-maxLog)
	b, err := io.ReadAll(io.NewSectionReader(f, from, size-from))
	if err != nil {
		return nil, failed("read the log", err)
	}
	if from > 0 {
		_, b, _ = bytes.Cut(b, []byte("\n"))
	}
	return b, nil
}
