package hostnet

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The requests of linux/ethtool.h for features, those that are called by name.
const (
	ethtoolGStrings  = 0x1b
	ethtoolGSsetInfo = 0x37
	ethtoolGFeatures = 0x3a
	ethtoolSFeatures = 0x3b
	featureStrings   = 4  // ETH_SS_FEATURES
	stringLen        = 32 // ETH_GSTRING_LEN
)

// Features tells which features of a device are on, by the names that `ethtool -k` shows for single
// ones ("tx-udp-segmentation"), not for its groups ("tso").
func (h *Host) Features(index int) (map[string]bool, error) {
	features := map[string]bool{}
	err := h.withEthtool(index, func(e *ethtool) error {
		names, err := e.names()
		if err != nil {
			return err
		}
		words, err := e.features(len(names))
		if err != nil {
			return err
		}
		for i, name := range names {
			if name != "" {
				features[name] = words[i/32].active&(1<<(i%32)) != 0
			}
		}
		return nil
	})
	return features, h.wrapDevice("read features of", index, err)
}

// SetFeatures switches features of a device. Names that the kernel does not know, and features that
// the driver has fixed, are ignored: what a kernel lacks need not be switched off.
func (h *Host) SetFeatures(index int, features map[string]bool) error {
	err := h.withEthtool(index, func(e *ethtool) error {
		names, err := e.names()
		if err != nil {
			return err
		}
		words, err := e.features(len(names))
		if err != nil {
			return err
		}
		valid, wanted, change := make([]uint32, len(words)), make([]uint32, len(words)), false
		for i, name := range names {
			on, named := features[name]
			w, bit := &words[i/32], uint32(1)<<(i%32)
			if !named || w.available&bit == 0 || w.never&bit != 0 {
				continue
			}
			valid[i/32] |= bit
			if on {
				wanted[i/32] |= bit
			}
			change = change || w.requested&bit != 0 != on
		}
		if !change {
			return nil
		}
		return e.setFeatures(valid, wanted)
	})
	return h.wrapDevice("set features of", index, err)
}

// ethtool speaks to one device; the calls are ioctls on any socket of its namespace.
type ethtool struct {
	fd   int
	name string
}

func (h *Host) withEthtool(index int, fn func(*ethtool) error) error {
	l, err := h.LinkByIndex(index)
	if err != nil {
		return err
	}
	return h.Do(func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return os.NewSyscallError("socket", err)
		}
		defer unix.Close(fd)
		return fn(&ethtool{fd: fd, name: l.Name})
	})
}

// ioctl passes a request, whose answer overwrites it.
func (e *ethtool) ioctl(data []byte) error {
	var ifr struct { // struct ifreq, 40 bytes on 64-bit machines
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [16]byte
	}
	copy(ifr.name[:MaxName], e.name)
	ifr.data = unsafe.Pointer(&data[0])
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(e.fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&ifr)))
	runtime.KeepAlive(data)
	if errno != 0 {
		return os.NewSyscallError("ethtool", errno)
	}
	return nil
}

// names lists the kernel's features in order of their bits.
func (e *ethtool) names() ([]string, error) {
	ne := binary.NativeEndian
	info := make([]byte, 20) // struct ethtool_sset_info with one count
	ne.PutUint32(info, ethtoolGSsetInfo)
	ne.PutUint64(info[8:], 1<<featureStrings)
	if err := e.ioctl(info); err != nil {
		return nil, err
	}
	n := int(ne.Uint32(info[16:]))
	if ne.Uint64(info[8:]) == 0 || n == 0 || n > 1024 {
		return nil, fmt.Errorf("ethtool: %d features", n)
	}
	b := make([]byte, 12+n*stringLen) // struct ethtool_gstrings
	ne.PutUint32(b, ethtoolGStrings)
	ne.PutUint32(b[4:], featureStrings)
	ne.PutUint32(b[8:], uint32(n))
	if err := e.ioctl(b); err != nil {
		return nil, err
	}
	names := make([]string, n)
	for i := range names {
		name, _, _ := bytes.Cut(b[12+i*stringLen:12+(i+1)*stringLen], []byte{0})
		names[i] = string(name)
	}
	return names, nil
}

// featureWord is struct ethtool_get_features_block: 32 features.
type featureWord struct{ available, requested, active, never uint32 }

func (e *ethtool) features(n int) ([]featureWord, error) {
	ne := binary.NativeEndian
	words := make([]featureWord, (n+31)/32)
	b := make([]byte, 8+16*len(words)) // struct ethtool_gfeatures
	ne.PutUint32(b, ethtoolGFeatures)
	ne.PutUint32(b[4:], uint32(len(words)))
	if err := e.ioctl(b); err != nil {
		return nil, err
	}
	for i := range words {
		w := b[8+16*i:]
		words[i] = featureWord{ne.Uint32(w), ne.Uint32(w[4:]), ne.Uint32(w[8:]), ne.Uint32(w[12:])}
	}
	return words, nil
}

func (e *ethtool) setFeatures(valid, wanted []uint32) error {
	ne := binary.NativeEndian
	b := make([]byte, 8+8*len(valid)) // struct ethtool_sfeatures
	ne.PutUint32(b, ethtoolSFeatures)
	ne.PutUint32(b[4:], uint32(len(valid)))
	for i := range valid {
		ne.PutUint32(b[8+8*i:], valid[i])
		ne.PutUint32(b[12+8*i:], wanted[i])
	}
	return e.ioctl(b)
}
