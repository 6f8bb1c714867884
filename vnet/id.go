// Package vnet is the domain model that everybody shares: the id of a vnet, its
// security level, and its configuration as its owner wrote it, with all
// validation. It does no I/O.
package vnet

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
)

// groups is the number of 16-bit fields of an id.
const groups = 8

// ID names a vnet: 128 bits, big-endian, as on the wire. The zero ID is invalid.
type ID [16]byte

// IDError says why a text is no vnet id.
type IDError struct {
	Text   string // the whole text
	Reason string // names the part that is wrong
}

func (e *IDError) Error() string {
	return fmt.Sprintf("invalid vnet id %q: %s", shorten(e.Text), e.Reason)
}

// ParseID reads an id: eight groups of 1–4 hexadecimal digits with colons
// between them, or one such group, which is the last field with the others
// zero. So 97 is 0x97. The error is an *IDError.
func ParseID(s string) (ID, error) {
	if n := strings.Count(s, ":") + 1; n != 1 && n != groups {
		return ID{}, &IDError{s, fmt.Sprintf("it has %d groups instead of 1 or %d", n, groups)}
	}
	return parseGroups(s)
}

// ParseIDPadded is ParseID, but fills an id of fewer than eight groups with zero
// groups on the left, as vn does.
func ParseIDPadded(s string) (ID, error) {
	if n := strings.Count(s, ":") + 1; n > groups {
		return ID{}, &IDError{s, fmt.Sprintf("it has %d groups, more than %d", n, groups)}
	}
	return parseGroups(s)
}

// parseGroups reads at most eight groups, the last of which is the last field.
func parseGroups(s string) (ID, error) {
	var id ID
	parts := strings.Split(s, ":")
	for i, part := range parts {
		if part == "" {
			if len(parts) == 1 {
				return ID{}, &IDError{s, "it is empty"}
			}
			return ID{}, &IDError{s, fmt.Sprintf("group %d is empty", i+1)}
		}
		field, err := strconv.ParseUint(part, 16, 16)
		if err != nil || len(part) > 4 {
			return ID{}, &IDError{s, fmt.Sprintf("group %q is not 1 to 4 hexadecimal digits", shorten(part))}
		}
		at := 2 * (groups - len(parts) + i)
		id[at], id[at+1] = byte(field>>8), byte(field)
	}
	if id == (ID{}) {
		return ID{}, &IDError{s, "it is zero"}
	}
	return id, nil
}

// String returns the full form, eight groups of four digits with colons.
func (id ID) String() string { return id.join(':') }

// FileName returns the full form with dashes instead of colons, which every
// file system takes. It has no extension.
func (id ID) FileName() string { return id.join('-') }

func (id ID) join(separator byte) string {
	b := make([]byte, 0, 5*groups)
	for i := 0; i < len(id); i += 2 {
		if i > 0 {
			b = append(b, separator)
		}
		b = hex.AppendEncode(b, id[i:i+2])
	}
	return string(b)
}

// Reserved tells whether id is 1, which stands for the physical network and
// can't be a vnet's.
func (id ID) Reserved() bool { return id == lastField(1) }

// Default tells whether id is 2, 3 or 4, a vnet that exists without being
// created.
func (id ID) Default() bool {
	return id == lastField(2) || id == lastField(3) || id == lastField(4)
}

// lastField returns the id with all fields zero but the last.
func lastField(n uint16) ID { return ID{14: byte(n >> 8), 15: byte(n)} }

// Compare orders ids by value: negative if id is before other, 0 if equal.
func (id ID) Compare(other ID) int { return bytes.Compare(id[:], other[:]) }

// Short is the shortest text that ParseID reads as this id: "97" where only the last field is not zero, else as String.
func (id ID) Short() string {
	last := uint16(id[14])<<8 | uint16(id[15])
	if id == lastField(last) {
		return strconv.FormatUint(uint64(last), 16)
	}
	return id.String()
}

// ShortText is the Short of the id that a text is, and the text itself if it is none.
func ShortText(text string) string {
	if id, err := ParseID(text); err == nil {
		return id.Short()
	}
	return text
}
