package sxp

// Value is an atom or a list. The zero Value is the empty atom. Values are
// never changed after they are made, so they may be shared between goroutines;
// slices that methods return must not be written to.
type Value struct {
	text  string
	items []Value // nil for an atom; not nil, though maybe empty, for a list
}

// empty is what every empty list holds, so that it costs no allocation.
var empty = []Value{}

// Atom returns the atom with text s, which may be any bytes.
func Atom(s string) Value { return Value{text: s} }

// List returns the list of items, in that order. It keeps the slice.
func List(items ...Value) Value {
	if items == nil {
		items = empty
	}
	return Value{items: items}
}

// Pair returns (name value), the form of most fields.
func Pair(name, value string) Value { return List(Atom(name), Atom(value)) }

// IsAtom tells whether v is an atom.
func (v Value) IsAtom() bool { return v.items == nil }

// IsList tells whether v is a list, be it empty.
func (v Value) IsList() bool { return v.items != nil }

// Text returns the bytes of an atom, and "" for a list.
func (v Value) Text() string { return v.text }

// Items returns the elements of a list, and nil for an atom.
func (v Value) Items() []Value { return v.items }

// Len returns the number of elements of a list, and 0 for an atom.
func (v Value) Len() int { return len(v.items) }

// Name returns the text of a list's first element if that is an atom, else "".
func (v Value) Name() string {
	if len(v.items) == 0 {
		return ""
	}
	return v.items[0].text
}

// attributes returns the attribute list (@ (key value)…) of v.
func (v Value) attributes() (Value, bool) {
	if len(v.items) > 1 && v.items[1].IsList() && v.items[1].Name() == "@" {
		return v.items[1], true
	}
	return Value{}, false
}

// rest returns what follows the name and the attributes of a list.
func (v Value) rest() []Value {
	if len(v.items) == 0 {
		return nil
	}
	if _, ok := v.attributes(); ok {
		return v.items[2:]
	}
	return v.items[1:]
}

// Children returns the elements of a list after its name and its attributes,
// atoms and lists alike. With names it returns those only that are lists with
// one of these names.
func (v Value) Children(names ...string) []Value {
	rest := v.rest()
	if len(names) == 0 {
		return rest
	}
	var found []Value
	for _, c := range rest {
		for _, name := range names {
			if c.named(name) {
				found = append(found, c)
				break
			}
		}
	}
	return found
}

// named tells whether v is a list whose first element is the atom name.
func (v Value) named(name string) bool {
	return len(v.items) > 0 && v.items[0].IsAtom() && v.items[0].text == name
}

// Child returns the first child of v that is a list of that name.
func (v Value) Child(name string) (Value, bool) {
	for _, c := range v.rest() {
		if c.named(name) {
			return c, true
		}
	}
	return Value{}, false
}

// ChildValue returns the text of the first value of the first child of that
// name: "97" of (vnet (id 97)) for id. It returns def if there is no such
// child, or it has no value, or its value is a list.
func (v Value) ChildValue(name, def string) string {
	c, ok := v.Child(name)
	if !ok {
		return def
	}
	if rest := c.rest(); len(rest) > 0 && rest[0].IsAtom() {
		return rest[0].text
	}
	return def
}

// Attribute returns the value of an attribute, "5" of (a (@ (id 5)) b) for id,
// and def if v has none of that name or it has no value.
func (v Value) Attribute(name, def string) string {
	if attributes, ok := v.attributes(); ok {
		return attributes.ChildValue(name, def)
	}
	return def
}

// Equal tells whether v and w are the same value.
func (v Value) Equal(w Value) bool {
	if v.IsAtom() || w.IsAtom() {
		return v.IsAtom() == w.IsAtom() && v.text == w.text
	}
	if len(v.items) != len(w.items) {
		return false
	}
	for i := range v.items {
		if !v.items[i].Equal(w.items[i]) {
			return false
		}
	}
	return true
}

// Merge returns a list with the fields of a, and of b those that a lacks; the
// name is a's. A field is a list with a name. A field that both have is merged
// in turn if it consists of fields itself, else a's stands: all of a's, where
// it repeats. If a or b is an atom, the result is a.
func Merge(a, b Value) Value {
	if a.IsAtom() || b.IsAtom() {
		return a
	}
	if len(a.items) == 0 {
		return b
	}
	fields := make(map[string]Value, len(b.items)) // the first of each name in b
	for _, f := range b.rest() {
		if name := f.Name(); name != "" {
			if _, ok := fields[name]; !ok {
				fields[name] = f
			}
		}
	}
	items := make([]Value, 0, len(a.items)+len(b.items))
	seen := make(map[string]bool, len(a.items))
	for i, f := range a.items {
		name := f.Name()
		if name == "" || i == 0 {
			items = append(items, f)
			continue
		}
		if other, ok := fields[name]; ok && !seen[name] && f.fielded() && other.fielded() {
			f = Merge(f, other)
		}
		seen[name] = true
		items = append(items, f)
	}
	for i, f := range b.items {
		if name := f.Name(); i > 0 && name != "" && !seen[name] {
			items = append(items, f)
		}
	}
	return Value{items: items}
}

// fielded tells whether everything in v after its name is a named list.
func (v Value) fielded() bool {
	for _, c := range v.rest() {
		if c.Name() == "" {
			return false
		}
	}
	return true
}
