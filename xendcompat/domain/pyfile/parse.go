// Package pyfile reads files that are written in Python's form, such as domain configurations, as data: assignments of
// constants and of simple expressions. Nothing is executed: what would be a program is an error that says what to
// write instead.
package pyfile

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// Limits of what a file may be.
const (
	// MaxSize bounds a file, in bytes.
	MaxSize = 1 << 20
	// maxDepth bounds how deep brackets nest.
	maxDepth = 100
	// maxWork bounds the sizes of all values that are computed on the way, in bytes.
	maxWork = 16 << 20
)

// Error says what can't be read, where, and what to write instead.
type Error struct {
	File string
	Line int // from 1
	Text string
}

func (e *Error) Error() string { return fmt.Sprintf("%s: line %d: %s", e.File, e.Line, e.Text) }

func errorAt(file string, line int, format string, args ...any) error {
	return &Error{File: file, Line: line, Text: fmt.Sprintf(format, args...)}
}

// Variable is what a file says of one name.
type Variable struct {
	Name  string
	Value Value
	Line  int // of the last assignment; 0 if it was given
}

// Options say what a file may refer to.
type Options struct {
	// Given are variables that are set before the file is read, as by NAME=VALUE of a command line.
	Given []Variable
	// Machine is what os.uname()[4] stands for: "x86_64".
	Machine string
}

// Parse reads a file, whose name is for errors, which are *Error. The variables come in the order of their first
// assignments; modules and names that begin with _ are left out.
func Parse(file string, b []byte, o Options) ([]Variable, error) {
	if len(b) > MaxSize {
		return nil, errorAt(file, 1, "the file has %d bytes, and the limit is %d", len(b), MaxSize)
	}
	p := &parser{lexer: lexer{file: file, s: strings.TrimPrefix(string(b), "\ufeff"), line: 1, fresh: true}, o: o, at: map[string]int{}, modules: map[string]bool{}, machine: map[string]bool{}}
	for _, v := range o.Given {
		if err := p.assign(v.Name, v.Value, 0); err != nil {
			return nil, err
		}
	}
	if err := p.advance(); err != nil {
		return nil, err
	}
	for p.t.kind != end {
		if err := p.statement(0); err != nil {
			return nil, err
		}
	}
	vars := p.vars[:0]
	for _, v := range p.vars {
		if !strings.HasPrefix(v.Name, "_") && !p.machine[v.Name] {
			vars = append(vars, v)
		}
	}
	return vars, nil
}

type parser struct {
	lexer
	o       Options
	t       token // the current one
	vars    []Variable
	at      map[string]int // where in vars a name is
	modules map[string]bool
	machine map[string]bool // names that hold what os.uname() tells
	deep    int
	work    int
	inner   bool // in a branch of a condition
	dry     bool // in one that does not count
}

func (p *parser) advance() (err error) {
	p.t, err = p.next()
	return err
}

func (p *parser) is(s string) bool { return p.t.kind == op && p.t.text == s }

func (p *parser) word(s string) bool { return p.t.kind == name && p.t.text == s }

// found is the current token, for errors.
func (p *parser) found() string {
	switch p.t.kind {
	case end, newline:
		return "the end of the line"
	case text:
		return "a string"
	}
	return strconv.Quote(cut(p.t.text))
}

func cut(s string) string {
	if len(s) > 40 {
		return s[:40] + "…"
	}
	return s
}

func (p *parser) fail(format string, args ...any) error { return p.errorf(p.t.line, format, args...) }

func (p *parser) expect(s string) error {
	if !p.is(s) {
		return p.fail("expected %s, found %s", s, p.found())
	}
	return p.advance()
}

func (p *parser) assign(name string, v Value, line int) error {
	if p.dry {
		return nil
	}
	i, ok := p.at[name]
	if !ok {
		if len(p.vars) == maxItems {
			return p.errorf(line, "there are more than %d names", maxItems)
		}
		i = len(p.vars)
		p.at[name] = i
		p.vars = append(p.vars, Variable{Name: name})
	}
	p.vars[i].Value, p.vars[i].Line = v, line
	return nil
}

// spend counts what a computed value costs.
func (p *parser) spend(v Value) (Value, error) {
	if p.work += size(v, maxWork); p.work > maxWork {
		return nil, p.fail("the values get too long")
	}
	return v, nil
}

