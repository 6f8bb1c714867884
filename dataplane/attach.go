package dataplane

import (
	"fmt"

	"github.com/xenvnet/xend/dataplane/port"
	"github.com/xenvnet/xend/internal/hostnet"
	"github.com/xenvnet/xend/vnet"
)

// attachment is a vnet that was attached: what workers see of it, and what only the cold side knows. It is
// guarded by the engine's lock.
type attachment struct {
	*network
	bridge  int    // index of the bridge that the vnif is on; 0: on none
	problem string // what is wrong, for a person; "": nothing is
	waits   bool   // the vnif is not read yet: others could not open what comes from it
}

// attached is a port that a worker reads.
type attached struct {
	vnif
	token  int32
	worker int
}

// Attach carries the frames of a vnet through devices that port.Ensure made, from the time that Run runs. Once
// more for the same vnet it takes over what differs; with the same devices nothing is interrupted. After an
// error all is as it was.
func (e *Engine) Attach(c vnet.Config, d port.Devices) error {
	e.attaching.Lock()
	defer e.attaching.Unlock()
	return e.attach(c, d)
}

// attach is Attach with attaching held.
func (e *Engine) attach(c vnet.Config, d port.Devices) error {
	if err := e.readKeys(c); err != nil {
		return err
	}
	e.mu.Lock()
	state, workers, before := e.state, e.workers, e.networks[c.ID]
	e.mu.Unlock()
	if state == stateClosed {
		return ErrClosed
	}
	protection, err := e.protect(c, state)
	if err != nil {
		return fmt.Errorf("vnet %s: security %s: %w", c.IDText, c.Security, err)
	}
	if c.Security != vnet.None {
		e.mirror.bar(c.ID) // before anything is sealed
	} else {
		e.mirror.unbar(c.ID)
	}
	same := before != nil && len(before.ports) > 0 && before.devices.PartnerIndex == d.PartnerIndex
	var opened []vnif
	if state == stateRunning && !same {
		ports, err := port.OpenShared(d, port.Options{}, len(workers))
		if err != nil {
			if before == nil {
				e.unprotect(c.ID, "")
			}
			return fmt.Errorf("vnet %s: %w", c.IDText, err)
		}
		for _, p := range ports {
			opened = append(opened, p)
		}
	}
	m := &meter{shares: make([]share, len(workers))}
	if before != nil && len(before.shares) == len(workers) {
		m = before.meter
	}
	retired, err := e.replace(c, d, m, before, opened, protection)
	quiesce(workers)
	e.retire(retired)
	if err != nil {
		if before == nil {
			e.unprotect(c.ID, "")
		}
		return fmt.Errorf("vnet %s: %w", c.IDText, err)
	}
	if state == stateRunning && !same {
		e.log.Info("vnet is up", "vnet", c.ID.Short(), "vnif", d.VnifName, "bridge", d.Bridge, "adopted", !d.Created)
	}
	e.kickSecurity()
	e.learner.look(c.ID)
	return nil
}

// replace puts a network in the place of the one before, if any, and has the workers read the ports that were
// opened for it; with none opened it goes on with those there are. It returns the ports that are not read any
// more, to be closed when no worker uses them: the old ones, or after an error the new ones.
func (e *Engine) replace(c vnet.Config, d port.Devices, m *meter, before *attachment, opened []vnif, s *seal) ([]vnif, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	var ports []attached
	if len(opened) > 0 {
		ports = e.assignLocked(opened)
	} else if before != nil {
		ports = before.ports
	}
	n := network{salt: e.recent.Salt(c.ID)}
	if before != nil {
		n = *before.network
	}
	n.config, n.devices, n.ports, n.meter, n.seal = c, d, ports, m, nil
	if s != nil {
		n.seal = s
	}
	a := &attachment{network: newNetwork(n, e.config.BUMRate), bridge: d.BridgeIndex}
	if len(opened) > 0 {
		a.waits = s != nil && !s.vnet.Open()
	} else if before != nil {
		a.waits = before.waits
	}
	e.networks[c.ID] = a
	e.publishLocked()
	if len(opened) == 0 {
		return nil, nil
	}
	for i, p := range ports {
		if a.waits {
			break // securityLocked does it when it is time
		}
		err := e.workers[p.worker].watch(p.FD(), p.token)
		if err == nil {
			continue
		}
		for _, p := range ports[:i] {
			e.workers[p.worker].unwatch(p.FD())
		}
		if delete(e.networks, c.ID); before != nil {
			e.networks[c.ID] = before
		}
		e.publishLocked()
		return opened, err
	}
	if before == nil {
		return nil, nil
	}
	return e.unwatchLocked(before), nil
}

// assignLocked gives each worker one of a vnet's ports; where the kernel does not let ports share a vnif, the
// only one goes to the worker that has fewest.
func (e *Engine) assignLocked(ports []vnif) []attached {
	worker := 0
	if len(ports) == 1 {
		worker = e.leastLocked()
	}
	list := make([]attached, len(ports))
	for i, p := range ports {
		list[i] = attached{vnif: p, token: e.tokenLocked(), worker: worker + i}
	}
	return list
}

// leastLocked is the worker with the fewest ports; the last of equals, since the first has EtherIP and most
// of the group's packets.
func (e *Engine) leastLocked() int {
	count := make([]int, len(e.workers))
	for _, a := range e.networks {
		for _, p := range a.ports {
			count[p.worker]++
		}
	}
	least := len(count) - 1
	for i := least; i >= 0; i-- {
		if count[i] < count[least] {
			least = i
		}
	}
	return least
}

