package domain

import "fmt"

func cpuid(leaf uint32) (eax, ebx, ecx, edx uint32)

// hwCaps are the processor's features as the hypervisor prints them: CPUID leaves 1 and 0x80000001 in
// the order of Xen 3, with zeros for words that only a hypervisor fills.
func hwCaps() string {
	_, _, ecx, edx := cpuid(1)
	var extC, extD uint32
	if most, _, _, _ := cpuid(0x80000000); most >= 0x80000001 {
		_, _, extC, extD = cpuid(0x80000001)
	}
	return fmt.Sprintf("%08x:%08x:%08x:%08x:%08x:%08x:%08x:%08x", edx, extD, 0, 0, ecx, 0, extC, 0)
}
