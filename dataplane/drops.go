package dataplane

import "github.com/xenvnet/xend/dataplane/hosts"

// Reason says why a packet or frame was not passed on. Each drop is counted under one reason, once.
type Reason uint8

// The reasons. New ones go at the end of their group; names and help texts are in the table below.
const (
	// From the underlay.
	DropMalformed   Reason = iota // headers that make no sense
	DropVersion                   // EtherIP of another version
	DropMessage                   // unknown message id or opcode
	DropDestination               // sent to another group or a broadcast address
	DropOwn                       // our own packet came back
	DropUnknownVnet               // a vnet that this host does not have
	DropSecurity                  // cleartext in a vnet that must be protected, or the reverse
	DropNotPeer                   // VFWD of a host that is no peer
	DropDuplicate                 // the same frame came by another way
	DropLoop                      // a frame that went round
	DropFlapping                  // the source MAC is being damped
	DropSource                    // a source MAC that no interface has
	DropEtherIP                   // EtherIP without UDP, which is configured off
	DropAnswer                    // an answer to a probe that was not sent
	DropTooLong                   // longer than the vnif takes
	DropTruncated                 // larger than any packet can be
	DropPort                      // the vnif did not take it
	DropSocketQueue               // the kernel's receive queue was full
	DropNotUnderlay               // came by a device that is no underlay's

	// From the underlay, of vnets with security; docs/security.md.
	DropESPMalformed
	DropESPUnknownSPI
	DropESPReplay
	DropESPAuth
	DropESPInner
	DropESPVnet
	DropKeyMalformed
	DropKeyUnknown
	DropKeyMAC
	DropKeyLevel
	DropKeyUnconfirmed
	DropKeyOld
	DropSendersFull
	DropKeyRate
	DropForwardSecured

	// From the vnif.
	DropFrame       // too short, or offload data that contradict the frame
	DropNoUnderlay  // no underlay of the family, or no address on it
	DropRate        // above the vnet's BUM rate
	DropTooBig      // does not fit the path, and the sender was told (pmtu)
	DropSend        // the kernel did not take it
	DropUnprotected // a vnet that must be protected, without a key
	DropVnifQueue   // the kernel's queue of the vnif was full

	// Our own messages.
	DropAnnounce // an announce above the rate limit
	DropReply    // an answer to a VARP request above the rate limit
	DropRelay    // a re-multicast of a forwarded packet above the rate limit
	DropCopy     // a copy for a host that speaks only EtherIP above the rate limit

	reasons
)

// A hosts.Tally has room for all of them.
const _ = uint(hosts.MaxKinds - reasons)

// dropsOf lists what was counted by reason, without what was not.
func dropsOf(sum *[hosts.MaxKinds]uint64) (out []Drop) {
	if sum == nil {
		return nil
	}
	for r := range reasons {
		if sum[r] > 0 {
			out = append(out, Drop{Reason: r, Count: sum[r]})
		}
	}
	return out
}

