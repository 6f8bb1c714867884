package hostnet

import (
	"errors"
	"fmt"
	"os"
	"unsafe"

	"github.com/cilium/ebpf"
	bpflink "github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// TCXProgram is a program at a device's TCX hook, of whoever. TCX runs before the filters of clsact, and these run where all
// its programs say TC_ACT_UNSPEC.
type TCXProgram struct {
	ID ebpf.ProgramID
	// Name is what the program was loaded with, at most 15 bytes; "" if it has none, or has gone meanwhile.
	Name string
}

func tcxHook(egress bool) ebpf.AttachType {
	if egress {
		return ebpf.AttachTCXEgress
	}
	return ebpf.AttachTCXIngress
}

// TCX lists the programs at a device's TCX ingress or egress, first the one that runs first. Before Linux 6.6 there is no
// TCX, and the error is an UnsupportedError.
func (h *Host) TCX(index int, egress bool) ([]TCXProgram, error) {
	var list []TCXProgram
	ids, err := h.TCXPrograms(index, egress)
	for _, id := range ids {
		list = append(list, TCXProgram{ID: id, Name: ProgramName(id)})
	}
	return list, err
}

// TCXPrograms is TCX without the names, which take most of the time.
func (h *Host) TCXPrograms(index int, egress bool) (ids []ebpf.ProgramID, err error) {
	err = h.Do(func() (err error) {
		ids, err = tcxPrograms(index, egress)
		return err
	})
	return ids, h.wrapDevice("list TCX programs of", index, tcxUnsupported(err))
}

func tcxPrograms(index int, egress bool) (ids []ebpf.ProgramID, err error) {
	q, err := queryPrograms(index, tcxHook(egress))
	if err != nil {
		return nil, err
	}
	for _, p := range q.Programs {
		ids = append(ids, p.ID)
	}
	return ids, nil
}

// queryPrograms asks how many programs are at a device, and then for them: where more have come in between (ENOSPC; bpf(2)) it
// asks again.
func queryPrograms(index int, attach ebpf.AttachType) (q *bpflink.QueryResult, err error) {
	for range 100 {
		if q, err = bpflink.QueryPrograms(bpflink.QueryOptions{Target: index, Attach: attach}); !errors.Is(err, unix.ENOSPC) {
			break
		}
	}
	return q, err
}

// TCXState tells what is at a TCX hook from what was there before. The zero value is that of a device that is gone.
type TCXState struct {
	// Revision grows by each change, but begins anew after the last program has gone.
	Revision uint64
	// Programs is how many programs there are, and IDs are the first of them.
	Programs uint32
	IDs      [8]ebpf.ProgramID
}

// TCXStates asks for what is at the hooks of many devices, ingress first, by one system call for each and no more. UnsupportedError
// before Linux 6.6.
func (h *Host) TCXStates(devices []int) (map[int][2]TCXState, error) {
	all := make(map[int][2]TCXState, len(devices))
	err := h.Do(func() error {
		for _, index := range devices {
			var states [2]TCXState
			for i := range states {
				at := &states[i]
				q := progQuery{
					target: uint32(index), attachType: uint32(tcxHook(i == 1)), ids: &at.IDs[0], count: uint32(len(at.IDs)),
				}
				_, _, errno := unix.Syscall(unix.SYS_BPF, unix.BPF_PROG_QUERY, uintptr(unsafe.Pointer(&q)), unsafe.Sizeof(q))
				if errno == unix.ENODEV {
					break
				}
				if errno != 0 && errno != unix.ENOSPC { // more than there is room for
					return os.NewSyscallError("bpf", errno)
				}
				at.Revision, at.Programs = q.revision, q.count
			}
			all[index] = states
		}
		return nil
	})
	return all, wrap("list TCX programs", "", tcxUnsupported(err))
}

// progQuery is the part of union bpf_attr (linux/bpf.h) of BPF_PROG_QUERY, where pointers are 64 bits long.
type progQuery struct {
	target, attachType, queryFlags, attachFlags uint32
	ids                                         *ebpf.ProgramID
	count, _                                    uint32
	progFlags, linkIDs, linkFlags, revision     uint64
}

// tcxUnsupported tells a kernel without TCX from other failures.
func tcxUnsupported(err error) error {
	if errors.Is(err, ebpf.ErrNotSupported) || errors.Is(err, unix.EINVAL) {
		return unsupported("an eBPF program at TCX", "Linux 6.6", err)
	}
	return err
}

// ProgramID is the kernel's number of an eBPF program; 0 if there is none.
func ProgramID(p *ebpf.Program) ebpf.ProgramID {
	if p == nil {
		return 0
	}
	info, err := p.Info()
	if err != nil {
		return 0
	}
	id, _ := info.ID()
	return id
}

// ProgramName is what an eBPF program was loaded with as its name; "" if it has none or is gone.
func ProgramName(id ebpf.ProgramID) string {
	p, err := ebpf.NewProgramFromID(id)
	if err != nil {
		return ""
	}
	defer p.Close()
	info, err := p.Info()
	if err != nil {
		return ""
	}
	return info.Name
}

// AttachTCXProgram puts a program at a device's TCX hook, behind those that are there, or in the very place of the one that
// replaced names, so that no packet meets both or neither. It stays when the process ends, as long as the device, until
// DetachTCXProgram. Unlike making a clsact it loses no frame. UnsupportedError before Linux 6.6.
func (h *Host) AttachTCXProgram(index int, egress bool, prog *ebpf.Program, replaced ebpf.ProgramID) error {
	err := h.Do(func() error {
		o := bpflink.RawAttachProgramOptions{Target: index, Program: prog, Attach: tcxHook(egress), Anchor: bpflink.Tail()}
		if replaced != 0 {
			old, err := ebpf.NewProgramFromID(replaced)
			if err != nil {
				return fmt.Errorf("find program %d: %w", replaced, err)
			}
			defer old.Close()
			o.Anchor = bpflink.ReplaceProgram(old)
		}
		return bpflink.RawAttachProgram(o)
	})
	return h.wrapDevice("attach a TCX program to", index, tcxUnsupported(err))
}

// DetachTCXProgram takes a program off that AttachTCXProgram has put there. It and the device may be gone.
func (h *Host) DetachTCXProgram(index int, egress bool, id ebpf.ProgramID) error {
	err := h.Do(func() error {
		prog, err := ebpf.NewProgramFromID(id)
		if err != nil {
			return err
		}
		defer prog.Close()
		return bpflink.RawDetachProgram(bpflink.RawDetachProgramOptions{Target: index, Program: prog, Attach: tcxHook(egress)})
	})
	if err == nil || errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENODEV) {
		return nil
	}
	return h.wrapDevice("detach a TCX program from", index, tcxUnsupported(err))
}
