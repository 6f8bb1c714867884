package fastpath

// The objects are made by Debian bookworm's clang 14 and committed; `make bpf` makes them anew, and CI
// compares. Neither building nor running xend needs a compiler for eBPF.
//go:generate go tool bpf2go -cc clang-14 -strip llvm-strip-14 -no-global-types -type vnet -type mac_key -type mac -type host -type underlay -type timing -type counters -type id -type vif -type join -type queue -target bpfel bpf bpf/fastpath.c -- -O2 -g -Wall -Werror -Ibpf -idirafter /usr/include/x86_64-linux-gnu -idirafter /usr/include/aarch64-linux-gnu
//go:generate go tool bpf2go -cc clang-14 -strip llvm-strip-14 -no-global-types -type ingress -target bpfel xdp bpf/xdp.c -- -O2 -g -Wall -Werror -Ibpf -idirafter /usr/include/x86_64-linux-gnu -idirafter /usr/include/aarch64-linux-gnu
