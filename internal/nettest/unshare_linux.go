package nettest

import "golang.org/x/sys/unix"

func unshare() error { return unix.Unshare(unix.CLONE_NEWNET) }