// cures say what to write instead of Python's statements.
var cures = map[string]string{
	"def":      "functions are not run; write the values themselves",
	"class":    "classes are not run; write the values themselves",
	"for":      "loops are not run; write the values one by one",
	"while":    "loops are not run; write the values one by one",
	"try":      "programs are not run; write the values themselves",
	"with":     "programs are not run; write the values themselves",
	"exec":     "programs are not run; write the values themselves",
	"execfile": "other files are not read; write their values here",
	"print":    "nothing is printed; leave the line out",
	"return":   "programs are not run; leave the line out",
	"raise":    "programs are not run; leave the line out",
	"assert":   "programs are not run; leave the line out",
	"del":      "leave out the assignment instead",
	"global":   "leave the line out",
	"lambda":   "functions are not run; write the value itself",
	"elif":     "conditions are not evaluated; write the value that holds here",
	"else":     "conditions are not evaluated; write the value that holds here",
}

// statement reads statements up to the end of the line; they are indented by so many columns.
func (p *parser) statement(indent int) error {
	if p.t.kind == newline {
		return p.advance()
	}
	if p.t.start && p.t.indent != indent {
		return p.fail("unexpected indentation: begin the line in column %d", indent+1)
	}
	if p.word("if") {
		return p.condition(indent)
	}
	for {
		if err := p.simple(); err != nil {
			return err
		}
		if !p.is(";") {
			break
		}
		if err := p.advance(); err != nil {
			return err
		}
		if p.t.kind == newline {
			break
		}
	}
	if p.t.kind != newline && p.t.kind != end {
		return p.fail("expected the end of the line, found %s", p.found())
	}
	if p.t.kind == newline {
		return p.advance()
	}
	return nil
}

func (p *parser) simple() error {
	line := p.t.line
	if p.t.kind == text { // a comment in the form of a string
		v, err := p.expr()
		if err == nil && (p.is("=") || v == nil) {
			err = p.errorf(line, "only a name can stand before =")
		}
		return err
	}
	if p.t.kind != name {
		return p.fail("expected NAME = VALUE, found %s", p.found())
	}
	n := p.t.text
	if err := p.advance(); err != nil {
		return err
	}
	switch {
	case n == "pass" && p.t.kind == newline:
		return nil
	case (n == "import" || n == "from") && p.t.kind == name:
		return p.imports(n, line)
	case cures[n] != "" && !p.is("="):
		return p.errorf(line, "%s: %s", n, cures[n])
	case p.is("+="):
		if err := p.advance(); err != nil {
			return err
		}
		old, err := p.lookup(n, line)
		if err != nil {
			return err
		}
		v, err := p.expr()
		if err != nil {
			return err
		}
		if v, err = p.binary("+", old, v); err != nil {
			return err
		}
		return p.assign(n, v, line)
	case p.is("."), p.is("("):
		return p.errorf(line, "%s%s…: nothing is called; write NAME = VALUE", cut(n), p.t.text)
	case p.is("["):
		return p.errorf(line, "an element of %s can't be assigned; write the whole list", cut(n))
	case !p.is("="):
		return p.fail("expected = after %s, found %s", cut(n), p.found())
	}
	names := []string{n}
	for {
		if err := p.advance(); err != nil { // the =
			return err
		}
		// a = b = VALUE
		source, back := p.t, p.lexer
		if source.kind == name {
			if err := p.advance(); err != nil {
				return err
			}
			if p.is("=") {
				names = append(names, source.text)
				continue
			}
			p.t, p.lexer = source, back
		}
		v, err := p.tuple()
		if err != nil {
			return err
		}
		if p.is("=") {
			return p.errorf(line, "only a name can stand before =")
		}
		for _, n := range names {
			if err := p.assign(n, v, line); err != nil {
				return err
			}
			if source.kind == name && source.text == "os" && p.modules["os"] {
				p.machine[n] = true
			}
		}
		return nil
	}
}

