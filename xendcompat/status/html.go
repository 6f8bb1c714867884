package status

import (
	"bytes"
	"embed"
	"fmt"
	"html/template"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/xenvnet/xend/xendcompat/httpx"
)

// policy is the Content-Security-Policy of the pages: scripts and styles are this server's files, nothing comes from
// elsewhere, forms go to where they come from, and no other page may frame them.
const policy = "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; " +
	"form-action 'self'; frame-ancestors 'none'; base-uri 'none'"

//go:embed assets
var assets embed.FS

var pages = template.Must(template.New("pages").Funcs(template.FuncMap{
	"path":  url.PathEscape,
	"bits":  bits,
	"count": count,
	"bytes": volume,
	"ago":   ago,
}).ParseFS(assets, "assets/*.tmpl"))

// assetTypes are the files that browsers may have, with their media types. They hold no secrets.
var assetTypes = map[string]string{"page.css": "text/css", "page.js": "text/javascript", "icon.svg": "image/svg+xml"}

// isAsset tells requests for /xend/-/FILE.
func isAsset(r *httpx.Request) bool {
	return len(r.Path) == 3 && r.Path[0] == "xend" && r.Path[1] == "-" && assetTypes[r.Path[2]] != "" && reads(r)
}

func asset(r *httpx.Request) *httpx.Reply {
	name := r.Path[2]
	b, err := assets.ReadFile("assets/" + name)
	if err != nil {
		return httpx.NotFound("Not found: " + name)
	}
	return httpx.OK(assetTypes[name], b).SetHeader("X-Content-Type-Options", "nosniff")
}

// draw executes a template. Its data are plain values, so that it can't fail; the tests draw them all.
func draw(name string, data any) []byte {
	var b bytes.Buffer
	if err := pages.ExecuteTemplate(&b, name, data); err != nil {
		panic(err)
	}
	return b.Bytes()
}

// reply is a page.
func reply(status int, body []byte) *httpx.Reply {
	return (&httpx.Reply{Status: status, Type: httpx.HTML + "; charset=utf-8", Body: body}).
		SetHeader("Content-Security-Policy", policy).
		SetHeader("X-Content-Type-Options", "nosniff").
		SetHeader("X-Frame-Options", "DENY").
		SetHeader("Referrer-Policy", "same-origin").
		SetHeader("Cross-Origin-Opener-Policy", "same-origin")
}

// failure is a page that says only what went wrong.
func failure(status int, title, why string) *httpx.Reply {
	return reply(status, draw("failure", struct{ Title, Why string }{title, why}))
}

// loginPage asks for a token.
func loginPage(status int, to, problem string) *httpx.Reply {
	return reply(status, draw("login", struct{ Title, To, Problem string }{"Sign in", to, problem}))
}

// bits is a rate in bytes per second, for a person.
func bits(rate float64) string {
	return scaled(rate*8, 1000, "bit/s", "kbit/s", "Mbit/s", "Gbit/s", "Tbit/s")
}

// volume is a number of bytes, for a person.
func volume(n uint64) string { return scaled(float64(n), 1024, "B", "KiB", "MiB", "GiB", "TiB", "PiB") }

func scaled(v, step float64, units ...string) string {
	for i, unit := range units {
		if v < step*.9995 || i == len(units)-1 {
			digits := 0
			if v < 10 && i > 0 {
				digits = 1
			}
			return strconv.FormatFloat(v, 'f', digits, 64) + "\u00a0" + unit
		}
		v /= step
	}
	return ""
}

// count is a number with its thousands apart.
func count(n any) string {
	s := fmt.Sprint(n)
	var b strings.Builder
	for i, c := range s {
		if i > 0 && (len(s)-i)%3 == 0 {
			b.WriteString("\u202f")
		}
		b.WriteRune(c)
	}
	return b.String()
}

// ago is for how long something has been so; negative: never.
func ago(d time.Duration) string {
	switch {
	case d < 0:
		return "never"
	case d < time.Second:
		return "now"
	case d < 2*time.Minute:
		return fmt.Sprintf("%d\u00a0s ago", int(d.Seconds()))
	case d < 2*time.Hour:
		return fmt.Sprintf("%d\u00a0min ago", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%d\u00a0h ago", int(d.Hours()))
	}
	return fmt.Sprintf("%d\u00a0days ago", int(d.Hours()/24))
}
