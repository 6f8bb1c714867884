package sxp

import "slices"

// Name returns the text of a list's first element if that is an atom, else "".
func (v Value) Name() string {
	if items := v.Items(); len(items) > 0 {
		return items[0].Text()
	}
	return ""
}

// named tells whether v is a list whose first element is the atom name.
func (v Value) named(name string) bool {
	items := v.Items()
	return len(items) > 0 && items[0].IsAtom() && items[0].Text() == name
}

// split returns the attribute list (@ (key value)…) of v, if it has one, and
// what follows its name and its attributes.
func (v Value) split() (attributes Value, children []Value) {
	items := v.Items()
	if len(items) == 0 {
		return Value{}, nil
	}
	if len(items) > 1 && items[1].named("@") {
		return items[1], items[2:]
	}
	return Value{}, items[1:]
}

// Children returns the elements of a list after its name and its attributes,
// atoms and lists alike. With names it returns those only that are lists with
// one of these names.
func (v Value) Children(names ...string) []Value {
	_, children := v.split()
	if len(names) == 0 {
		return children
	}
	var found []Value
	for _, c := range children {
		if slices.ContainsFunc(names, c.named) {
			found = append(found, c)
		}
	}
	return found
}

// Child returns the first child of v that is a list of that name.
func (v Value) Child(name string) (Value, bool) {
	_, children := v.split()
	for _, c := range children {
		if c.named(name) {
			return c, true
		}
	}
	return Value{}, false
}

// ChildValue returns the text of the first value of the first child of that
// name: "97" of (vnet (id 97)) for id. It returns def if there is no such
// child, or it has no value, or its first value is a list.
func (v Value) ChildValue(name, def string) string {
	c, ok := v.Child(name)
	if !ok {
		return def
	}
	if values := c.Children(); len(values) > 0 && values[0].IsAtom() {
		return values[0].Text()
	}
	return def
}

// Attribute returns the value of an attribute, "5" of (a (@ (id 5)) b) for id,
// and def if v has none of that name or it has no value.
func (v Value) Attribute(name, def string) string {
	attributes, _ := v.split()
	return attributes.ChildValue(name, def)
}
