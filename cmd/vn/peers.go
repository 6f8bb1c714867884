package main

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/xenvnet/xend/internal/cli"
	"github.com/xenvnet/xend/sxp"
)

// resolveTimeout bounds the look-up of a host's name.
const resolveTimeout = 10 * time.Second

func (a *app) peerAdd(ctx context.Context, in cli.Invocation) error {
	addr, err := resolve(ctx, in.Args[0])
	if err != nil {
		return err
	}
	fields := []sxp.Value{sxp.Pair("addr", addr.String())}
	if in.Has("port") {
		port, err := strconv.ParseUint(in.Value("port"), 10, 16)
		if err != nil || port == 0 {
			return fmt.Errorf("not a port (1 to 65535): %s", in.Value("port"))
		}
		fields = append(fields, sxp.Pair("port", strconv.FormatUint(port, 10)))
	}
	return a.tell(ctx, command("peer.add", fields...))
}

func (a *app) peerDelete(ctx context.Context, in cli.Invocation) error {
	addr, err := resolve(ctx, in.Args[0])
	if err != nil {
		return err
	}
	return a.tell(ctx, command("peer.del", sxp.Pair("addr", addr.String())))
}

// resolve returns the address of a host: IPv4 where it has one, since that is what all hosts of
// vnets speak.
func resolve(ctx context.Context, host string) (netip.Addr, error) {
	if addr, err := netip.ParseAddr(host); err == nil {
		return addr.Unmap(), nil
	}
	ctx, cancel := context.WithTimeout(ctx, resolveTimeout)
	defer cancel()
	addrs, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("host not found: %s: %w", host, err)
	}
	for _, addr := range addrs {
		if addr.Unmap().Is4() {
			return addr.Unmap(), nil
		}
	}
	return addrs[0], nil
}

func (a *app) varpFlush(ctx context.Context, _ cli.Invocation) error {
	return a.tell(ctx, command("varp.flush"))
}

// insmod has no module to load. It makes sure that a data plane runs, and with what was asked for.
func (a *app) insmod(ctx context.Context, in cli.Invocation) error {
	var group netip.Addr
	for _, arg := range in.Args {
		key, value, _ := strings.Cut(arg, "=")
		if key != "varp_mcaddr" {
			return fmt.Errorf("unknown parameter: %s", arg)
		}
		addr, err := netip.ParseAddr(value)
		if err != nil || !addr.IsMulticast() {
			return fmt.Errorf("not a multicast address: %s", value)
		}
		group = addr
	}
	if group.IsValid() {
		return a.tell(ctx, command("varp.mcaddr", sxp.Pair("addr", group.String())))
	}
	forms, err := a.ask(ctx, command("varp.list"))
	if err != nil {
		return err
	}
	for _, f := range forms {
		if f.Name() == "varp" {
			return nil
		}
	}
	return fmt.Errorf("xend runs without its data plane: set enabled = true under [dataplane] in vnet.toml")
}
