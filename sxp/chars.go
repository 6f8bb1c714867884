package sxp

// Dialect says whose syntax a text follows.
type Dialect int

const (
	// Xend is the syntax of xend: its API, configuration files and registry.
	Xend Dialect = iota
	// C is the syntax of the low-level control socket.
	C
)

// String returns "xend" or "c".
func (d Dialect) String() string {
	if d == C {
		return "c"
	}
	return "xend"
}

// Classes of bytes; a byte may be in several.
const (
	isSpace  = 1 << iota // separates values
	endsAtom             // ends an atom; inside one everything else is ordinary
	isStart              // may begin an atom
	isBare               // may be in an atom that is written without quotes
)

// classes holds the classes of every byte for each dialect.
var classes = [2][256]uint8{Xend: xendClasses(), C: cClasses()}

func xendClasses() (t [256]uint8) {
	for c := 0x21; c < 0x7f; c++ {
		t[c] |= isStart
	}
	for _, c := range []byte(`()'"#`) {
		t[c] &^= isStart
	}
	for _, c := range []byte(" \t\n\v\f\r") {
		t[c] |= isSpace | endsAtom
	}
	for _, c := range []byte("#{}()<>[];") {
		t[c] |= endsAtom
	}
	for c := range t {
		if c >= '0' && c <= '9' || c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z' {
			t[c] |= isBare
		}
	}
	for _, c := range []byte(".-_:/~") {
		t[c] |= isBare
	}
	return t
}

func cClasses() [256]uint8 {
	t := xendClasses()
	for _, c := range []byte(`!"'`) {
		t[c] |= endsAtom
	}
	for _, c := range []byte(`[]\`) {
		t[c] &^= isStart
	}
	t['\v'] = 0
	return t
}

// ctrlD between values ends the input.
const ctrlD = 0x04
