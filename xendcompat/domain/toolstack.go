package domain

import (
	"context"
	"io"
	"time"
)

// Toolstack runs domains; it keeps nothing that should be, which is the Manager's. It is implemented by domain/xl, on
// hosts with Xen, and by domain/lab, for which a domain is a network namespace; a fake is in domain/domaintest.
//
// A domain is named by its id, which is not given again while the toolstack lives. An id that does not run is a
// *NotFoundError; what the toolstack can't do, or not with these arguments, is an *UnsupportedError and changes nothing.
// Methods may be called concurrently, and return when ctx ends; what they do is then done or not done, never half.
type Toolstack interface {
	// Name is "xl", "lab".
	Name() string
	Lister
	Runner
	Mover
	Tuner
	Attacher
	Debugger
	// Console returns what the domain writes and reads as its console, until it is closed or the domain ends (io.EOF).
	Console(ctx context.Context, id int) (io.ReadWriteCloser, error)
	// Watch tells what happens to domains until ctx ends; then it closes the channel. What happened before counts: a
	// domain that is shut down already is told at once. Events may repeat, and none is lost: a slow reader gets fewer, later ones.
	Watch(ctx context.Context) <-chan Event
}

// Lister tells what runs.
type Lister interface {
	// List returns the domains that have an id, in the order of their ids, Domain-0 and those of other people's tools
	// included, and those that have shut down and were not destroyed yet.
	List(ctx context.Context) ([]Status, error)
	// Info returns what is known of the hypervisor, in xl info's words; nil where there is none.
	Info(ctx context.Context) (map[string]string, error)
	// Dmesg returns the hypervisor's messages, or with clear empties them and returns none.
	Dmesg(ctx context.Context, clear bool) ([]byte, error)
}

// Runner starts and ends domains.
type Runner interface {
	// Create starts a domain, whose configuration is complete (see Config.Complete) and whose name and uuid no other
	// domain has. It leaves nothing of its own that watches the domain: when the domain shuts down, it stays, with its
	// devices, as one whose Status has a Reason, until Destroy. After an error nothing is left.
	Create(ctx context.Context, c Config, o CreateOptions) (id int, err error)
	// Destroy ends a domain at once, with its devices; also one that has shut down.
	Destroy(ctx context.Context, id int) error
	// Shutdown asks the domain to end, for Poweroff, Reboot or Halt, and does not wait for it.
	Shutdown(ctx context.Context, id int, r Reason) error
	Pause(ctx context.Context, id int) error
	Unpause(ctx context.Context, id int) error
	Rename(ctx context.Context, id int, name string) error
}

// CreateOptions say how a domain starts.
type CreateOptions struct {
	// Paused leaves it paused, until Unpause.
	Paused bool
}

// Mover saves domains and moves them.
type Mover interface {
	// Save writes the domain, and its configuration, to a new file, mode 0600, and ends it. After an error the domain
	// runs and there is no file.
	Save(ctx context.Context, id int, c Config, file string) error
	// Restore starts the domain that Save wrote, and returns its configuration. The file stays. admit is called, before
	// anything starts, with the configuration that the file holds; its error ends the restoring.
	Restore(ctx context.Context, file string, o CreateOptions, admit func(Config) error) (id int, c Config, err error)
	// Migrate moves the domain to another host. After nil it runs there and is gone here, after an error it runs here and
	// is not there; an *UncertainError says that the other host did not tell, and the domain is kept paused here.
	Migrate(ctx context.Context, id int, c Config, o MigrateOptions) error
}

// MigrateOptions say where a domain goes.
type MigrateOptions struct {
	Host string // name or address
	Port int    // 0: 8002
	// Live lets it run while its state is copied.
	Live bool
	// SSL asks for TLS; toolstacks that always use it don't care.
	SSL bool
}

