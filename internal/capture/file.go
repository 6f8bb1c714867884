package capture

import (
	"fmt"
	"io"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"
)

// File writes pcapng: interfaces in the order of the places, a comment for each thing that is known of a packet.
type File struct {
	w *pcapgo.NgWriter
	// first is the place of the first interface; recorded says that directions are not known.
	first    Place
	recorded bool
}

// NewFile begins a file.
func NewFile(w io.Writer, o Options) (*File, error) {
	about := func(name, description string) pcapgo.NgInterface {
		return pcapgo.NgInterface{
			Name: name, Description: description, OS: "linux", LinkType: layers.LinkTypeEthernet, TimestampResolution: 9, SnapLength: 0,
		}
	}
	options := pcapgo.DefaultNgWriterOptions
	options.SectionInfo.Application, options.SectionInfo.Comment = "vn capture", "vnet "+o.Vnet.Short()
	list := []pcapgo.NgInterface{about(o.Vnif, "frames of vnet "+o.Vnet.Short()), about(o.Device, "what carries them to other hosts")}
	if o.Reader != nil {
		list = append(list, about(o.Device+" opened", "what the ESP packets hold, in packets without ESP"))
	}
	first := Vnif
	if o.Recorded {
		first, list = Underlay, list[1:]
	}
	f, err := pcapgo.NewNgWriterInterface(w, list[0], options)
	if err != nil {
		return nil, fmt.Errorf("begin the file: %w", err)
	}
	for _, i := range list[1:] {
		if _, err := f.AddInterface(i); err != nil {
			return nil, fmt.Errorf("begin the file: %w", err)
		}
	}
	return &File{w: f, first: first, recorded: o.Recorded}, nil
}

// Write writes a packet.
func (f *File) Write(p Packet) error {
	direction := pcapgo.NgEpbFlagDirectionInbound
	switch {
	case f.recorded:
		direction = pcapgo.NgEpbFlagDirectionUnknown
	case p.Outgoing:
		direction = pcapgo.NgEpbFlagDirectionOutbound
	}
	return f.w.WritePacketWithOptions(gopacket.CaptureInfo{
		Timestamp: p.Time, CaptureLength: len(p.Data), Length: len(p.Data), InterfaceIndex: int(p.Place - f.first),
	}, p.Data, pcapgo.NgPacketOptions{Comments: p.Comments, Flags: &pcapgo.NgEpbFlags{Direction: direction}})
}

// Flush hands what was written to the file.
func (f *File) Flush() error { return f.w.Flush() }
