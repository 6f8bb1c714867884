package daemon

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/xenvnet/xend/internal/ctl"
	"github.com/xenvnet/xend/internal/version"
	"github.com/xenvnet/xend/internal/vnetfile"
	"github.com/xenvnet/xend/sxp"
	"github.com/xenvnet/xend/xendcompat/config"
	"github.com/xenvnet/xend/xendcompat/registry"
	"github.com/xenvnet/xend/xendcompat/service"
)

// maxTroubles bounds the troubles that are written for a person, the worst first.
const maxTroubles = 20

// statusTimeout bounds the wait for a daemon that runs: one that does not say how it is, is not well.
const statusTimeout = 10 * time.Second

// StatusReport is what is known of this host's daemon.
type StatusReport struct {
	Severity  string           `json:"severity"` // well, degraded or broken
	PID       int              `json:"pid"`      // 0: none runs
	Version   string           `json:"version"`  // of this program
	Vnets     int              `json:"vnets"`    // persistent ones
	Up        int              `json:"up"`       // those of them that carry frames
	Transient int              `json:"transient"`
	Default   int              `json:"default"`
	Dataplane string           `json:"dataplane"`
	Underlays []StatusUnderlay `json:"underlays"`
	Troubles  []StatusTrouble  `json:"troubles"` // the worst first
}

// StatusUnderlay is the way to other hosts over one address family.
type StatusUnderlay struct {
	Family  string `json:"family"`
	Device  string `json:"device,omitempty"`
	Address string `json:"address,omitempty"`
	MTU     string `json:"mtu,omitempty"`
	Group   string `json:"group,omitempty"`
	Port    string `json:"port,omitempty"`
	Reason  string `json:"reason,omitempty"`  // why this device
	Problem string `json:"problem,omitempty"` // why none
}

// StatusTrouble is something to be looked at.
type StatusTrouble struct {
	Severity string `json:"severity"` // degraded or broken
	Of       string `json:"of"`
	Text     string `json:"text"`
	Cure     string `json:"cure,omitempty"`
}

// Level is the severity as monitoring wants it: 0 well, 1 degraded, 2 broken.
func (r *StatusReport) Level() int {
	for level, s := range []service.Severity{service.Well, service.Degraded} {
		if r.Severity == s.String() {
			return level
		}
	}
	return int(service.Broken)
}

func (r *StatusReport) add(s service.Severity, of, text, cure string) {
	r.Troubles = append(r.Troubles, StatusTrouble{s.String(), of, text, cure})
	if r.Level() < int(s) {
		r.Severity = s.String()
	}
}

// Status looks how this host's daemon is. One that does not run is no error, but broken.
func Status(ctx context.Context, o Options) (*StatusReport, error) {
	r := &StatusReport{Severity: service.Well.String(), Version: version.Version, Underlays: []StatusUnderlay{}, Troubles: []StatusTrouble{}}
	var err error
	if r.PID, err = runningPID(o.Paths.PidFile()); err != nil {
		return nil, err
	}
	cfg, mistake := config.Load(o.Paths, o.Config)
	if mistake != nil {
		c := config.Default(o.Paths)
		cfg = &c
	}
	asked := false
	if r.PID == 0 {
		r.add(service.Broken, "xend", ErrNotRunning.Error(), "xend start")
	} else if err := r.ask(ctx, cfg.ControlSocket); err != nil {
		text := fmt.Sprintf("it does not say how it is: %v", err)
		if errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, fs.ErrNotExist) {
			text = "it accepts nothing on its sockets: it is about to begin, or to end"
		}
		r.add(service.Broken, "xend", text, "the log says what it does")
	} else {
		asked = true
	}
	if mistake != nil {
		r.add(service.Degraded, "configuration", fmt.Sprintf("it has a mistake: %v", mistake), "the next start would fail; a running daemon keeps what it had")
	}
	for _, doubt := range cfg.Doubts {
		r.add(service.Degraded, "configuration", doubt, "")
	}
	if asked {
		return r, nil
	}
	// What can be seen without a daemon.
	r.Vnets = len(vnetfile.List(cfg.StateDir))
	corrupt, err := registry.CorruptFiles(cfg.StateDir)
	if err != nil {
		return nil, err
	}
	for _, name := range corrupt {
		r.add(service.Degraded, "file "+filepath.Join(cfg.StateDir, name), "cannot be read and was set aside", "the log says why")
	}
	return r, nil
}

