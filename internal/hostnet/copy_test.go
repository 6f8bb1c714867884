package hostnet

import (
	"context"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/xenvnet/xend/internal/nettest/uevent"
)

// A new generation id, as drivers/virt/vmgenid.c tells it, is a sign; other events are none.
func TestWatchCopies(t *testing.T) {
	h := newHost(t)
	ctx, cancel := context.WithCancel(t.Context())
	signs, done := make(chan string), make(chan struct{})
	go func() {
		defer close(done)
		h.WatchCopies(ctx, func(what string) { signs <- what }, func(what string, err error) { t.Errorf("%s: %v", what, err) })
	}()
	// It may not listen yet: whoever tells it once more loses nothing.
	tell := func(fields ...string) { require.NoError(t, h.Do(func() error { return uevent.Tell(fields...) })) }
	for seen := false; !seen; {
		tell("add@/devices/virtual/x", "ACTION=add", "DEVPATH=/devices/virtual/x", "SUBSYSTEM=net")
		tell("change@/devices/platform/vmgenid", "ACTION=change", "DEVPATH=/devices/platform/vmgenid", "SUBSYSTEM=acpi", "NEW_VMGENID=1")
		select {
		case what := <-signs:
			require.Equal(t, "the generation id of the virtual machine changed", what)
			seen = true
		case <-time.After(10 * time.Millisecond):
		}
	}
	go func() {
		for range signs { // those that were told more than once
		}
	}()
	cancel()
	<-done
	close(signs)
}

// A clock that is set is a sign. That would be one to all of this machine's programs, so it is set only where the machine is the
// test's own: make test-vm.
func TestClockIsSet(t *testing.T) {
	if b, _ := os.ReadFile("/proc/cmdline"); !strings.Contains(string(b), "xend.job=") {
		t.Skip("would set the clock of a machine that others use; make test-vm runs it")
	}
	f, err := openClock()
	require.NoError(t, err)
	defer f.Close()
	for range 2 {
		var now unix.Timespec
		require.NoError(t, unix.ClockGettime(unix.CLOCK_REALTIME, &now))
		now.Sec -= 3600
		require.NoError(t, unix.ClockSettime(unix.CLOCK_REALTIME, &now))
		sign, err := nextClockSet(f)
		require.NoError(t, err)
		require.True(t, sign)
	}
}

func TestSignsOfACopy(t *testing.T) {
	require.True(t, isNewGeneration([]byte("change@/devices/x\x00ACTION=change\x00NEW_VMGENID=1\x00")))
	require.False(t, isNewGeneration([]byte("change@/devices/x\x00ACTION=change\x00OLD_NEW_VMGENID=1\x00")))
	// Both can be watched, say nothing while nothing happens, and end.
	for _, w := range []struct {
		open func() (*os.File, error)
		next func(*os.File) (bool, error)
	}{{openUevents, nextGeneration}, {openClock, nextClockSet}} {
		f, err := w.open()
		require.NoError(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		context.AfterFunc(ctx, func() { _ = f.SetReadDeadline(time.Unix(1, 0)) })
		time.AfterFunc(10*time.Millisecond, cancel)
		for err == nil {
			var sign bool
			sign, err = w.next(f)
			require.False(t, sign)
		}
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		require.NoError(t, f.Close())
	}
}
