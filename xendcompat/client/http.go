package client

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net"
	"net/http"
	"net/url"
	"strings"

	"github.com/xenvnet/xend/sxp"
)

// HTTP speaks SXP over HTTP, one connection for each request.
type HTTP struct {
	base string
	http http.Client
}

var _ Xend = (*HTTP)(nil)

// NewHTTP returns a client of the server at a unix socket's path ("unix") or at host:port ("tcp").
func NewHTTP(network, address string) *HTTP {
	host := address
	if network == "unix" {
		host = "localhost"
	}
	return &HTTP{base: "http://" + host, http: httpClient(network, address)}
}

// httpClient sends every request to one address, whatever its URL says, and follows no redirect.
func httpClient(network, address string) http.Client {
	return http.Client{
		Transport: &http.Transport{
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return dial(ctx, network, address)
			},
			DisableKeepAlives: true,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// reply is what came back.
type reply struct {
	code   int
	reason string // what stands behind the code in the status line; never empty
	media  string // type of the body, without parameters
	body   []byte
}

// exchange sends one request and reads the whole reply.
func exchange(c *http.Client, req *http.Request) (reply, error) {
	ctx, cancel := bounded(req.Context())
	defer cancel()
	// A user agent is what xend knows a browser by.
	req.Header.Set("User-Agent", "")
	resp, err := c.Do(req.WithContext(ctx))
	if err != nil {
		return reply{}, noAnswer(ctx, err)
	}
	defer resp.Body.Close()
	body, err := readReply(resp.Body)
	if err != nil {
		return reply{}, noAnswer(ctx, err)
	}
	r := reply{code: resp.StatusCode, body: body}
	if _, r.reason, _ = strings.Cut(resp.Status, " "); r.reason == "" {
		r.reason = fmt.Sprintf("status %d", r.code)
	}
	if r.media, _, err = mime.ParseMediaType(resp.Header.Get("Content-Type")); err != nil {
		r.media = ""
	}
	return r, nil
}

// reasonNotFound is the reason phrase for what does not exist.
const reasonNotFound = "Not found"

// errTooLarge is an answer that no daemon of ours gives.
var errTooLarge = fmt.Errorf("xend's answer is larger than %d MiB", maxReply>>20)

// readReply reads up to the end, within bounds.
func readReply(r io.Reader) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, maxReply+1))
	if err == nil && len(b) > maxReply {
		err = errTooLarge
	}
	return b, err
}

// noAnswer words the errors of a connection that was made, or could not be.
func noAnswer(ctx context.Context, err error) error {
	var ce *ConnectError
	var ue *url.Error
	switch {
	case errors.As(err, &ce):
		return ce
	case errors.Is(err, errTooLarge):
		return err
	case errors.Is(ctx.Err(), context.Canceled):
		return ctx.Err()
	case isTimeout(err):
		return errors.New("xend did not answer in time")
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return errors.New("xend closed the connection before its answer was complete")
	case errors.As(err, &ue):
		err = ue.Err
	}
	return fmt.Errorf("no answer from xend: %w", err)
}

// do sends a request and returns the reply if that is a success.
func (c *HTTP) do(ctx context.Context, method, path, contentType string, body []byte) (reply, error) {
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, bytes.NewReader(body))
	if err != nil {
		return reply{}, err
	}
	// No Accept: the answer is SXP then, and the server takes us for no browser.
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	r, err := exchange(&c.http, req)
	if err != nil {
		return reply{}, err
	}
	if refusal := xendErr(r.body); refusal != nil { // after 2006 with status 500
		return reply{}, refusal
	}
	switch r.code {
	case http.StatusOK, http.StatusCreated, http.StatusAccepted, http.StatusNoContent:
		return r, nil
	}
	return reply{}, &Error{Text: r.reason, NotFound: r.reason == reasonNotFound}
}

// xendErr returns the error that a body carries, or nil.
func xendErr(body []byte) error {
	if !bytes.Contains(body, []byte("xend.err")) {
		return nil
	}
	v, err := sxp.NewDecoder(bytes.NewReader(body), sxp.Xend).Decode()
	if err != nil || v.Name() != "xend.err" {
		return nil
	}
	text := v.Name()
	if rest := v.Children(); len(rest) > 0 {
		if text = rest[0].Text(); rest[0].IsList() {
			text = rest[0].String()
		}
	}
	return &Error{Text: text}
}

