package netscripts

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

func gettid() int { return unix.Gettid() }

// child is the scripts as a process of their own, for tests that kill them. NETSCRIPT_CHILD says at
// which change of the machine what is to happen: "N:kill", or "N:wait" to say so on standard output
// and go on when the context ends.
func child() int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	var at int
	var what string
	if _, err := fmt.Sscanf(os.Getenv("NETSCRIPT_CHILD"), "%d:%s", &at, &what); err != nil {
		panic(err)
	}
	n := 0
	env := Env{Stdout: os.Stdout, Stderr: os.Stderr, Before: func(string) error {
		if n++; n != at {
			return nil
		}
		switch what {
		case "kill":
			_ = unix.Kill(os.Getpid(), unix.SIGKILL)
			select {}
		case "wait":
			fmt.Println("at change " + strconv.Itoa(n))
			<-ctx.Done()
		}
		return nil
	}}
	return Run(ctx, env, os.Args[1:])
}

func pid() string { return strconv.Itoa(os.Getpid()) }
