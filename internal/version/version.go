// Package version holds what the linker says this build is.
package version

// Version is set by the Makefile (scripts/version); "dev" in a plain go build.
var Version = "dev"
