package clitest

import (
	"bufio"
	"bytes"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// Server answers with what it was given, a connection for each reply, and keeps what was sent.
type Server struct {
	Addr string // path of the socket, or host:port

	listener net.Listener
	done     sync.WaitGroup
	mu       sync.Mutex
	requests [][]byte
}

// ReplayHTTP starts a server at address that answers one HTTP request after the other with the
// given bytes. It ends with the test.
func ReplayHTTP(t *testing.T, network, address string, replies ...[]byte) *Server {
	return replay(t, network, address, readHTTP, replies)
}

// ReplayRaw starts a server that reads each connection to its end before it answers.
func ReplayRaw(t *testing.T, network, address string, replies ...[]byte) *Server {
	return replay(t, network, address, io.ReadAll, replies)
}

func replay(t *testing.T, network, address string, read func(io.Reader) ([]byte, error), replies [][]byte) *Server {
	t.Helper()
	if network == "unix" {
		require.NoError(t, os.MkdirAll(filepath.Dir(address), 0o755))
	}
	l, err := net.Listen(network, address)
	require.NoError(t, err)
	s := &Server{Addr: l.Addr().String(), listener: l}
	s.done.Go(func() {
		for _, reply := range replies {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			request, err := read(conn)
			if err == nil {
				s.mu.Lock()
				s.requests = append(s.requests, request)
				s.mu.Unlock()
				conn.Write(reply) //nolint:errcheck // the client sees it
			}
			conn.Close()
		}
	})
	t.Cleanup(s.Close)
	return s
}

// readHTTP reads a request with its body.
func readHTTP(r io.Reader) ([]byte, error) {
	var seen bytes.Buffer
	req, err := http.ReadRequest(bufio.NewReader(io.TeeReader(r, &seen)))
	if err != nil {
		return nil, err
	}
	_, err = io.Copy(io.Discard, req.Body)
	return seen.Bytes(), err
}

// Close ends the server.
func (s *Server) Close() {
	s.listener.Close()
	s.done.Wait()
}

// Requests returns what clients sent, in order.
func (s *Server) Requests() [][]byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.requests
}

// Read returns the contents of files.
func Read(t *testing.T, names ...string) [][]byte {
	t.Helper()
	var contents [][]byte
	for _, name := range names {
		b, err := os.ReadFile(name)
		require.NoError(t, err)
		contents = append(contents, b)
	}
	return contents
}
