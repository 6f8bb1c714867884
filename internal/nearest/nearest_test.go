package nearest

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestTo(t *testing.T) {
	known := []string{"id", "bridge", "vnetif", "security", "xend-http-server", "xend-unix-server"}
	for word, want := range map[string]string{
		"brigde":                       "bridge",
		"Bridge":                       "bridge",
		"vnet_if":                      "vnetif",
		"vnetfi":                       "vnetif",
		"securty":                      "security",
		"xend-http-servr":              "xend-http-server",
		"color":                        "",
		"":                             "",
		"x":                            "",
		"mac":                          "",
		strings.Repeat("bridge", 1000): "",
	} {
		require.Equal(t, want, To(word, known), word)
	}
}
