package main

import (
	"slices"

	"github.com/xenvnet/xend/internal/cli"
	"github.com/xenvnet/xend/sxp"
	"github.com/xenvnet/xend/vnet"
)

// filter leaves out forms of other vnets than --vnet, and of other hosts than --host; forms that are of none stay.
func filter(forms []sxp.Value, in cli.Invocation) ([]sxp.Value, error) {
	id := ""
	if in.Has("vnet") {
		parsed, err := vnet.ParseIDPadded(in.Value("vnet"))
		if err != nil {
			return nil, err
		}
		id = parsed.String()
	}
	return slices.DeleteFunc(forms, func(f sxp.Value) bool {
		of, host := f.ChildValue("vnet", ""), f.ChildValue("addr", "")
		return id != "" && of != "" && of != id || in.Has("host") && host != "" && host != in.Value("host")
	}), nil
}

// fieldsIf is a form with those of its fields that keep lets stay.
func fieldsIf(f sxp.Value, keep func(sxp.Value) bool) sxp.Value {
	fields := []sxp.Value{sxp.Atom(f.Name())}
	for _, c := range f.Children() {
		if c.IsAtom() || keep(c) {
			fields = append(fields, c)
		}
	}
	return sxp.List(fields...)
}

// printForms prints forms as JSON: a list with an object for each form, whose "form" is the form's name. Of fields that
// occur several times, and of those with fields of their own, the value is a list.
func (a *app) printForms(forms []sxp.Value) error {
	out := make([]any, len(forms))
	for i, f := range forms {
		out[i] = jsonOf(f)
	}
	return a.printJSON(out)
}

func jsonOf(f sxp.Value) map[string]any {
	out := map[string]any{"form": f.Name()}
	for _, c := range f.Children() {
		if c.IsAtom() {
			continue
		}
		name, rest := c.Name(), c.Children()
		switch before := out[name]; {
		case len(rest) > 0 && !(len(rest) == 1 && rest[0].IsAtom()):
			list, _ := before.([]any)
			out[name] = append(list, jsonOf(c))
		case before != nil: // once more
			list, ok := before.([]any)
			if !ok {
				list = []any{before}
			}
			out[name] = append(list, atomOf(rest))
		default:
			out[name] = atomOf(rest)
		}
	}
	return out
}

// atomOf is the text of a field, "" if it has none.
func atomOf(rest []sxp.Value) string {
	if len(rest) == 0 {
		return ""
	}
	return rest[0].Text()
}