// imports reads what stands behind import: the modules of the architecture idiom, see condition.
func (p *parser) imports(how string, line int) error {
	for how == "import" {
		m := p.t.text
		if m != "os" && m != "re" && m != "sys" && m != "string" {
			break
		}
		p.modules[m] = true
		if err := p.advance(); err != nil {
			return err
		}
		if !p.is(",") {
			return nil
		}
		if err := p.advance(); err != nil {
			return err
		}
	}
	return p.errorf(line, "%s %s: modules are not loaded; write the values themselves", how, cut(p.t.text))
}

// condition reads the one condition that is understood, which the HVM examples of Xen 3 have, to choose between lib and
// lib64:
//
//	if [os.uname()[0] == 'Linux' and] re.search('64', NAME):
//	    NAME = VALUE
//	[else:
//	    NAME = VALUE]
func (p *parser) condition(indent int) error {
	line := p.t.line
	refuse := p.errorf(line, "if: conditions are not evaluated, but for if re.search('64', arch); write the value that holds here")
	if p.inner {
		return refuse
	}
	var words []string
	for {
		if err := p.advance(); err != nil {
			return err
		}
		if p.t.kind == newline || p.t.kind == end {
			return refuse
		}
		if p.is(":") {
			break
		}
		if words = append(words, p.t.text); len(words) > 24 {
			return refuse
		}
	}
	got := strings.TrimPrefix(strings.Join(words, " "), "os . uname ( ) [ 0 ] == Linux and ")
	n, ok := strings.CutPrefix(got, "re . search ( 64 , ")
	n, ok2 := strings.CutSuffix(n, " )")
	if !ok || !ok2 || !p.modules["re"] {
		return refuse
	}
	var arch string
	if n == "os . uname ( ) [ 4 ]" && p.modules["os"] {
		arch = p.o.Machine
	} else {
		v, err := p.lookup(n, line)
		if err != nil {
			return err
		}
		if arch, ok = v.(string); !ok {
			return refuse
		}
	}
	holds := strings.Contains(arch, "64")
	if err := p.block(indent, holds); err != nil {
		return err
	}
	if p.word("else") && p.t.start && p.t.indent == indent {
		if err := p.advance(); err != nil {
			return err
		}
		if !p.is(":") {
			return p.fail("expected :, found %s", p.found())
		}
		return p.block(indent, !holds)
	}
	if p.word("elif") {
		return refuse
	}
	return nil
}

// block reads what is indented under a condition, or stands behind its colon.
func (p *parser) block(indent int, holds bool) error {
	if err := p.advance(); err != nil { // the colon
		return err
	}
	p.inner, p.dry = true, !holds
	defer func() { p.inner, p.dry = false, false }()
	if p.t.kind != newline {
		return p.statement(indent)
	}
	if err := p.advance(); err != nil {
		return err
	}
	inner := p.t.indent
	if p.t.kind == end || inner <= indent {
		return p.fail("expected an indented line after :")
	}
	for p.t.kind != end && p.t.indent > indent {
		if err := p.statement(inner); err != nil {
			return err
		}
	}
	return nil
}

func (p *parser) lookup(n string, line int) (Value, error) {
	i, ok := p.at[n]
	if !ok {
		if p.dry {
			return "", nil
		}
		return nil, p.errorf(line, "%s is not defined: assign it above, or give %s=VALUE on the command line", cut(n), cut(n))
	}
	return p.vars[i].Value, nil
}

// tuple reads VALUE or VALUE, VALUE….
func (p *parser) tuple() (Value, error) {
	v, err := p.expr()
	if err != nil || !p.is(",") {
		return v, err
	}
	list := List{v}
	for p.is(",") {
		if err := p.advance(); err != nil {
			return nil, err
		}
		if p.t.kind == newline || p.t.kind == end || p.is(")") || p.is(";") {
			break
		}
		if v, err = p.expr(); err != nil {
			return nil, err
		}
		list = append(list, v)
	}
	return p.spend(list)
}

// levels are the binary operators, those that bind least first.
var levels = [][]string{{"+", "-"}, {"*", "/", "//", "%"}}

func (p *parser) expr() (Value, error) {
	v, err := p.level(0)
	if err != nil {
		return nil, err
	}
	if p.t.kind == name {
		switch p.t.text {
		case "if":
			return nil, p.fail("conditions are not evaluated; write the value that holds here")
		case "for":
			return nil, p.fail("loops are not run; write the values one by one")
		case "and", "or", "not", "in", "is":
			return nil, p.fail("%s: conditions are not evaluated; write the value that holds here", p.t.text)
		}
	}
	return v, nil
}

