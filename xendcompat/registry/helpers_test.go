package registry

import (
	"errors"

	"golang.org/x/sys/unix"

	"github.com/xenvnet/xend/vnet"
)

// mustParse is simple for a process that is no test.
func mustParse(id string) vnet.Config {
	c, err := vnet.ParseConfig([]byte("(vnet (id " + id + "))"))
	if err != nil {
		panic(err)
	}
	return c
}

func isErrno(err error, errno unix.Errno) bool { return errors.Is(err, errno) }
