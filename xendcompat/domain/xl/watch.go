package xl

import (
	"context"
	"time"

	"github.com/xenvnet/xend/xendcompat/domain"
)

// Watch looks at the domains from time to time: xl tells nobody of itself.
func (t *Toolstack) Watch(ctx context.Context) <-chan domain.Event {
	events := make(chan domain.Event)
	go func() {
		defer close(events)
		var known map[int]domain.Status
		failing := false
		for {
			list, err := t.short(ctx)
			if err == nil {
				failing = false
				for _, e := range changes(known, list) {
					select {
					case events <- e:
					case <-ctx.Done():
						return
					}
				}
				known = map[int]domain.Status{}
				for _, s := range list {
					known[s.ID] = s
				}
			} else if ctx.Err() == nil && !failing {
				failing = true
				t.o.Log.Warn("the domains can't be looked at", "error", err)
			}
			select {
			case <-ctx.Done():
				return
			case <-time.After(t.o.Poll):
			}
		}
	}()
	return events
}

// changes are the events between two looks; before the first, only those that count whenever they happened.
func changes(before map[int]domain.Status, now []domain.Status) []domain.Event {
	var events []domain.Event
	here := map[int]bool{}
	for _, s := range now {
		here[s.ID] = true
		old, was := before[s.ID]
		if s.Reason != "" && s.Reason != old.Reason || before != nil && !was {
			events = append(events, domain.Event{ID: s.ID, UUID: s.UUID, Reason: s.Reason})
		}
	}
	for id, s := range before {
		if !here[id] {
			events = append(events, domain.Event{ID: id, UUID: s.UUID})
		}
	}
	return events
}
