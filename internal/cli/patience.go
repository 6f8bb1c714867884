package cli

import (
	"fmt"
	"io"
	"os"
	"time"
)

// Patiently does what may take seconds, and tells a person who waits at a terminal, from the first second on, what is being done
// and for how long. w is where that goes, the standard error: what is no terminal gets nothing.
func Patiently(w io.Writer, what string, do func() error) error {
	f, ok := w.(*os.File)
	if ok {
		info, err := f.Stat()
		ok = err == nil && info.Mode()&os.ModeCharDevice != 0
	}
	if !ok {
		return do()
	}
	return showing(f, what, do)
}

// showing shows it on a terminal, and takes it away in the end.
func showing(w io.Writer, what string, do func() error) error {
	done := make(chan error, 1)
	go func() { done <- do() }()
	start := time.Now()
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	for shown := false; ; shown = true {
		select {
		case err := <-done:
			if shown {
				fmt.Fprint(w, "\r\x1b[K")
			}
			return err
		case <-ticker.C:
			fmt.Fprintf(w, "\r\x1b[K%s: %d s", what, int(time.Since(start).Seconds()))
		}
	}
}
