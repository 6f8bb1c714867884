// Command sxp checks s-expressions and prints them as Xen's tools write them: each value in
// canonical form on a line of its own, or over several lines for people to read.
//
// A mistake is told as FILE:LINE:COLUMN. What stands before it is printed, files after it are read
// too, and the exit status is 1. It is 2 if the command line is wrong.
package main

import (
	"bufio"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"

	"github.com/xenvnet/xend/internal/version"
	"github.com/xenvnet/xend/sxp"
)

const usage = `Usage: sxp [-p [-w WIDTH]] [-dialect xend|c] [FILE...]

Reads s-expressions from the files, or from standard input, which a FILE called
- is too, and prints each in canonical form on a line of its own.

    -p              print values for people to read
    -w WIDTH        with lines of at most WIDTH bytes where they allow it (80)
    -dialect NAME   read the syntax of xend (default), or c: that of the
                    low-level control socket
    --version       print the version and exit
    --prefix DIR    accepted like by the other programs; sxp has no default paths
`

func main() {
	os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// run is the program; it returns its exit status.
func run(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	var (
		flags   = flag.NewFlagSet("sxp", flag.ContinueOnError)
		pretty  = flags.Bool("p", false, "")
		width   = flags.Uint("w", 80, "")
		dialect = flags.String("dialect", sxp.Xend.String(), "")
		show    = flags.Bool("version", false, "")
		_       = flags.String("prefix", "", "")
	)
	flags.SetOutput(io.Discard)
	misused := func(err error) int {
		fmt.Fprintf(stderr, "sxp: %v\n%s", err, usage)
		return 2
	}
	switch err := flags.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		fmt.Fprint(stdout, usage)
		return 0
	case err != nil:
		return misused(err)
	case *show:
		fmt.Fprintln(stdout, "sxp", version.Version)
		return 0
	}
	p := printer{stdout: bufio.NewWriterSize(stdout, 64<<10), stderr: stderr, width: -1}
	switch *dialect {
	case sxp.Xend.String():
		p.dialect = sxp.Xend
	case sxp.C.String():
		p.dialect = sxp.C
	default:
		return misused(fmt.Errorf("unknown dialect %q: it must be xend or c", *dialect))
	}
	if *pretty {
		p.width = int(min(*width, 1<<30))
	}

	files := flags.Args()
	if len(files) == 0 {
		files = []string{"-"}
	}
	status := 0
	for _, name := range files {
		if !p.file(name, stdin) {
			status = 1
		}
	}
	if err := p.stdout.Flush(); err != nil {
		fmt.Fprintf(stderr, "sxp: %v\n", err)
		return 1
	}
	return status
}

// printer prints the values of one file after the other.
type printer struct {
	stdout  *bufio.Writer
	stderr  io.Writer
	dialect sxp.Dialect
	width   int // of lines; negative for canonical form
	line    []byte
}

// file prints the values in a file, and tells whether that went well.
func (p *printer) file(name string, stdin io.Reader) bool {
	r := stdin
	if name == "-" {
		name = "<stdin>"
	} else {
		f, err := os.Open(name)
		if err != nil {
			return p.fail("sxp: %v", err)
		}
		defer f.Close()
		r = f
	}
	values := sxp.NewDecoder(promptReader{r, p.stdout}, p.dialect)
	for {
		v, err := values.Decode()
		var syntax *sxp.SyntaxError
		switch {
		case err == nil:
			if err := p.value(v); err != nil {
				return false // run tells it
			}
		case errors.Is(err, io.EOF):
			return true
		case errors.As(err, &syntax):
			p.fail("%s:%d:%d: %s", name, syntax.Line, syntax.Column, syntax.Text)
			if syntax.Open != "" {
				p.fail("%s:%d:%d: the %s that begins here is not closed", name, syntax.OpenLine, syntax.OpenColumn, syntax.Open)
			}
			return false
		default:
			return p.fail("sxp: %v", err)
		}
	}
}

func (p *printer) value(v sxp.Value) error {
	if p.width >= 0 {
		return sxp.WritePretty(p.stdout, v, p.width)
	}
	p.line = append(sxp.Append(p.line[:0], v), '\n')
	_, err := p.stdout.Write(p.line)
	return err
}

// fail tells a mistake, after what was printed before it.
func (p *printer) fail(format string, args ...any) bool {
	p.stdout.Flush() //nolint:errcheck // run tells it
	fmt.Fprintf(p.stderr, format+"\n", args...)
	return false
}

// promptReader prints what is ready before it waits for more.
type promptReader struct {
	io.Reader
	stdout *bufio.Writer
}

func (r promptReader) Read(b []byte) (int, error) {
	r.stdout.Flush() //nolint:errcheck // run tells it
	return r.Reader.Read(b)
}
