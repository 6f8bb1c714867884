package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/google/renameio/v2"

	"github.com/xenvnet/xend/xendcompat/domain"
)

// farewell is what a host remembers of a domain that may have left.
type farewell struct {
	Host  string
	Port  int
	Token string
}

// Migrate moves a domain to another host.
func (t *Toolstack) Migrate(ctx context.Context, id int, c domain.Config, o domain.MigrateOptions) error {
	g, release, err := t.takeAlive(ctx, id)
	if err != nil {
		return err
	}
	defer release()
	if marked(g.dir, leavingFile) {
		return fmt.Errorf("domain %s may have left already: look at the other host, then 'xm unpause' or 'xm destroy' it here", g.rec.Name)
	}
	if err := t.migrate(ctx, g, c, o); err != nil {
		var uncertain *domain.UncertainError
		if errors.As(err, &uncertain) {
			return err
		}
		return fmt.Errorf("migrate domain %s to %s: %w", g.rec.Name, o.Host, err)
	}
	return nil
}

func (t *Toolstack) migrate(ctx context.Context, g *guest, c domain.Config, o domain.MigrateOptions) error {
	if err := t.step("dial"); err != nil {
		return err
	}
	l, err := t.dial(ctx, o)
	if err != nil {
		return err
	}
	defer l.conn.Close()
	defer context.AfterFunc(ctx, func() { l.conn.Close() })()

	token := newToken()
	m := image{Config: configText(c), Paused: g.paused}
	ns, err := g.network()
	if err != nil {
		return err
	}
	m.Network, err = look(ns, g.rec.Network.Sysctls)
	ns.Close()
	if err != nil {
		return err
	}
	if err := t.step("prepare"); err != nil {
		return err
	}
	if _, err := l.ask(message{Op: "prepare", Token: token, Image: &m}, prepareTimeout); err != nil {
		return err
	}
	if err := t.step("stop"); err != nil {
		return err
	}
	began := time.Now()
	if m, err = t.still(g, c); err != nil {
		return err
	}
	if err := t.step("farewell"); err != nil {
		return errors.Join(err, g.resume())
	}
	f := farewell{o.Host, o.Port, token}
	if err := f.write(g.dir); err != nil {
		return errors.Join(err, g.resume())
	}
	g.setLeaving(true)
	// From here on the other host decides.
	ctx = context.WithoutCancel(ctx)
	decision := ""
	err = t.step("commit")
	if err == nil {
		if _, err = l.ask(message{Op: "commit", Network: &m.Network}, commitTimeout); err == nil {
			decision = committed
		}
	}
	var refused *refusal
	if errors.As(err, &refused) {
		decision = aborted
	}
	l.conn.Close()
	for deadline := time.Now().Add(resolveFor); decision == ""; {
		if errStep := t.step("resolve"); errStep != nil {
			return errStep
		}
		var errAsk error
		if decision, errAsk = t.resolve(ctx, f); errAsk == nil {
			break
		}
		if time.Now().After(deadline) {
			g.setPaused(true)
			t.done.Go(func() { t.settleFarewell(g) })
			return &domain.UncertainError{Name: g.rec.Name, Host: o.Host, Err: errors.Join(err, errAsk)}
		}
		pause(ctx, 200*time.Millisecond)
	}
	if errEnd := t.conclude(ctx, g, decision); errEnd != nil {
		return errors.Join(err, errEnd)
	}
	if decision == committed {
		t.o.Log.Info("a domain has left", "domid", g.id, "name", g.rec.Name, "host", o.Host, "stopped", time.Since(began).Round(time.Millisecond))
		return nil
	}
	return errors.Join(err, errors.New("it goes on here"))
}

// conclude does what was decided, for who has the turn.
func (t *Toolstack) conclude(ctx context.Context, g *guest, decision string) error {
	if err := t.step("%s", decision); err != nil {
		return err
	}
	if decision == committed {
		return t.destroy(ctx, g)
	}
	if err := unmark(g.dir, leavingFile); err != nil {
		return err
	}
	g.setLeaving(false)
	t.tell(domain.Event{ID: g.id, UUID: g.uuid})
	g.setPaused(marked(g.dir, pausedFile))
	if g.paused {
		return nil
	}
	if err := g.resume(); err != nil {
		return err
	}
	// Others may have been told that it had moved.
	ns, err := g.network()
	if err != nil {
		return err
	}
	defer ns.Close()
	n, err := look(ns, nil)
	if err != nil {
		return err
	}
	return announce(ns, n)
}

func (f farewell) write(dir string) error {
	b, err := json.Marshal(f)
	if err != nil {
		return err
	}
	return renameio.WriteFile(filepath.Join(dir, leavingFile), b, 0o600)
}

// resolve asks the other host what it decided.
func (t *Toolstack) resolve(ctx context.Context, f farewell) (string, error) {
	l, err := t.dial(ctx, domain.MigrateOptions{Host: f.Host, Port: f.Port})
	if err != nil {
		return "", err
	}
	defer l.conn.Close()
	answer, err := l.ask(message{Op: "resolve", Token: f.Token}, commitTimeout)
	switch {
	case err != nil:
		return "", err
	case answer.Decision != committed && answer.Decision != aborted:
		return "", fmt.Errorf("it does not say what it decided, but %q", answer.Decision)
	}
	return answer.Decision, nil
}

// Pauses between questions about a domain that may have left.
const (
	firstPause = time.Second
	lastPause  = 30 * time.Second
)

// settleFarewell asks the other host until it says what it decided, or somebody here has decided.
func (t *Toolstack) settleFarewell(g *guest) {
	for wait := firstPause; t.ctx.Err() == nil; wait = min(2*wait, lastPause) {
		if t.settleOnce(g) {
			return
		}
		pause(t.ctx, wait)
	}
}

func (t *Toolstack) settleOnce(g *guest) (done bool) {
	b, err := os.ReadFile(filepath.Join(g.dir, leavingFile))
	var f farewell
	if err != nil || json.Unmarshal(b, &f) != nil {
		return true // unpaused, or destroyed
	}
	decision, err := t.resolve(t.ctx, f)
	if err != nil {
		t.o.Log.Warn("whether a domain has left is not known yet; it is paused here", "domid", g.id, "name", g.name(), "host", f.Host, "error", err)
		return false
	}
	_, release, err := t.takeAlive(t.ctx, g.id)
	if err != nil {
		return true
	}
	defer release()
	if !marked(g.dir, leavingFile) {
		return true
	}
	t.o.Log.Info("what became of a domain that may have left", "domid", g.id, "name", g.rec.Name, "host", f.Host, "decision", decision)
	if err := t.conclude(t.ctx, g, decision); err != nil {
		t.o.Log.Error("a domain that may have left", "domid", g.id, "name", g.rec.Name, "error", err)
		return false
	}
	return true
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
