package lab

import (
	"context"

	"github.com/xenvnet/xend/xendcompat/domain"
)

type Relocation struct{}

func (t *Toolstack) settleFarewell(*guest) {}

func (t *Toolstack) keepToken(string, *record) error { return nil }

// Migrate x.
func (t *Toolstack) Migrate(ctx context.Context, id int, c domain.Config, o domain.MigrateOptions) error {
	return nil
}
