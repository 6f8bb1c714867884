package netscripts

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/xenvnet/xend/internal/hostnet"
)

// A machine whose root file system comes over the network must not be without it for a moment: the
// program that would bring it back could be on it. checkRoot refuses such a device.
func (b *bridgeScript) checkRoot(dev hostnet.Link, above []hostnet.Link) error {
	carriers, err := rootCarriers(b.Proc, b.Sys)
	if err != nil {
		return fmt.Errorf("find out what carries the root file system: %w", err)
	}
	for _, r := range carriers {
		switch out, err := r.device(b.m.host); {
		case err != nil:
			return fmt.Errorf("refusing to touch %s: the root file system is on %s, and which device that uses cannot be told (%w)", dev.Name, r.what, err)
		case out == dev.Index, slices.ContainsFunc(above, func(l hostnet.Link) bool { return l.Index == out }):
			return fmt.Errorf("refusing to touch %s: it carries the root file system (%s)", dev.Name, r.what)
		}
	}
	return nil
}

// carrier is something on the network that the root file system depends on.
type carrier struct {
	what    string     // for a person: "NFS from 192.0.2.1"
	address netip.Addr // of the server; invalid if it cannot be told
}

// device is the index of the device that the server is reached through.
func (r carrier) device(host *hostnet.Host) (int, error) {
	if !r.address.IsValid() {
		return 0, errors.New("the server's address is unknown")
	}
	route, err := host.RouteTo(r.address)
	if err != nil {
		return 0, err
	}
	return route.Index, nil
}

// networkFilesystems have their server's address in the mount option addr.
var networkFilesystems = map[string]string{
	"nfs": "NFS", "nfs4": "NFS", "cifs": "CIFS", "smb3": "CIFS",
}

// rootCarriers looks at the root file system's mount and, where that is on block devices, at the disks.
func rootCarriers(proc, sys string) ([]carrier, error) {
	m, err := rootMount(proc)
	if err != nil {
		return nil, err
	}
	if name, ok := networkFilesystems[m.kind]; ok {
		c := carrier{what: name + " from " + m.source}
		for _, option := range strings.Split(m.options, ",") {
			if v, ok := strings.CutPrefix(option, "addr="); ok {
				c.address, _ = netip.ParseAddr(v)
			}
		}
		return []carrier{c}, nil
	}
	disks, err := disksBelow(filepath.Join(sys, "dev/block", m.number))
	if err != nil {
		return nil, err
	}
	var list []carrier
	for _, disk := range disks {
		if c, ok := diskCarrier(sys, disk); ok {
			list = append(list, c)
		}
	}
	return list, nil
}

// mount is a line of mountinfo; proc(5).
type mount struct {
	number  string // major:minor
	kind    string // file system type
	source  string
	options string // of the file system
}

// rootMount is the last mount on /, which hides those before.
func rootMount(proc string) (mount, error) {
	path := filepath.Join(proc, "self/mountinfo")
	b, err := os.ReadFile(path)
	if err != nil {
		return mount{}, err
	}
	var root mount
	for line := range strings.Lines(string(b)) {
		before, after, ok := strings.Cut(strings.TrimSpace(line), " - ")
		head, tail := strings.Fields(before), strings.Fields(after)
		if ok && len(head) >= 5 && len(tail) >= 2 && head[4] == "/" {
			root = mount{number: head[2], kind: tail[0], source: tail[1]}
			if len(tail) > 2 {
				root.options = tail[2]
			}
		}
	}
	if root.kind == "" {
		return root, fmt.Errorf("%s has no line for /", path)
	}
	return root, nil
}

// disksBelow follows a block device down through partitions, RAID, LVM and encryption and returns
// the sysfs directories of the disks. A file system without a device has none.
func disksBelow(link string) ([]string, error) {
	dir, err := filepath.EvalSymlinks(link)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat(filepath.Join(dir, "partition")); err == nil {
		dir = filepath.Dir(dir)
	}
	slaves, err := os.ReadDir(filepath.Join(dir, "slaves"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	if len(slaves) == 0 {
		return []string{dir}, nil
	}
	var list []string
	for _, s := range slaves {
		below, err := disksBelow(filepath.Join(dir, "slaves", s.Name()))
		if err != nil {
			return nil, err
		}
		list = append(list, below...)
	}
	return list, nil
}

var (
	iscsiSession = regexp.MustCompile(`/session(\d+)/`)
	nvmeName     = regexp.MustCompile(`^(nvme\d+)(c\d+)?n\d+$`)
)

// diskCarrier tells what network a disk comes over, if any.
func diskCarrier(sys, disk string) (carrier, bool) {
	name := filepath.Base(disk)
	if strings.HasPrefix(name, "nbd") {
		// The address is known to the process alone that connected it.
		return carrier{what: "the network block device " + name}, true
	}
	if m := iscsiSession.FindStringSubmatch(disk + "/"); m != nil {
		c := carrier{what: "the iSCSI disk " + name}
		for _, field := range []string{"address", "persistent_address"} {
			files, _ := filepath.Glob(filepath.Join(sys, "class/iscsi_connection", "connection"+m[1]+":*", field))
			for _, f := range files {
				if b, err := os.ReadFile(f); err == nil && !c.address.IsValid() {
					c.address, _ = netip.ParseAddr(strings.TrimSpace(string(b)))
				}
			}
		}
		if c.address.IsValid() {
			c.what += " from " + c.address.String()
		}
		return c, true
	}
	if m := nvmeName.FindStringSubmatch(name); m != nil {
		return nvmeCarrier(sys, m[1])
	}
	return carrier{}, false
}

// nvmeCarrier recognises NVMe over TCP or RDMA by the controller's transport.
func nvmeCarrier(sys, controller string) (carrier, bool) {
	dir := filepath.Join(sys, "class/nvme", controller)
	transport, err := os.ReadFile(filepath.Join(dir, "transport"))
	if err != nil || !slices.Contains([]string{"tcp", "rdma"}, strings.TrimSpace(string(transport))) {
		return carrier{}, false
	}
	c := carrier{what: "the NVMe disk " + controller + " over " + strings.TrimSpace(string(transport))}
	b, _ := os.ReadFile(filepath.Join(dir, "address")) // traddr=192.0.2.1,trsvcid=4420
	for _, field := range strings.Split(strings.TrimSpace(string(b)), ",") {
		if v, ok := strings.CutPrefix(field, "traddr="); ok {
			c.address, _ = netip.ParseAddr(v)
		}
	}
	return c, true
}