// get asks for one value. An empty reply is an empty atom.
func (c *HTTP) get(ctx context.Context, path string) (sxp.Value, error) {
	r, err := c.do(ctx, http.MethodGet, path, "", nil)
	if err != nil {
		return sxp.Value{}, err
	}
	vs, err := sxp.ParseLimited(r.body, sxp.Xend, sxp.Limits{Size: maxReply})
	if err != nil {
		return sxp.Value{}, fmt.Errorf("xend's answer is not an S-expression: %w", err)
	}
	if len(vs) == 0 {
		return sxp.Value{}, nil
	}
	return vs[0], nil
}

// text asks for a text. A server of the original sends some as the atom of an S-expression.
func (c *HTTP) text(ctx context.Context, path string) (string, error) {
	r, err := c.do(ctx, http.MethodGet, path, "", nil)
	if err != nil {
		return "", err
	}
	if r.media == "application/sxp" {
		if vs, err := sxp.ParseLimited(r.body, sxp.Xend, sxp.Limits{Size: maxReply}); err == nil && len(vs) == 1 && vs[0].IsAtom() {
			return vs[0].Text(), nil
		}
	}
	return string(r.body), nil
}

// post sends an operation with its parameters.
func (c *HTTP) post(ctx context.Context, path, op string, params url.Values) error {
	if params == nil {
		params = url.Values{}
	}
	params.Set("op", op)
	_, err := c.do(ctx, http.MethodPost, path, "application/x-www-form-urlencoded", []byte(params.Encode()))
	return err
}

// below returns the path of what is called name in dir. Names that lead elsewhere are those of nothing.
func below(dir, name string) (string, error) {
	switch name {
	case "", ".", "..":
		return "", &Error{Text: reasonNotFound, NotFound: true}
	}
	return dir + url.PathEscape(name), nil
}

// Vnets implements [Xend].
func (c *HTTP) Vnets(ctx context.Context) ([]string, error) {
	v, err := c.get(ctx, "/xend/vnet/")
	if err != nil {
		return nil, err
	}
	return texts(v), nil
}

// texts returns the atoms of a list.
func texts(v sxp.Value) []string {
	ids := make([]string, 0, v.Len())
	for _, id := range v.Items() {
		ids = append(ids, id.Text())
	}
	return ids
}

// Vnet implements [Xend].
func (c *HTTP) Vnet(ctx context.Context, id string) (sxp.Value, error) {
	path, err := below("/xend/vnet/", id)
	if err != nil {
		return sxp.Value{}, err
	}
	return c.get(ctx, path)
}

// CreateVnet implements [Xend]. The file goes as an upload, as legacy clients send it.
func (c *HTTP) CreateVnet(ctx context.Context, name string, config []byte) error {
	var body bytes.Buffer
	w := multipart.NewWriter(&body)
	part, err := w.CreateFormFile("config", name)
	if err == nil {
		_, err = part.Write(config)
	}
	if err == nil {
		err = w.WriteField("op", "create")
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		return err
	}
	_, err = c.do(ctx, http.MethodPost, "/xend/vnet", w.FormDataContentType(), body.Bytes())
	return err
}

// DeleteVnet implements [Xend].
func (c *HTTP) DeleteVnet(ctx context.Context, id string) error {
	path, err := below("/xend/vnet/", id)
	if err != nil {
		return err
	}
	return c.post(ctx, path, "delete", nil)
}

// Domains implements [Xend].
func (c *HTTP) Domains(ctx context.Context) ([]sxp.Value, error) {
	v, err := c.get(ctx, "/xend/domain/?detail=1")
	return v.Items(), err
}

// Domain implements [Xend].
func (c *HTTP) Domain(ctx context.Context, name string) (sxp.Value, error) {
	path, err := below("/xend/domain/", name)
	if err != nil {
		return sxp.Value{}, err
	}
	return c.get(ctx, path)
}

// Node implements [Xend].
func (c *HTTP) Node(ctx context.Context) (sxp.Value, error) { return c.get(ctx, "/xend/node/") }

// Log implements [Xend].
func (c *HTTP) Log(ctx context.Context) (string, error) { return c.text(ctx, "/xend/node/log") }

// Dmesg implements [Xend].
func (c *HTTP) Dmesg(ctx context.Context) (string, error) { return c.text(ctx, "/xend/node/dmesg") }

// ClearDmesg implements [Xend].
func (c *HTTP) ClearDmesg(ctx context.Context) error {
	return c.post(ctx, "/xend/node/dmesg", "clear", nil)
}
