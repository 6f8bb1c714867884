package service

import (
	"errors"
	"fmt"

	"github.com/xenvnet/xend/dataplane"
	"github.com/xenvnet/xend/dataplane/port"
	"github.com/xenvnet/xend/internal/hostnet"
	"github.com/xenvnet/xend/vnet"
)

// defaultsOff says how to be rid of the default vnets.
const defaultsOff = "'default_vnets = false' in the table [dataplane] of vnet.toml turns the default vnets off"

// refuse is an answer about one field of a configuration.
func refuse(k Kind, field, format string, args ...any) *Error {
	err := &vnet.FieldError{Field: field, Err: fmt.Errorf(format, args...)}
	return &Error{Kind: k, Text: err.Error(), Err: err}
}

// failed is an operation that could not be done.
func failed(op string, err error) *Error {
	kind := KindOf(err)
	var notOurs *hostnet.NotOursError
	var other *port.ConflictError
	if errors.As(err, &notOurs) || errors.As(err, &other) {
		kind = Conflict
	}
	return &Error{Kind: kind, Text: "can't " + op + ": " + err.Error(), Err: err}
}

// admit finds everything that speaks against a new vnet, before anything is touched. changing is
// held.
func (s *Service) admit(c vnet.Config) error {
	if c.Security != vnet.None {
		if err := s.checkKey(c); err != nil {
			return err
		}
	}
	if err := s.checkID(c); err != nil {
		return err
	}
	if err := s.checkNames(c); err != nil {
		return err
	}
	return s.checkDevices(c)
}

// checkKey tells why a vnet with security cannot be.
func (s *Service) checkKey(c vnet.Config) error {
	if s.o.CheckKey == nil {
		return refuse(Unavailable, "security", "%s needs a key, and none is configured on this host", c.Security)
	}
	err := s.o.CheckKey(c.ID)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, dataplane.ErrNoKey):
		return refuse(Unavailable, "security", "%s needs a key, and none is configured on this host: "+
			"'vn key-generate %s' makes one, or copy the folder of the keys of another host", c.Security, c.IDText)
	}
	return refuse(Unavailable, "security", "%s needs a key: %w", c.Security, err)
}

// there tells whether a persistent vnet is as c says; one that is not is an error.
func (s *Service) there(c vnet.Config) (bool, error) {
	old, ok := s.o.Registry.Get(c.ID)
	if !ok {
		return false, nil
	}
	if d := old.Difference(c); d != "" {
		return false, refuse(Exists, "id", "vnet %s exists already, with %s", c.IDText, d)
	}
	s.log.Info("vnet exists already as it was asked for", "vnet", old.ID.Short())
	return true, nil
}

// unlisted says what a vnet is that exists and is not persistent; nil if there is none of that id.
func (s *Service) unlisted(id vnet.ID, text string) error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	v, ok := s.find(id)
	switch {
	case !ok || v.Lifetime == Persistent:
		return nil
	case v.Lifetime == Default:
		return errorf(Conflict, "vnet %s is a default vnet: %s", text, defaultsOff)
	}
	return errorf(Conflict, "vnet %s was made with 'vn vnet-create' and goes when xend restarts: delete it with 'vn vnet-delete %s'", text, text)
}

func (s *Service) checkID(c vnet.Config) error {
	if _, ok := s.o.Registry.Get(c.ID); ok {
		return refuse(Exists, "id", "vnet %s exists already", c.IDText)
	}
	for _, o := range s.others {
		switch {
		case o.ID != c.ID:
		case o.Lifetime == Default:
			return refuse(Exists, "id", "vnet %s is a default vnet and exists already; %s", c.IDText, defaultsOff)
		default:
			return refuse(Exists, "id", "vnet %s exists already, until xend restarts or 'vn vnet-delete %s'", c.IDText, c.IDText)
		}
	}
	return nil
}

// checkNames compares with the devices of all other vnets, and with those that every vnet has besides those that
// it names. A device has one name among bridges and interfaces.
func (s *Service) checkNames(c vnet.Config) error {
	others := s.all()
	for _, f := range []struct{ field, name string }{{"bridge", c.Bridge}, {"vnetif", c.Vnetif}} {
		if f.name == "" {
			continue
		}
		if port.Reserved(f.name) {
			return refuse(Invalid, f.field, "%s is a name that xend gives to devices of its own (vnn, vnb or vnp and an id)", f.name)
		}
		for _, o := range others {
			if o.ID != c.ID && (f.name == o.Bridge || f.name == o.Vnetif) {
				return refuse(Conflict, f.field, "%s belongs to vnet %s", f.name, o.IDText)
			}
		}
	}
	// Vnets of a time when such names were not refused.
	own := port.OwnNames(c.ID)
	for _, o := range others {
		for _, name := range own {
			if o.ID != c.ID && (name == o.Bridge || name == o.Vnetif) {
				return refuse(Conflict, "id", "vnet %s needs %s for a device of its own, and that belongs to vnet %s", c.IDText, name, o.IDText)
			}
		}
	}
	return nil
}

// checkDevices looks whether devices are in the way that xend did not make, or for another vnet. A bridge that
// exists is used.
func (s *Service) checkDevices(c vnet.Config) error {
	survey, err := s.o.Devices.LookFor(s.spec(c))
	if err != nil {
		return failed("look for the devices of vnet "+c.IDText, err)
	}
	conflict := survey.Find(s.spec(c)).Conflict
	if conflict == nil {
		return nil
	}
	field := map[port.Role]string{port.RoleVnif: "vnetif", port.RoleBridge: "bridge"}[conflict.Role]
	if field == "" {
		field = "id"
	}
	var notOurs *hostnet.NotOursError
	switch {
	case !errors.As(conflict, &notOurs):
		return refuse(Conflict, field, "%w", conflict)
	case conflict.Role == port.RoleBridge:
		return refuse(Conflict, field, "%s is no bridge", notOurs.Device)
	}
	return refuse(Conflict, field, "%s is the name of a device that xend did not make for this vnet", notOurs.Device)
}
