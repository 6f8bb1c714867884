package wire

// sumBlocks is the sum of the n bytes at p: one block or more, and whole blocks only. It needs AVX2.
//
//go:noescape
func sumBlocks(p *byte, n int) uint64