// Tuner changes what a domain gets.
type Tuner interface {
	// VcpuSet sets how many virtual processors are online.
	VcpuSet(ctx context.Context, id, n int) error
	// VcpuPin sets the processors that a virtual one runs on; vcpu -1 means all of them.
	VcpuPin(ctx context.Context, id, vcpu int, cpus []int) error
	// MemSet asks the domain to have that much memory, in MiB.
	MemSet(ctx context.Context, id, mib int) error
	// MemMax sets what it can have, in MiB.
	MemMax(ctx context.Context, id, mib int) error
	// SchedCredit returns the parameters of the credit scheduler: weight 1–65535, cap in percent of a processor, 0 for none.
	SchedCredit(ctx context.Context, id int) (weight, limit int, err error)
	SetSchedCredit(ctx context.Context, id, weight, limit int) error
}

// Attacher changes the devices of a domain that runs.
type Attacher interface {
	// DeviceAttach adds a device of kind "vif", "vbd", "pci", …, and returns its number.
	DeviceAttach(ctx context.Context, id int, d DeviceConfig) (dev int, err error)
	// DeviceDetach takes away the device with that number; force does not wait for the domain to let it go.
	DeviceDetach(ctx context.Context, id int, kind string, dev int, force bool) error
}

// Debugger looks into domains and pokes them.
type Debugger interface {
	// Sysrq sends a magic key.
	Sysrq(ctx context.Context, id int, key byte) error
	// Trigger sends nmi, reset, init, power, sleep or s3resume to a virtual processor.
	Trigger(ctx context.Context, id int, trigger string, vcpu int) error
	// DumpCore writes the domain's memory to a file. live does not pause it meanwhile; crash ends it afterwards.
	DumpCore(ctx context.Context, id int, file string, live, crash bool) error
}

// Status is a domain as it was when asked for.
type Status struct {
	ID             int
	Name           string
	UUID           string // lower-case, with dashes
	Memory, MaxMem int    // MiB
	Flags          Flags
	// Reason is why it has shut down; "" while it runs.
	Reason Reason
	// Leaving says that it may run on another host already, see UncertainError: it is kept paused until that is known, which an
	// Event tells.
	Leaving bool
	CPUTime time.Duration
	// Started is when, zero if unknown.
	Started           time.Time
	CPUWeight, CPUCap int
	VCPUs             []VCPU
	Devices           []Device
	// Config is what the toolstack knows of its configuration; only fields that a domain of other people's has too.
	Config Config
}

// Flags are the six flags of xm list: r running, b blocked, p paused, s shut down, c crashed, d dying; a - for those that
// don't hold: "r-----", "-b----", "--p---".
type Flags string

// VCPU is a virtual processor.
type VCPU struct {
	Online, Running bool
	CPUTime         time.Duration
	CPU             int   // that it runs on; -1 if unknown
	Affinity        []int // those that it may run on
}

// Device is a device of a domain that runs.
type Device struct {
	Kind string // "vif", "vbd", …
	ID   int    // the number by which it is detached
	// Params are those of its configuration, and of what became of it: backend-id, handle, state ("4": connected),
	// backend (its path in xenstore), event-channel, tx-ring-ref, rx-ring-ref, ring-ref, where known.
	Params []Param
}

// Param returns the value of a parameter, or "".
func (d Device) Param(name string) string { return paramOf(d.Params, name) }

// Param returns the value of a parameter, or "".
func (d DeviceConfig) Param(name string) string { return paramOf(d.Params, name) }

func paramOf(params []Param, name string) string {
	for _, p := range params {
		if p.Name == name {
			return p.Value
		}
	}
	return ""
}

// Reason is why a domain shut down, or should.
type Reason string

// The reasons.
const (
	Poweroff Reason = "poweroff"
	Reboot   Reason = "reboot"
	Halt     Reason = "halt"
	Suspend  Reason = "suspend"
	Crash    Reason = "crash"
)

// Event is something that happened to a domain.
type Event struct {
	ID   int
	UUID string
	// Reason is set if it shut down and stays until it is destroyed; "" means that it is gone, or came.
	Reason Reason
}

// Receiver takes in domains that come from other hosts; the Manager is one, and the relocation server calls it.
type Receiver interface {
	// Receive admits a domain, keeps it durably as one that arrives, calls start, which makes it run here and returns its
	// id, and keeps it as one that runs. After an error, start's too, nothing is kept.
	Receive(ctx context.Context, c Config, start func(context.Context) (id int, err error)) error
}
