package hostnet

import (
	"context"
	"errors"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// rulesPause is the shortest time between two words of WatchRules: a script may change rules one by one, thousands of them.
	rulesPause = time.Second
	// rulesBuffer is in bytes. What does not fit is not missed: there is something to tell already.
	rulesBuffer = 64 << 10
	// rulesReads bounds how often the socket is read at once, while others go on to change rules.
	rulesReads = 1000
)

// WatchRules tells that rules of nftables have changed, those of iptables-nft among them, until ctx ends; then the channel is
// closed. It tells so at once, but once in rulesPause at most, however many changes there are. Of the rules of iptables-legacy the
// kernel tells nobody.
func (h *Host) WatchRules(ctx context.Context) (<-chan struct{}, error) {
	return h.watchRules(ctx, rulesPause)
}

func (h *Host) watchRules(ctx context.Context, pause time.Duration) (<-chan struct{}, error) {
	w := &watcher{host: h, buffer: rulesBuffer, protocol: unix.NETLINK_NETFILTER, groups: []uint32{unix.NFNLGRP_NFTABLES}}
	if err := w.open(); err != nil {
		return nil, wrap("watch", "rules of nftables", err)
	}
	changed := make(chan struct{}, 1)
	go w.tell(ctx, changed, pause)
	return changed, nil
}

// tell says that there was something, whatever it was, and then nothing for a pause.
func (w *watcher) tell(ctx context.Context, changed chan<- struct{}, pause time.Duration) {
	defer close(changed)
	stop := context.AfterFunc(ctx, func() { w.file.Close() })
	defer stop()
	defer w.file.Close()
	b := make([]byte, 64<<10)
	for {
		// After an overflow (ENOBUFS; netlink(7)) the kernel is silent until the queue has been empty once.
		if _, err := w.file.Read(b); err != nil && !errors.Is(err, unix.ENOBUFS) {
			return
		}
		raw, err := w.file.SyscallConn()
		if err != nil {
			return
		}
		err = raw.Read(func(fd uintptr) bool {
			for range rulesReads {
				if _, err := unix.Read(int(fd), b); err != nil && !errors.Is(err, unix.ENOBUFS) {
					break // EAGAIN: that is all
				}
			}
			return true
		})
		if err != nil {
			return
		}
		select {
		case changed <- struct{}{}:
		default:
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
	}
}