// reasonTable holds the name of each reason (for vn stats and metrics) and what it means to a person.
var reasonTable = [reasons]struct{ name, help string }{
	DropMalformed:   {"malformed", "packets from the underlay whose headers make no sense"},
	DropVersion:     {"etherip_version", "packets with an EtherIP version other than 4"},
	DropMessage:     {"unknown_message", "packets with an unknown message id or VARP opcode"},
	DropDestination: {"wrong_destination", "packets sent to another group or to a broadcast address"},
	DropOwn:         {"own_packet", "this host's own packets that came back"},
	DropUnknownVnet: {"unknown_vnet", "packets of vnets that this host does not have; normal on a shared group"},
	DropSecurity:    {"security", "cleartext packets of a vnet with security auth or conf"},
	DropNotPeer:     {"not_a_peer", "forwarded packets (VFWD) from hosts that are not configured as peers"},
	DropDuplicate:   {"duplicate", "copies of a frame that arrived by another way already"},
	DropLoop:        {"loop", "frames that this host sent and that came back, or go round in a bridge loop"},
	DropFlapping:    {"flapping", "frames whose source MAC moves to and fro too often"},
	DropEtherIP:     {"etherip_off", "packets of EtherIP without UDP, which the configuration turns off (etherip = \"off\")"},
	DropAnswer:      {"stray_answer", "answers to probes that this host did not send, or not lately"},
	DropSource:      {"bad_source_mac", "frames whose source MAC is multicast or zero"},
	DropTooLong:     {"too_long", "frames from the underlay that are longer than the vnif's MTU allows"},
	DropTruncated:   {"truncated", "packets that were larger than the receive buffer"},
	DropPort:        {"vnif_refused", "frames that the vnif did not take, for example because it is down"},
	DropSocketQueue: {"underlay_queue_full", "packets that the kernel dropped because the daemon was too slow to receive them"},
	DropNotUnderlay: {"not_underlay", "packets that came by a device that does not lead to other hosts: a domain that attacks, or asymmetric routing (devices in vnet.toml)"},
	DropFrame:       {"bad_frame", "frames from the vnif that are too short or contradict their offload data"},
	DropNoUnderlay:  {"no_underlay", "frames that could not be sent because there is no underlay device or address"},
	DropRate:        {"bum_rate", "flooded frames above the vnet's bum_rate"},
	DropTooBig:      {"too_big", "frames that do not fit the path, whose sender was told so (mtu_mode pmtu)"},
	DropSend:        {"send_error", "packets that the kernel refused to send"},
	DropUnprotected: {"no_key", "frames of a vnet with security auth or conf that has no key"},
	DropVnifQueue:   {"vnif_queue_full", "frames that the kernel dropped because the daemon was too slow to read the vnif"},
	DropAnnounce:    {"announce_rate", "VARP announces not sent because too many MACs appeared at once"},
	DropReply:       {"reply_rate", "VARP requests not answered because too many came at once"},
	DropCopy:        {"etherip_copies", "copies of flooded packets for hosts that speak only EtherIP, above their limit"},
	DropRelay:       {"relay_rate", "forwarded packets (VFWD) not multicast again because too many came at once: peers in a circle"},

	DropESPMalformed:   {"esp_malformed", "ESP packets that are too short or make no sense"},
	DropESPUnknownSPI:  {"esp_unknown_spi", "ESP packets of senders whose key message has not come yet, or of nobody's"},
	DropESPReplay:      {"esp_replay", "ESP packets that came before, by whatever way, or are too old"},
	DropESPAuth:        {"esp_auth", "ESP packets that were forged or damaged, or sealed with another key"},
	DropESPInner:       {"esp_inner", "ESP packets that hold what does not belong there"},
	DropESPVnet:        {"esp_vnet", "ESP packets with a frame of another vnet inside"},
	DropKeyMalformed:   {"key_malformed", "key messages that make no sense"},
	DropKeyUnknown:     {"key_unknown", "key messages under keys, or of vnets, that this host does not have"},
	DropKeyMAC:         {"key_mac", "key messages that were forged or damaged"},
	DropKeyLevel:       {"key_level", "key messages of hosts where the vnet has another security level"},
	DropKeyUnconfirmed: {"key_unconfirmed", "key messages of senders that have not proved yet that they live"},
	DropKeyOld:         {"key_old", "key messages that are older than what is known"},
	DropSendersFull:    {"senders_full", "key messages for which there was no room"},
	DropKeyRate:        {"key_rate", "questions for keys above the limit"},
	DropForwardSecured: {"forward_secured", "forwarded packets of vnets with security that this host is not in"},
}

// String is the reason's name, as vn stats and metrics show it.
func (r Reason) String() string {
	if r >= reasons {
		return "unknown"
	}
	return reasonTable[r].name
}

// Help says what the reason means.
func (r Reason) Help() string {
	if r >= reasons {
		return ""
	}
	return reasonTable[r].help
}