// ask has the daemon say how it is.
func (r *StatusReport) ask(ctx context.Context, socket string) error {
	ctx, cancel := context.WithTimeoutCause(ctx, statusTimeout, fmt.Errorf("no answer within %s", statusTimeout))
	defer cancel()
	answer, err := ctl.Do(ctx, socket, "(vn.status)")
	if err != nil {
		return err
	}
	forms, err := sxp.Parse([]byte(answer), sxp.C)
	if err != nil {
		return err
	}
	if len(forms) != 1 || forms[0].Name() != "status" {
		return errors.New("it is of another version")
	}
	status := forms[0]
	r.Severity = status.ChildValue("severity", service.Broken.String())
	r.Vnets, _ = strconv.Atoi(status.ChildValue("vnets", ""))
	r.Up, _ = strconv.Atoi(status.ChildValue("up", ""))
	r.Transient, _ = strconv.Atoi(status.ChildValue("transient", ""))
	r.Default, _ = strconv.Atoi(status.ChildValue("default", ""))
	r.Dataplane = status.ChildValue("dataplane", "")
	for _, u := range status.Children("underlay") {
		get := func(name string) string { return u.ChildValue(name, "") }
		r.Underlays = append(r.Underlays, StatusUnderlay{
			get("family"), get("device"), get("addr"), get("mtu"), get("group"), get("port"), get("reason"), get("problem"),
		})
	}
	for _, t := range status.Children("trouble") {
		get := func(name string) string { return t.ChildValue(name, "") }
		r.Troubles = append(r.Troubles, StatusTrouble{get("severity"), get("of"), get("text"), get("cure")})
	}
	return nil
}

// WriteJSON writes all of it.
func (r *StatusReport) WriteJSON(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(r)
}

// WriteText writes it for a person: trouble first, a line for each fact.
func (r *StatusReport) WriteText(w io.Writer) {
	for i, t := range r.Troubles {
		if i == maxTroubles {
			fmt.Fprintf(w, "%-9s and %d more; --json lists them\n", "", len(r.Troubles)-i)
			break
		}
		fmt.Fprintf(w, "%-9s %s: %s\n", strings.ToUpper(t.Severity), t.Of, t.Text)
		if t.Cure != "" {
			fmt.Fprintf(w, "          → %s\n", t.Cure)
		}
	}
	if len(r.Troubles) > 0 {
		fmt.Fprintln(w)
	}
	if r.PID == 0 {
		fmt.Fprintln(w, ErrNotRunning)
		return
	}
	up := ""
	switch {
	case r.Dataplane != "on" || r.Vnets == 0:
	case r.Up == r.Vnets:
		up = "all up"
	default:
		up = fmt.Sprintf("%d up", r.Up)
	}
	fmt.Fprintf(w, "xend is running, pid %d, version %s, %s\n", r.PID, r.Version, service.VnetCount(r.Vnets, up, r.Transient, r.Default))
	if r.Dataplane == "off" {
		fmt.Fprintln(w, "the data plane is turned off: vnets are bridges and interfaces of this host alone")
	}
	for _, u := range r.Underlays {
		if u.Problem != "" {
			fmt.Fprintf(w, "underlay %s: none: %s\n", u.Family, u.Problem)
			continue
		}
		fmt.Fprintf(w, "underlay %s: %s (%s), %s, MTU %s, group %s port %s\n", u.Family, u.Device, cmp.Or(u.Reason, "chosen"), u.Address, u.MTU, u.Group, u.Port)
	}
}
