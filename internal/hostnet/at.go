package hostnet

import (
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// At binds a Host to the network namespace that a file is of: /proc/PID/ns/net, or a bind mount of it.
// The namespace exists as long as the Host is open, as with Unshare.
func At(path string) (*Host, error) {
	var h *Host
	var o outcome
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // not unlocked: the thread is in another namespace
		o.run(func() error {
			f, err := os.Open(path)
			if err != nil {
				return err
			}
			defer f.Close()
			if err := unix.Setns(int(f.Fd()), unix.CLONE_NEWNET); err != nil {
				return fmt.Errorf("enter network namespace %s: %w", path, err)
			}
			h, err = New()
			return err
		})
	}()
	<-done
	return h, o.deliver()
}
