// Package sxp reads and writes the s-expressions that xend, its clients and
// its files speak.
//
// A value is an atom, which is a string of bytes, or a list of values. After
// parsing there is no difference between 97 and "97", and numbers are no type
// of the syntax. Two dialects exist: that of xend itself (its API, its
// configuration files, the registry) and that of the low-level control socket.
// What [Append] writes reads the same in both.
//
// [Parse] reads a whole text, [Decoder] a stream; both give the same values
// and the same errors for the same bytes, however a stream cuts them. Text and
// lists that come out of one call share memory: whoever keeps one small atom
// of a large value for long should clone it.
package sxp