func (p *parser) level(n int) (Value, error) {
	if n == len(levels) {
		return p.unary()
	}
	v, err := p.level(n + 1)
	for err == nil && p.t.kind == op {
		o := p.t.text
		known := false
		for _, l := range levels[n] {
			known = known || l == o
		}
		if !known {
			break
		}
		if err = p.advance(); err != nil {
			break
		}
		var w Value
		if w, err = p.level(n + 1); err == nil {
			v, err = p.binary(o, v, w)
		}
	}
	return v, err
}

func (p *parser) unary() (Value, error) {
	minus := p.is("-")
	if !minus && !p.is("+") {
		return p.postfix()
	}
	if p.deep++; p.deep > maxDepth {
		return nil, p.fail("brackets nest deeper than %d", maxDepth)
	}
	defer func() { p.deep-- }()
	if err := p.advance(); err != nil {
		return nil, err
	}
	v, err := p.unary()
	if err != nil {
		return nil, err
	}
	if !minus {
		return p.binary("+", int64(0), v)
	}
	return p.binary("-", int64(0), v)
}

// postfix reads a value and what is behind it: an index.
func (p *parser) postfix() (Value, error) {
	v, err := p.primary()
	for err == nil {
		switch {
		case p.is("["):
			v, err = p.index(v)
		case p.is("."):
			return nil, p.fail("methods are not called; write the value itself")
		case p.is("("):
			return nil, p.fail("nothing is called but dict, int, list, range and str; write the value itself")
		case p.is("**"), p.is("<"), p.is(">"), p.is("=="), p.is("!="), p.is("<="), p.is(">="), p.is("<<"), p.is(">>"), p.is("|"), p.is("&"), p.is("^"):
			return nil, p.fail("the operator %s is not known here; write the value itself", p.t.text)
		default:
			return v, nil
		}
	}
	return nil, err
}

func (p *parser) index(v Value) (Value, error) {
	if err := p.advance(); err != nil {
		return nil, err
	}
	i, err := p.nested()
	if err != nil {
		return nil, err
	}
	if p.is(":") {
		return nil, p.fail("slices are not known here; write the value itself")
	}
	line := p.t.line
	if err := p.expect("]"); err != nil {
		return nil, err
	}
	n, number := i.(int64)
	at := func(length int) (int, bool) {
		if n < 0 {
			n += int64(length)
		}
		return int(n), number && n >= 0 && n < int64(length)
	}
	switch v := v.(type) {
	case string:
		if n, ok := at(len(v)); ok {
			return v[n : n+1], nil
		}
	case List:
		if n, ok := at(len(v)); ok {
			return v[n], nil
		}
	case Dict:
		for _, item := range v {
			if item.Key == Text(i) {
				return item.Value, nil
			}
		}
	}
	if p.dry {
		return "", nil
	}
	return nil, p.errorf(line, "%s has no element %s", typeName(v), cut(repr(i)))
}

// nested is expr within brackets.
func (p *parser) nested() (Value, error) {
	if p.deep++; p.deep > maxDepth {
		return nil, p.fail("brackets nest deeper than %d", maxDepth)
	}
	defer func() { p.deep-- }()
	return p.tuple()
}

func (p *parser) primary() (Value, error) {
	t := p.t
	switch {
	case t.kind == text:
		return p.strings()
	case t.kind == number:
		if err := p.advance(); err != nil {
			return nil, err
		}
		return p.number(t)
	case t.kind == name:
		if err := p.advance(); err != nil {
			return nil, err
		}
		return p.reference(t)
	case t.kind != op:
	case t.text == "(":
		if err := p.advance(); err != nil {
			return nil, err
		}
		if p.is(")") {
			return List{}, p.advance()
		}
		v, err := p.nested()
		if err != nil {
			return nil, err
		}
		return v, p.expect(")")
	case t.text == "[":
		list, err := p.items("]")
		if err != nil {
			return nil, err
		}
		return p.spend(list)
	case t.text == "{":
		return p.dict()
	}
	return nil, p.fail("expected a value, found %s", p.found())
}

