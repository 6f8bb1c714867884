package status

import (
	"context"
	"time"

	"github.com/xenvnet/xend/vnet"
	"github.com/xenvnet/xend/xendcompat/service"
)

// Measured is a service whose operations that change vnets are timed, for the metrics.
type Measured struct {
	*service.Service
	observe func(op string, began time.Time, err error)
}

// Measure returns svc as the front end of that name should use it.
func (s *Status) Measure(svc *service.Service, front string) Measured {
	return Measured{svc, func(op string, began time.Time, err error) {
		result := "ok"
		if err != nil {
			result = "error"
		}
		s.seconds.WithLabelValues(front, op, result).Observe(time.Since(began).Seconds())
	}}
}

// CreateVnet is timed as create.
func (m Measured) CreateVnet(ctx context.Context, c vnet.Config) (err error) {
	defer func(began time.Time) { m.observe("create", began, err) }(time.Now())
	return m.Service.CreateVnet(ctx, c)
}

// DeleteVnet is timed as delete.
func (m Measured) DeleteVnet(ctx context.Context, id vnet.ID) (err error) {
	defer func(began time.Time) { m.observe("delete", began, err) }(time.Now())
	return m.Service.DeleteVnet(ctx, id)
}

// AddTransient is timed as add.
func (m Measured) AddTransient(ctx context.Context, c vnet.Config) (err error) {
	defer func(began time.Time) { m.observe("add", began, err) }(time.Now())
	return m.Service.AddTransient(ctx, c)
}

// DeleteTransient is timed as remove.
func (m Measured) DeleteTransient(ctx context.Context, id vnet.ID) (err error) {
	defer func(began time.Time) { m.observe("remove", began, err) }(time.Now())
	return m.Service.DeleteTransient(ctx, id)
}
