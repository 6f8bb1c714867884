package wire

// WithoutBlocks makes Sum do what it does on processors without AVX2, until the function that it returns
// is called.
func WithoutBlocks() (restore func()) {
	before := haveBlocks
	haveBlocks = false
	return func() { haveBlocks = before }
}
