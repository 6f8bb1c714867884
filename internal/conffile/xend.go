package conffile

import (
	"slices"

	"github.com/xenvnet/xend/sxp"
)

// Options are the forms (name value…) of xend-config.sxp in their order, each name once: the first counts. What
// has no name is no option, and is among them.
func Options(text []byte) ([]sxp.Value, error) {
	forms, err := sxp.Parse(text, sxp.Xend)
	if err != nil {
		return nil, err
	}
	seen := map[string]bool{}
	return slices.DeleteFunc(forms, func(form sxp.Value) bool {
		name := form.Name()
		again := seen[name]
		seen[name] = name != ""
		return again
	}), nil
}

// Option is the single value of an option of xend-config.sxp; "" if the file does not have it, or gives it none.
func Option(text []byte, name string) (string, error) {
	options, err := Options(text)
	for _, form := range options {
		if values := form.Children(); form.Name() == name && len(values) > 0 && !values[0].IsList() {
			return values[0].Text(), nil
		}
	}
	return "", err
}
