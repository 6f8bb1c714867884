package httpsxp

import (
	"net/http"

	"github.com/xenvnet/xend/sxp"
	"github.com/xenvnet/xend/xendcompat/html"
	"github.com/xenvnet/xend/xendcompat/httpx"
)

// value returns a success with a value; an empty atom is an empty body.
func value(v sxp.Value) *httpx.Reply {
	if v.IsAtom() && v.Text() == "" {
		return httpx.OK("", nil)
	}
	return httpx.OK(httpx.SXP, sxp.Append(nil, v))
}

// quoted is value in the way that libvirt can read: with no other quotation marks than '.
func quoted(v sxp.Value) *httpx.Reply {
	if v.IsAtom() && v.Text() == "" {
		return httpx.OK("", nil)
	}
	return httpx.OK(httpx.SXP, sxp.AppendSingleQuoted(nil, v))
}

// failed is how an application error travels to programs: as a success, with the text in the body.
func failed(err error) *httpx.Reply {
	return value(sxp.Pair("xend.err", err.Error()))
}

// failedQuoted is failed in the way that libvirt can read.
func failedQuoted(err error) *httpx.Reply {
	return quoted(sxp.Pair("xend.err", err.Error()))
}

// refused is the reply to a GET that is answered with an error.
func (q *request) refused(err error) *httpx.Reply {
	if q.html {
		return page(html.Failure(q.Path, err.Error()))
	}
	return failedQuoted(err)
}

// broken is refused for what libvirt asks: it takes a success for the answer to a GET, whatever the body
// says, so it is no success. xm shows the reason phrase.
func (q *request) broken(err error) *httpx.Reply {
	r := q.refused(err)
	if !q.html {
		r.Status, r.Reason = http.StatusInternalServerError, err.Error()
	}
	return r
}

// notFound says which element of a path leads nowhere.
func notFound(element string) *httpx.Reply { return httpx.NotFound("Not found: " + element) }

// unknownOp is the reply to an operation that does not exist.
func unknownOp(op string) *httpx.Reply {
	text := "Operation not implemented: " + op
	return httpx.Text(http.StatusNotImplemented, text, text)
}

// page is a reply for a person.
func page(b []byte) *httpx.Reply {
	return httpx.OK(httpx.HTML, b).
		SetHeader("Content-Security-Policy", html.Policy).
		SetHeader("X-Frame-Options", "DENY")
}

// seeOther sends a browser to another page after an operation, so that reloading does not repeat it.
func seeOther(path string) *httpx.Reply {
	return (&httpx.Reply{Status: http.StatusSeeOther, Reason: "See other"}).SetHeader("Location", path)
}
