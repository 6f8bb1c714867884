//go:build !amd64

package domain

// hwCaps is empty, as Xen prints it on these machines.
func hwCaps() string { return "" }
