// Package bpftest has eBPF programs of somebody else's, for tests.
package bpftest

import (
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/stretchr/testify/require"
)

// Verdicts of programs, by linux/bpf.h and linux/pkt_cls.h.
const (
	Next    = -1 // TC_ACT_UNSPEC and TCX_NEXT: what comes next decides
	Shot    = 2  // TC_ACT_SHOT: dropped
	XDPPass = 2  // XDP_PASS
)

// New is a program that says the same to every packet. It is closed when the test ends.
func New(t testing.TB, spec ebpf.ProgramSpec, verdict int32) *ebpf.Program {
	t.Helper()
	return load(t, spec, asm.Instructions{asm.Mov.Imm(asm.R0, verdict), asm.Return()})
}

// Counter is a program like New's that counts packets.
func Counter(t testing.TB, kind ebpf.ProgramType, verdict int32) (prog *ebpf.Program, count func() uint64) {
	t.Helper()
	return counter(t, kind, verdict, asm.Mov.Imm(asm.R6, 1))
}

// ByteCounter is a program for sockets that counts bytes, and keeps nothing for the socket.
func ByteCounter(t testing.TB) (prog *ebpf.Program, count func() uint64) {
	t.Helper()
	return counter(t, ebpf.SocketFilter, 0, asm.LoadMem(asm.R6, asm.R1, 0, asm.Word)) // the length in struct __sk_buff
}

// counter adds to its count what an instruction puts into R6.
func counter(t testing.TB, kind ebpf.ProgramType, verdict int32, weight asm.Instruction) (prog *ebpf.Program, count func() uint64) {
	t.Helper()
	total, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 8, MaxEntries: 1})
	require.NoError(t, err)
	t.Cleanup(func() { _ = total.Close() })
	prog = load(t, ebpf.ProgramSpec{Type: kind}, asm.Instructions{
		weight,
		asm.StoreImm(asm.RFP, -4, 0, asm.Word),
		asm.LoadMapPtr(asm.R1, total.FD()),
		asm.Mov.Reg(asm.R2, asm.RFP),
		asm.Add.Imm(asm.R2, -4),
		asm.FnMapLookupElem.Call(),
		asm.JEq.Imm(asm.R0, 0, "end"),
		asm.StoreXAdd(asm.R0, asm.R6, asm.DWord),
		asm.Mov.Imm(asm.R0, verdict).WithSymbol("end"),
		asm.Return(),
	})
	return prog, func() uint64 {
		var n uint64
		require.NoError(t, total.Lookup(uint32(0), &n))
		return n
	}
}

func load(t testing.TB, spec ebpf.ProgramSpec, what asm.Instructions) *ebpf.Program {
	t.Helper()
	spec.License, spec.Instructions = "Apache-2.0", what
	prog, err := ebpf.NewProgram(&spec)
	require.NoError(t, err)
	t.Cleanup(func() { prog.Close() })
	return prog
}