// items reads values up to a closing bracket.
func (p *parser) items(closing string) (List, error) {
	if p.deep++; p.deep > maxDepth {
		return nil, p.fail("brackets nest deeper than %d", maxDepth)
	}
	defer func() { p.deep-- }()
	list := List{}
	if err := p.advance(); err != nil {
		return nil, err
	}
	for !p.is(closing) {
		v, err := p.expr()
		if err != nil {
			return nil, err
		}
		list = append(list, v)
		if p.is(",") {
			if err := p.advance(); err != nil {
				return nil, err
			}
		} else if !p.is(closing) {
			return nil, p.fail("expected , or %s, found %s", closing, p.found())
		}
	}
	return list, p.advance()
}

func (p *parser) dict() (Value, error) {
	if p.deep++; p.deep > maxDepth {
		return nil, p.fail("brackets nest deeper than %d", maxDepth)
	}
	defer func() { p.deep-- }()
	d := Dict{}
	if err := p.advance(); err != nil {
		return nil, err
	}
	for !p.is("}") {
		k, err := p.expr()
		if err != nil {
			return nil, err
		}
		if err := p.expect(":"); err != nil {
			return nil, err
		}
		v, err := p.expr()
		if err != nil {
			return nil, err
		}
		d = d.set(Text(k), v)
		if len(d) > maxItems {
			return nil, p.fail("the values get too long")
		}
		if p.is(",") {
			if err := p.advance(); err != nil {
				return nil, err
			}
		} else if !p.is("}") {
			return nil, p.fail("expected , or }, found %s", p.found())
		}
	}
	if err := p.advance(); err != nil {
		return nil, err
	}
	return p.spend(d)
}

// maxItems bounds a dictionary, a range, and the names of a file.
const maxItems = 1000

func (d Dict) set(key string, v Value) Dict {
	for i := range d {
		if d[i].Key == key {
			d[i].Value = v
			return d
		}
	}
	return append(d, Pair{key, v})
}

// strings reads strings that follow each other, which are one.
func (p *parser) strings() (Value, error) {
	var b strings.Builder
	for p.t.kind == text {
		if p.t.form && strings.ContainsAny(p.t.text, "{}") {
			return nil, p.fail("f-strings are not evaluated; write the value itself")
		}
		b.WriteString(p.t.text)
		if err := p.advance(); err != nil {
			return nil, err
		}
	}
	return p.spend(b.String())
}

func (p *parser) number(t token) (Value, error) {
	s := strings.ToLower(strings.ReplaceAll(strings.TrimRight(t.text, "lL"), "_", ""))
	base := 10
	digits := s
	switch {
	case strings.HasPrefix(s, "0x"):
		base, digits = 16, s[2:]
	case strings.HasPrefix(s, "0b"):
		base, digits = 2, s[2:]
	case strings.HasPrefix(s, "0o"):
		base, digits = 8, s[2:]
	case len(s) > 1 && s[0] == '0' && strings.Trim(s, "01234567") == "": // Python 2
		base, digits = 8, s[1:]
	}
	if n, err := strconv.ParseInt(digits, base, 64); err == nil {
		return n, nil
	}
	if base == 10 {
		if f, err := strconv.ParseFloat(s, 64); err == nil {
			return f, nil
		}
	}
	return nil, p.errorf(t.line, "%s is not a number", cut(t.text))
}

// reference reads what a name stands for.
func (p *parser) reference(t token) (Value, error) {
	switch t.text {
	case "True":
		return true, nil
	case "False":
		return false, nil
	case "None":
		return nil, nil
	case "not", "lambda":
		return nil, p.errorf(t.line, "%s: conditions and functions are not evaluated; write the value itself", t.text)
	}
	if _, mine := p.at[t.text]; !mine {
		if p.is("(") {
			return p.call(t)
		}
		if t.text == "os" && p.modules["os"] && p.is(".") {
			return p.uname(t.line)
		}
		if p.word("for") {
			return nil, p.fail("loops are not run; write the values one by one")
		}
	}
	return p.lookup(t.text, t.line)
}

