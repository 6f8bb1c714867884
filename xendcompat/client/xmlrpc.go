package client

import (
	"bytes"
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"github.com/xenvnet/xend/sxp"
	"github.com/xenvnet/xend/vnet"
)

// XMLRPC speaks XML-RPC, as xm of Xen 3.0.2 and later does.
type XMLRPC struct {
	url  string
	http http.Client
}

var _ Xend = (*XMLRPC)(nil)

// faultNoDomain is the code of the fault "no such domain".
const faultNoDomain = "3"

// NewXMLRPC returns a client of the server at a unix socket's path ("unix") or at host:port ("tcp")
// that posts its calls to path.
func NewXMLRPC(network, address, path string) *XMLRPC {
	host := address
	if network == "unix" {
		host = "localhost"
	}
	return &XMLRPC{url: "http://" + host + path, http: httpClient(network, address)}
}

// call calls a method. Parameters are string, int, bool or sxp.Value; a list is an array.
func (c *XMLRPC) call(ctx context.Context, method string, params ...any) (sxp.Value, error) {
	var body bytes.Buffer
	body.WriteString("<?xml version='1.0'?>\n<methodCall>\n<methodName>" + method + "</methodName>\n<params>\n")
	for _, p := range params {
		body.WriteString("<param>\n")
		encode(&body, p)
		body.WriteString("</param>\n")
	}
	body.WriteString("</params>\n</methodCall>\n")
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.url, &body)
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

// encode writes one parameter.
func encode(w *bytes.Buffer, p any) {
	w.WriteString("<value>")
	switch p := p.(type) {
	case string:
		w.WriteString("<string>")
		xml.EscapeText(w, []byte(p)) //nolint:errcheck // a buffer takes everything
		w.WriteString("</string>")
	case int:
		fmt.Fprintf(w, "<int>%d</int>", p)
	case bool:
		n := 0
		if p {
			n = 1
		}
		fmt.Fprintf(w, "<boolean>%d</boolean>", n)
	case sxp.Value:
		if p.IsAtom() {
			w.WriteString("<string>")
			xml.EscapeText(w, []byte(p.Text())) //nolint:errcheck // a buffer takes everything
			w.WriteString("</string>")
			break
		}
		w.WriteString("<array><data>\n")
		for _, item := range p.Items() {
			encode(w, item)
		}
		w.WriteString("</data></array>")
	}
	w.WriteString("</value>\n")
}

// response is a methodResponse.
type response struct {
	XMLName xml.Name   `xml:"methodResponse"`
	Params  []xmlValue `xml:"params>param>value"`
	Fault   *xmlValue  `xml:"fault>value"`
}

// xmlValue is the inside of <value>: an array, a struct, a scalar of any other type, or bare text,
// which is a string.
type xmlValue struct {
	Array *struct {
		Values []xmlValue `xml:"data>value"`
	} `xml:"array"`
	Struct *struct {
		Members []struct {
			Name  string   `xml:"name"`
			Value xmlValue `xml:"value"`
		} `xml:"member"`
	} `xml:"struct"`
	Scalar *struct {
		Text string `xml:",chardata"`
	} `xml:",any"`
	Text string `xml:",chardata"`
}

// sxp returns the value as an S-expression: an array is a list, a struct a list of (name value),
// nil an empty atom, everything else an atom.
func (x *xmlValue) sxp() sxp.Value {
	switch {
	case x.Array != nil:
		items := make([]sxp.Value, 0, len(x.Array.Values))
		for i := range x.Array.Values {
			items = append(items, x.Array.Values[i].sxp())
		}
		return sxp.List(items...)
	case x.Struct != nil:
		var items []sxp.Value
		for i := range x.Struct.Members {
			m := &x.Struct.Members[i]
			items = append(items, sxp.List(sxp.Atom(m.Name), m.Value.sxp()))
		}
		return sxp.List(items...)
	case x.Scalar != nil:
		return sxp.Atom(x.Scalar.Text)
	}
	return sxp.Atom(x.Text)
}

// decodeResponse returns the value of a methodResponse, or its fault as an error.
func decodeResponse(b []byte) (sxp.Value, error) {
	var r response
	if err := xml.Unmarshal(b, &r); err != nil {
		return sxp.Value{}, fmt.Errorf("xend's answer is not XML-RPC: %w", err)
	}
	switch {
	case r.Fault != nil:
		// The first element of a form is its name, which a struct has none of.
		fields := sxp.List(append([]sxp.Value{{}}, r.Fault.sxp().Items()...)...)
		return sxp.Value{}, &Error{
			Text:     fields.ChildValue("faultString", "unknown fault"),
			NotFound: fields.ChildValue("faultCode", "") == faultNoDomain,
		}
	case len(r.Params) == 0:
		return sxp.Value{}, nil
	}
	v := r.Params[0].sxp()
	if v.IsAtom() {
		// A result that is a string by itself is sent as the inside of a quoted literal.
		return sxp.Atom(unescape(v.Text())), nil
	}
	return v, nil
}

// unescape undoes the escapes \\ \' \" \n \r \t \xNN; another backslash stands for itself.
func unescape(s string) string {
	var out strings.Builder
	for {
		i := strings.IndexByte(s, '\\')
		if i < 0 || i+1 == len(s) {
			out.WriteString(s)
			return out.String()
		}
		out.WriteString(s[:i])
		n := 2
		switch s[i+1] {
		case '\\', '\'', '"':
			out.WriteByte(s[i+1])
		case 'n':
			out.WriteByte('\n')
		case 'r':
			out.WriteByte('\r')
		case 't':
			out.WriteByte('\t')
		default:
			if s[i+1] == 'x' && i+4 <= len(s) {
				if b, err := strconv.ParseUint(s[i+2:i+4], 16, 8); err == nil {
					out.WriteByte(byte(b))
					n = 4
					break
				}
			}
			out.WriteString(s[i : i+2])
		}
		s = s[i+n:]
	}
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
	_, err = c.call(ctx, "xend_vnet_create", parsed.Form)
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
