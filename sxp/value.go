package sxp

import "unsafe"

// Value is an atom or a list. The zero Value is the empty atom. Values are
// never changed after they are made, so they may be shared between goroutines;
// slices that methods return must not be written to. Compare values with
// [Value.Equal]: neither == nor reflect.DeepEqual looks into them.
type Value struct {
	_ [0]func() // no ==

	// A text holds several values for every word in it, so their size decides
	// how fast it is read: two words instead of the five of a string and a
	// slice. Only Atom, List, Text and Items look at these.
	p unsafe.Pointer // to the bytes of an atom, or to the elements of a list
	n int            // length of an atom; of a list its length's complement, which is negative
}

// Atom returns the atom with text s, which may be any bytes.
func Atom(s string) Value {
	return Value{p: unsafe.Pointer(unsafe.StringData(s)), n: len(s)}
}

// List returns the list of items, in that order. It keeps the slice.
func List(items ...Value) Value {
	return Value{p: unsafe.Pointer(unsafe.SliceData(items)), n: ^len(items)}
}

// Pair returns (name value), the form of most fields.
func Pair(name, value string) Value { return List(Atom(name), Atom(value)) }

// IsAtom tells whether v is an atom.
func (v Value) IsAtom() bool { return v.n >= 0 }

// IsList tells whether v is a list, also an empty one.
func (v Value) IsList() bool { return v.n < 0 }

// Text returns the bytes of an atom, and "" for a list.
func (v Value) Text() string {
	if v.IsList() {
		return ""
	}
	return unsafe.String((*byte)(v.p), v.n)
}

// Items returns the elements of a list, and none for an atom.
func (v Value) Items() []Value {
	if v.IsAtom() {
		return nil
	}
	return unsafe.Slice((*Value)(v.p), ^v.n)
}

// Len returns the number of elements of a list, and 0 for an atom.
func (v Value) Len() int { return len(v.Items()) }

// Equal tells whether v and w are the same value.
func (v Value) Equal(w Value) bool {
	if v.n != w.n {
		return false
	}
	if v.IsAtom() {
		return v.Text() == w.Text()
	}
	others := w.Items()
	for i, item := range v.Items() {
		if !item.Equal(others[i]) {
			return false
		}
	}
	return true
}
