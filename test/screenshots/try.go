package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/net/websocket"

	"github.com/xenvnet/xend/xendcompat/status/statustest"
)

// A page is open in a browser that is spoken to over its DevTools protocol.
type page struct {
	ws       *websocket.Conn
	id       int
	problems []string // what the browser complained of
}

// message is one of the protocol's.
type message struct {
	ID     int             `json:"id,omitempty"`
	Method string          `json:"method,omitempty"`
	Params json.RawMessage `json:"params,omitempty"`
	Result json.RawMessage `json:"result,omitempty"`
}

// call has the browser do something and waits for its answer.
func (p *page) call(method string, params any) (json.RawMessage, error) {
	b, err := json.Marshal(params)
	if err != nil {
		return nil, err
	}
	p.id++
	if err := websocket.JSON.Send(p.ws, message{ID: p.id, Method: method, Params: b}); err != nil {
		return nil, err
	}
	for {
		var m message
		if err := websocket.JSON.Receive(p.ws, &m); err != nil {
			return nil, err
		}
		switch {
		case m.Method == "Log.entryAdded" || m.Method == "Runtime.exceptionThrown":
			p.problems = append(p.problems, string(m.Params))
		case m.ID == p.id:
			return m.Result, nil
		}
	}
}

// value is what an expression of JavaScript gives, as text.
func (p *page) value(expression string) (string, error) {
	b, err := p.call("Runtime.evaluate", map[string]any{"expression": "String(" + expression + ")", "awaitPromise": true})
	if err != nil {
		return "", err
	}
	var r struct{ Result struct{ Value string } }
	return r.Result.Value, json.Unmarshal(b, &r)
}

// becomes waits until an expression is true.
func (p *page) becomes(what, expression string) error {
	for end := time.Now().Add(15 * time.Second); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		v, err := p.value(expression)
		if err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		if v == "true" {
			return nil
		}
	}
	return fmt.Errorf("%s: it does not happen: %s", what, expression)
}

// open starts a browser with a page.
func open(ctx context.Context, home, url string) (*page, error) {
	cmd := exec.CommandContext(ctx, "chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--user-data-dir="+home,
		"--remote-debugging-port=0", "--remote-allow-origins=*", url)
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	go cmd.Wait() //nolint:errcheck // it is killed with ctx
	var b []byte
	var err error
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		// The first line is the port, the second the path of the browser.
		if b, err = os.ReadFile(filepath.Join(home, "DevToolsActivePort")); err == nil && strings.Contains(string(b), "\n/") {
			break
		}
	}
	port, path, ok := strings.Cut(string(b), "\n")
	if !ok {
		return nil, errors.Join(err, errors.New("the browser does not say where it listens"))
	}
	browser, err := websocket.Dial("ws://127.0.0.1:"+port+path, "", "http://127.0.0.1/")
	if err != nil {
		return nil, err
	}
	defer browser.Close() //nolint:errcheck // it was only asked
	b, err = (&page{ws: browser}).call("Target.getTargets", struct{}{})
	if err != nil {
		return nil, err
	}
	var list struct {
		TargetInfos []struct{ TargetID, Type string }
	}
	if err := json.Unmarshal(b, &list); err != nil {
		return nil, err
	}
	for _, t := range list.TargetInfos {
		if t.Type != "page" {
			continue
		}
		p := &page{}
		if p.ws, err = websocket.Dial("ws://127.0.0.1:"+port+"/devtools/page/"+t.TargetID, "", "http://127.0.0.1/"); err != nil {
			return nil, err
		}
		for _, domain := range []string{"Log.enable", "Runtime.enable"} {
			if _, err := p.call(domain, struct{}{}); err != nil {
				return nil, err
			}
		}
		return p, nil
	}
	return nil, errors.New("the browser shows no page")
}

// try has a browser do what only it can: redraw the page while somebody fills in the form, show what the form makes, and
// fit the page into narrow windows. It complains of nothing meanwhile, the policy against foreign scripts included.
func try(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	home, err := os.MkdirTemp("", "screenshots")
	if err != nil {
		return err
	}
	defer os.RemoveAll(home)
	scene := statustest.Well()
	var failure error
	err = serve(ctx, scene, "127.0.0.1:0", func(address string) {
		defer cancel()
		p, err := open(ctx, home, "http://"+address+"/xend/")
		if err != nil {
			failure = err
			return
		}
		defer p.ws.Close() //nolint:errcheck // the browser ends
		failure = p.use(scene)
	})
	return errors.Join(err, failure)
}

func (p *page) use(scene *statustest.Scene) error {
	if err := p.becomes("the page is there", `document.readyState === "complete" && !!document.querySelector("[data-part=vnets] table")`); err != nil {
		return err
	}
	typed := `(() => { document.querySelector("details").open = true; const i = document.querySelector("input[name=id]"); i.focus();
		i.value = %q; i.dispatchEvent(new Event("input", {bubbles: true})); return true })()`
	shown := `document.querySelector("form[data-preview] output").textContent + "|" + document.querySelector("form[data-preview] .problem").textContent`
	for id, want := range map[string]string{"77": "(vnet (id 77))|", "no id": "(vnet (id 'no id'))|invalid vnet config: id"} {
		if _, err := p.value(fmt.Sprintf(typed, id)); err != nil {
			return err
		}
		if err := p.becomes("the form shows what it makes", fmt.Sprintf("(%s).startsWith(%q)", shown, want)); err != nil {
			return err
		}
	}
	if _, err := p.value(fmt.Sprintf(typed, "a5")); err != nil {
		return err
	}
	scene.Fall(0, "it fell while somebody looked")
	scene.Pass(10 * time.Second)
	if err := p.becomes("the page is redrawn", `document.querySelector("[data-part=vnets]").textContent.includes("it fell while somebody looked")`); err != nil {
		return err
	}
	if err := p.becomes("what was typed is still there", `document.activeElement.name === "id" && document.activeElement.value === "a5" && document.querySelector("details").open`); err != nil {
		return err
	}
	for _, width := range []int{320, 412, 780, 1280} {
		if _, err := p.call("Emulation.setDeviceMetricsOverride", map[string]any{"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}); err != nil {
			return err
		}
		if err := p.becomes(fmt.Sprintf("nothing is cut off at a width of %d", width), fmt.Sprintf("innerWidth === %d && document.documentElement.scrollWidth <= %d", width, width)); err != nil {
			return err
		}
	}
	// Through the whole page by keyboard: what has the focus is to be seen.
	for range 12 {
		for _, kind := range []string{"keyDown", "keyUp"} {
			if _, err := p.call("Input.dispatchKeyEvent", map[string]any{"type": kind, "key": "Tab", "code": "Tab", "windowsVirtualKeyCode": 9}); err != nil {
				return err
			}
		}
		if err := p.becomes("the focus is to be seen", `(() => { const s = getComputedStyle(document.activeElement); return document.activeElement === document.body || s.outlineStyle !== "none" && parseFloat(s.outlineWidth) >= 1 })()`); err != nil {
			return err
		}
	}
	if len(p.problems) > 0 {
		return fmt.Errorf("the browser complains:\n%s", strings.Join(p.problems, "\n"))
	}
	return nil
}
