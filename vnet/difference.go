package vnet

import (
	"fmt"
	"slices"
	"strings"

	"github.com/xenvnet/xend/internal/nearest"
)

// fieldNames are the fields of a configuration that mean something.
var fieldNames = []string{"id", "bridge", "vnetif", "security"}

// Suggest returns the field that a misspelt one may be meant to be; "" if none is like it.
func Suggest(field string) string { return nearest.To(field, fieldNames) }

// Difference tells in words what c has otherwise than other, a configuration of the same vnet: "bridge br1
// instead of vnet97". It is empty if both say the same, whatever their spacing, the order of their fields, and
// the spelling of their ids.
func (c Config) Difference(other Config) string {
	var list []string
	differ := func(field, ours, theirs string) {
		if ours != theirs {
			list = append(list, fmt.Sprintf("%s %s instead of %s", field, ours, theirs))
		}
	}
	// A default follows the spelling of the id, which is no difference: it counts only where one of them
	// names a device.
	if c.given("bridge") || other.given("bridge") {
		differ("bridge", c.Bridge, other.Bridge)
	}
	if c.given("vnetif") || other.given("vnetif") {
		differ("vnetif", c.Vnetif, other.Vnetif)
	}
	differ("security", c.Security.String(), other.Security.String())
	ours, theirs := c.extras(), other.extras()
	for _, e := range ours {
		if i := slices.Index(theirs, e); i >= 0 {
			theirs = slices.Delete(theirs, i, i+1)
			continue
		}
		list = append(list, shorten(e)+" more")
	}
	for _, e := range theirs {
		list = append(list, shorten(e)+" less")
	}
	return strings.Join(list, ", ")
}

// given tells whether the owner wrote a value for a field.
func (c Config) given(field string) bool { return c.Form.ChildValue(field, "") != "" }

// extras are the elements of the form that mean nothing.
func (c Config) extras() []string {
	var list []string
	for _, v := range c.Form.Children() {
		if !slices.Contains(fieldNames, v.Name()) {
			list = append(list, v.String())
		}
	}
	return list
}
