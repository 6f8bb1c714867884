package client

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/xenvnet/xend/sxp"
	"github.com/xenvnet/xend/vnet"
	"github.com/xenvnet/xend/xendcompat/xmlrpc/codec"
)

// XMLRPC speaks XML-RPC, as xm of Xen 3.0.2 and later does.
type XMLRPC struct {
	url  string
	http http.Client
}

var _ Xend = (*XMLRPC)(nil)

// faultNoDomain is the code of the fault "no such domain".
const faultNoDomain = 3

// NewXMLRPC returns a client of the server at a unix socket's path ("unix") or at host:port ("tcp")
// that posts its calls to path.
func NewXMLRPC(network, address, path string) *XMLRPC {
	host := address
	if network == "unix" {
		host = "localhost"
	}
	return &XMLRPC{url: "http://" + host + path, http: httpClient(network, address)}
}

// call calls a method.
func (c *XMLRPC) call(ctx context.Context, method string, params ...any) (sxp.Value, error) {
	body := bytes.NewReader(codec.EncodeCall(codec.Call{Method: method, Params: params}))
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.url, body)
	if err != nil {
		return sxp.Value{}, err
	}
	req.Header.Set("Content-Type", "text/xml")
	r, err := exchange(&c.http, req)
	if err != nil {
		return sxp.Value{}, err
	}
	if r.code != http.StatusOK {
		return sxp.Value{}, &Error{Text: r.reason}
	}
	return decodeResponse(r.body)
}

// decodeResponse returns the value of a methodResponse, or its fault as an error.
func decodeResponse(b []byte) (sxp.Value, error) {
	result, err := codec.DecodeResponse(b)
	var fault *codec.Fault
	switch {
	case errors.As(err, &fault):
		return sxp.Value{}, &Error{Text: cmp.Or(fault.Text, "unknown fault"), NotFound: fault.Code == faultNoDomain}
	case err != nil:
		return sxp.Value{}, fmt.Errorf("xend's answer is not XML-RPC: %w", err)
	}
	v := codec.ToSXP(result)
	if v.IsAtom() {
		// A result that is a string by itself is sent as the inside of a quoted literal.
		return sxp.Atom(codec.Unescape(v.Text())), nil
	}
	return v, nil
}

// Vnets implements [Xend].
func (c *XMLRPC) Vnets(ctx context.Context) ([]string, error) {
	v, err := c.call(ctx, "xend_vnets")
	if err != nil {
		return nil, err
	}
	return texts(v), nil
}

// Vnet implements [Xend].
func (c *XMLRPC) Vnet(ctx context.Context, id string) (sxp.Value, error) {
	return c.call(ctx, "xend_vnet", id)
}

// CreateVnet implements [Xend]. It sends the form, not the name of the file, which a server on
// another machine could not open.
func (c *XMLRPC) CreateVnet(ctx context.Context, _ string, config []byte) error {
	parsed, err := vnet.ParseConfig(config)
	if err != nil {
		return err
	}
	_, err = c.call(ctx, "xend_vnet_create", codec.FromSXP(parsed.Form, nil))
	return err
}

// DeleteVnet implements [Xend].
func (c *XMLRPC) DeleteVnet(ctx context.Context, id string) error {
	_, err := c.call(ctx, "xend_vnet_delete", id)
	return err
}

// Domains implements [Xend].
func (c *XMLRPC) Domains(ctx context.Context) ([]sxp.Value, error) {
	v, err := c.call(ctx, "xend.domains", true, false)
	return v.Items(), err
}

// Domain implements [Xend].
func (c *XMLRPC) Domain(ctx context.Context, name string) (sxp.Value, error) {
	v, err := c.call(ctx, "xend.domain", name, false)
	var e *Error
	if errors.As(err, &e) && e.NotFound {
		// The fault's text is the name alone.
		return v, &Error{Text: "No such domain " + e.Text, NotFound: true}
	}
	return v, err
}

// Node implements [Xend].
func (c *XMLRPC) Node(ctx context.Context) (sxp.Value, error) {
	v, err := c.call(ctx, "xend.node.info")
	if err != nil {
		return sxp.Value{}, err
	}
	return sxp.List(append([]sxp.Value{sxp.Atom("node")}, v.Items()...)...), nil
}

// Log implements [Xend].
func (c *XMLRPC) Log(ctx context.Context) (string, error) {
	v, err := c.call(ctx, "xend.node.log")
	return v.Text(), err
}

// Dmesg implements [Xend].
func (c *XMLRPC) Dmesg(ctx context.Context) (string, error) {
	v, err := c.call(ctx, "xend.node.dmesg.info")
	return v.Text(), err
}

// ClearDmesg implements [Xend].
func (c *XMLRPC) ClearDmesg(ctx context.Context) error {
	_, err := c.call(ctx, "xend.node.dmesg.clear")
	return err
}