// uname reads os.uname()[N], which the architecture idiom asks for: 0 and 4 are known.
func (p *parser) uname(line int) (Value, error) {
	refuse := p.errorf(line, "nothing of module os is known but os.uname()[0] and os.uname()[4]; write the value itself")
	var words []string
	for range 7 {
		words = append(words, p.t.text)
		if p.t.kind == newline || p.t.kind == end {
			return nil, refuse
		}
		if err := p.advance(); err != nil {
			return nil, err
		}
		if len(words) == 7 || words[len(words)-1] == "]" {
			break
		}
	}
	switch strings.Join(words, "") {
	case ".uname()[4]":
		return p.o.Machine, nil
	case ".uname()[0]":
		return "Linux", nil
	}
	return nil, refuse
}

// call reads the arguments of a function and computes it. The few that are known have no effect but their value.
func (p *parser) call(t token) (Value, error) {
	refuse := p.errorf(t.line, "%s(…): functions are not run, but for dict, int, list, range and str; write the value itself", cut(t.text))
	if t.text == "dict" {
		return p.keywords()
	}
	switch t.text {
	case "int", "list", "range", "str":
	default:
		return nil, refuse
	}
	args, err := p.items(")")
	if err != nil {
		return nil, err
	}
	if t.text == "range" {
		return p.rangeOf(t.line, args)
	}
	if len(args) != 1 {
		return nil, p.errorf(t.line, "%s() takes one value", t.text)
	}
	switch v := args[0].(type) {
	case string:
		if t.text == "int" {
			n, err := strconv.ParseInt(strings.TrimSpace(v), 10, 64)
			if err != nil {
				if p.dry {
					return int64(0), nil
				}
				return nil, p.errorf(t.line, "int(): %s is not a number", cut(strconv.Quote(v)))
			}
			return n, nil
		}
		if t.text == "str" {
			return v, nil
		}
	case int64:
		if t.text == "int" {
			return v, nil
		}
	case float64:
		if t.text == "int" && math.Abs(v) < 1<<53 {
			return int64(v), nil
		}
	case List:
		if t.text == "list" {
			return v, nil
		}
	}
	if t.text == "str" {
		return p.spend(repr(args[0]))
	}
	return nil, p.errorf(t.line, "%s() of %s is not known here; write the value itself", t.text, typeName(args[0]))
}

// keywords reads dict(NAME=VALUE, …).
func (p *parser) keywords() (Value, error) {
	if p.deep++; p.deep > maxDepth {
		return nil, p.fail("brackets nest deeper than %d", maxDepth)
	}
	defer func() { p.deep-- }()
	d := Dict{}
	if err := p.advance(); err != nil {
		return nil, err
	}
	for !p.is(")") {
		if p.t.kind != name || len(d) > maxItems {
			return nil, p.fail("dict() takes NAME=VALUE, found %s", p.found())
		}
		key := p.t.text
		if err := p.advance(); err != nil {
			return nil, err
		}
		if err := p.expect("="); err != nil {
			return nil, err
		}
		v, err := p.expr()
		if err != nil {
			return nil, err
		}
		d = d.set(key, v)
		if p.is(",") {
			if err := p.advance(); err != nil {
				return nil, err
			}
		} else if !p.is(")") {
			return nil, p.fail("expected , or ), found %s", p.found())
		}
	}
	if err := p.advance(); err != nil {
		return nil, err
	}
	return p.spend(d)
}

func (p *parser) rangeOf(line int, args List) (Value, error) {
	var from, to int64
	step := int64(1)
	n := make([]int64, len(args))
	for i, a := range args {
		v, ok := a.(int64)
		if !ok {
			return nil, p.errorf(line, "range() takes numbers")
		}
		n[i] = v
	}
	switch len(n) {
	case 1:
		to = n[0]
	case 2:
		from, to = n[0], n[1]
	case 3:
		from, to, step = n[0], n[1], n[2]
	default:
		return nil, p.errorf(line, "range() takes one to three numbers")
	}
	if step == 0 {
		return nil, p.errorf(line, "range() needs a step other than 0")
	}
	list := List{}
	for i := from; step > 0 && i < to || step < 0 && i > to; i += step {
		if list = append(list, i); len(list) > maxItems {
			return nil, p.errorf(line, "range() of more than %d numbers", maxItems)
		}
		if step > 0 && i > math.MaxInt64-step || step < 0 && i < math.MinInt64-step {
			break
		}
	}
	return p.spend(list)
}