// Detach stops carrying a vnet's frames and forgets where its MACs are; its devices stay. ErrUnknownVnet if it
// is not attached.
func (e *Engine) Detach(id vnet.ID) error {
	e.attaching.Lock()
	defer e.attaching.Unlock()
	e.mu.Lock()
	_, known := e.networks[id]
	e.mu.Unlock()
	if known {
		e.mirror.bar(id) // not under the lock
	}
	e.mu.Lock()
	a := e.networks[id]
	switch {
	case e.state == stateClosed:
		e.mu.Unlock()
		return ErrClosed
	case a == nil:
		e.mu.Unlock()
		return fmt.Errorf("%w: %s", ErrUnknownVnet, id)
	}
	delete(e.networks, id)
	e.publishLocked()
	ports := e.unwatchLocked(a)
	workers := e.workers
	e.mu.Unlock()
	quiesce(workers)
	e.retire(ports)
	e.unprotect(id, "")
	e.table.ForgetVnet(id)
	e.log.Info("vnet is down", "vnet", a.config.ID.Short())
	return nil
}

// unwatchLocked has no worker wait for an attachment's ports any more, and returns them.
func (e *Engine) unwatchLocked(a *attachment) []vnif {
	ports := make([]vnif, len(a.ports))
	for i, p := range a.ports {
		e.workers[p.worker].unwatch(p.FD())
		ports[i] = p.vnif
	}
	return ports
}

// closers is how many sockets are closed at the same time. The kernel lets each close wait until no processor
// uses the socket any more (packet_release, synchronize_net), some 10 ms, and all that wait at the same time for
// one and the same moment; but each occupies a thread.
const closers = 32

// retire closes ports that no worker uses, without waiting for it.
func (e *Engine) retire(ports []vnif) {
	for _, p := range ports {
		e.retiring.Go(func() {
			e.closing <- struct{}{}
			defer func() { <-e.closing }()
			_ = p.Close() // nothing is lost with it
		})
	}
}

// lost stops carrying a vnet whose pair vanished, if it still has that partner.
func (e *Engine) lost(id vnet.ID, partner int) {
	e.attaching.Lock()
	defer e.attaching.Unlock()
	e.mu.Lock()
	a := e.networks[id]
	if a == nil || a.devices.PartnerIndex != partner || e.state != stateRunning {
		e.mu.Unlock()
		return
	}
	ports := e.unwatchLocked(a)
	n := *a.network
	n.ports = nil
	e.networks[id] = &attachment{network: newNetwork(n, e.config.BUMRate), problem: "its devices vanished"}
	e.publishLocked()
	workers := e.workers
	e.mu.Unlock()
	quiesce(workers)
	e.retire(ports)
	if a.problem == "" {
		e.log.Warn("the devices of a vnet vanished", "vnet", a.config.ID.Short(), "vnif", a.config.Vnetif)
	}
}

// places find vnets by the indices of their devices: there is an event for each change of a device, and for each MAC of a domain.
type places struct {
	ends, bridges map[int]vnet.ID // vnifs and their partners; the bridges that vnifs are on
}

// placesLocked are those of all vnets.
func (e *Engine) placesLocked() *places {
	if e.places == nil {
		p := &places{make(map[int]vnet.ID, 2*len(e.networks)), make(map[int]vnet.ID, len(e.networks))}
		for id, a := range e.networks {
			p.ends[a.devices.VnifIndex], p.ends[a.devices.PartnerIndex] = id, id
			if a.bridge != 0 {
				p.bridges[a.bridge] = id
			}
		}
		e.places = p
	}
	return e.places
}

// linkEvent acts on a device that changed. It reports whether that can concern an underlay: devices of
// vnets and ports of their bridges come and go all the time.
func (e *Engine) linkEvent(ev hostnet.LinkEvent) bool {
	e.mu.Lock()
	places := e.placesLocked()
	if id, ok := places.ends[ev.Link.Index]; ok {
		a := e.networks[id]
		vnif := ev.Link.Index == a.devices.VnifIndex
		claim := vnif && !ev.Gone && e.joinedLocked(a, ev.Link.Master)
		e.mu.Unlock()
		if claim {
			e.learner.look(id)
		}
		if !vnif && ev.Gone {
			e.lost(id, ev.Link.Index)
		}
		return false
	}
	defer e.mu.Unlock()
	if _, ours := port.Owner(ev.Link); ours {
		return false // of a vnet that is being made, or deleted: an underlay is none of them
	}
	if ev.Gone {
		return true
	}
	_, port := places.bridges[ev.Link.Master]
	return !port
}

// joinedLocked notes the bridge that a vnif is on now, and reports whether it is another one than before. What
// is told here may be older than what Attach was given, but then something newer follows.
func (e *Engine) joinedLocked(a *attachment, bridge int) bool {
	if bridge == a.bridge {
		return false
	}
	a.bridge, e.places = bridge, nil
	if a.config.Bridge == "" {
		return true // which bridge it is on is its owner's business
	}
	if a.problem = ""; bridge != a.devices.BridgeIndex {
		a.problem = fmt.Sprintf("%s is not on bridge %s", a.config.Vnetif, a.config.Bridge)
	}
	return a.problem == ""
}
