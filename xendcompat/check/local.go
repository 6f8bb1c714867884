package check

import (
	"slices"
	"strings"

	"github.com/xenvnet/xend/dataplane"
	"github.com/xenvnet/xend/dataplane/esp"
	"github.com/xenvnet/xend/vnet"
	"github.com/xenvnet/xend/xendcompat/finding"
)

// secured judges vnets with security, by what was said inside of their ESP and what was refused.
func (j *judge) secured() {
	for _, v := range j.status.Vnets {
		if v.Security != 0 && !slices.ContainsFunc(j.status.Keys, func(k esp.Status) bool { return k.ID == v.ID }) {
			j.add("key-missing", finding.Fail, "vnet "+v.ID.Short(), "vn key-generate "+v.ID.Short()+", or copy the other hosts' file", "has security %s and no key here: nothing of it is carried", v.Security)
		}
	}
	for _, k := range j.status.Keys {
		of := "vnet " + k.ID.Short()
		foreign := k.Refused[esp.KeyUnknown] + k.Refused[esp.KeyMAC]
		if n := k.Refused[esp.KeyLevel]; n > 0 {
			j.add("level-mismatch", finding.Fail, of, sameLevel("all hosts", k.ID.Short()), "other hosts have it at another security level than %s (%d key messages)", k.Level, n)
		}
		members := j.members[k.ID]
		switch {
		case foreign > 0:
			level := finding.Warn
			if len(members) == 0 {
				level = finding.Fail
			}
			j.add("key-mismatch", level, of, "vn key-status on all hosts; copy the key's file from one to the others, mode 0600",
				"other hosts protect it with a key that this one does not have (%d key messages)", foreign)
		case j.notAsked[k.ID] != "":
			j.add("key-mismatch", finding.Skip, of, "", "not asked: %s", j.notAsked[k.ID])
		case len(members) == 0 && j.lately(dataplane.DropKeyUnknown):
			j.add("key-mismatch", finding.Warn, of, "vn key-status on all hosts; copy the key's file from one to the others, mode 0600",
				"no host answers inside of its ESP (%s), and key messages come under keys that this host does not have (%d so far%s)", k.Level, j.drops(dataplane.DropKeyUnknown), j.senders(dataplane.DropKeyUnknown))
		case len(members) == 0 && j.inquiry != nil && j.answered() > 0:
			j.add("one-sided", finding.Warn, of, "on the other hosts: xm vnet-list -l "+k.ID.Short()+"; vn key-status; vn check: a firewall that drops UDP 4500 or IP protocol 50?", "no host answers inside of its ESP (%s)", k.Level)
		case len(members) > 0:
			j.add("key-mismatch", finding.OK, of, "", "%d hosts answer inside of its ESP (%s)", len(members), k.Level)
		}
	}
}

// sameLevel is the cure where hosts have a vnet at different levels.
func sameLevel(where, id string) string {
	return "on " + where + ": xm vnet-list -l " + id + "; where it is wrong: xm vnet-delete " + id + ", and xm vnet-create with the same (security ...)"
}

// lately reports whether something was dropped for a reason a moment ago: what was once, may have been mended since.
func (j *judge) lately(r dataplane.Reason) bool {
	n := j.drops(r)
	return n > 0 && (j.o.Lately == nil || j.o.Lately(r, n))
}

func (j *judge) drops(r dataplane.Reason) uint64 {
	for _, d := range j.status.Drops {
		if d.Reason == r {
			return d.Count
		}
	}
	return 0
}

// senders is who sent most of what was dropped for a reason: ", from 192.0.2.2".
func (j *judge) senders(r dataplane.Reason) string {
	var list []string
	for _, s := range j.status.Sources {
		if s.Reason == r {
			list = append(list, s.From.String())
		}
	}
	if len(list) == 0 {
		return ""
	}
	return ", from " + strings.Join(list, " and ")
}

func (j *judge) answered() (n int) {
	for _, h := range j.inquiry.Hosts {
		if h.Answers() {
			n++
		}
	}
	return n
}

// told judges what the log has told lately.
func (j *judge) told() {
	seen := map[string]bool{}
	for _, e := range slices.Backward(j.events) {
		if j.now.Sub(e.Time) > recent {
			break
		}
		key := e.Text + e.Attr("vnet") + e.Attr("host")
		if e.Text != levelText || seen[key] {
			continue
		}
		seen[key] = true
		j.add("level-mismatch", finding.Fail, e.Attr("host"), sameLevel("both", vnet.ShortText(e.Attr("vnet"))), "has vnet %s at another security level: nothing of it is taken", vnet.ShortText(e.Attr("vnet")))
	}
	for _, s := range j.status.Strangers {
		if s.Packets < strangersAllowed {
			continue
		}
		j.add("stranger", finding.Warn, "device "+s.Device, "ip route get "+s.From.String()+"; if other hosts are behind it: devices = [\""+s.Device+"\"] in vnet.toml",
			"%d packets for vnets came by it from %s and were dropped: asymmetric routing, or a domain attacks", s.Packets, s.From)
	}
}

// levelText is the log's line about a host with another security level.
const levelText = "a host has the vnet at another security level; nothing of it is taken"

// strangersAllowed is how many packets may come the wrong way without a word: some do while routes change.
const strangersAllowed = 3

// local judges this host.
func (j *judge) local() {
	for _, u := range j.status.Underlays {
		if u.Up {
			j.underlay(u)
		}
	}
	switch {
	case len(j.health.Dropped) > 0 || len(j.status.Underlays) == 0: // of which troubles tells
	case j.health.Unsure > 0:
		j.add("port-filtered", finding.OK, "local", "", "no rule drops what vnets need, as far as rules can be followed: %d match what is not known here", j.health.Unsure)
	default:
		j.add("port-filtered", finding.OK, "local", "", "no rule of nftables or iptables drops what vnets need")
	}
	j.resources()
}

// underlay judges the device by which other hosts are reached.
func (j *judge) underlay(u dataplane.Underlay) {
	f := &j.facts
	of := u.Device
	switch {
	case f.joinedErr != nil:
		j.add("group-not-joined", finding.Skip, of, "", "not known: %v", f.joinedErr)
	case !f.joined[u.Device+" "+u.Group.String()]:
		j.add("group-not-joined", finding.Fail, of, "ip maddr show dev "+u.Device+"; xend restart", "the kernel is no member of group %s there", u.Group)
	default:
		j.add("group-not-joined", finding.OK, of, "", "the kernel is a member of group %s there", u.Group)
	}
	var astray []string
	for addr, devices := range f.routed {
		if addr.Is4() == u.Address.Is4() && addr.Is4() && len(devices) > 0 && !slices.Contains(devices, u.Device) {
			astray = append(astray, addr.String()+" by "+strings.Join(devices, ", "))
		}
	}
	slices.Sort(astray)
	switch {
	case f.strict[u.Device] && len(astray) > 0:
		j.add("rp-filter", finding.Warn, of, "sysctl net.ipv4.conf."+u.Device+".rp_filter=2 net.ipv4.conf.all.rp_filter=2",
			"rp_filter is strict, and the kernel routes %s: what comes from there by %s is dropped", strings.Join(astray, "; "), u.Device)
	case u.Address.Is4():
		j.add("rp-filter", finding.OK, of, "", "reverse path filtering is in no host's way")
	}
	if on, known := f.coalesces[u.Device]; !known {
		j.add("gro-off", finding.Skip, of, "", "not looked at: %v", f.coalescesErr)
	} else if !on {
		j.add("gro-off", finding.Warn, of, "ethtool -K "+u.Device+" gro on", "generic receive offload is off: packets are handled one by one, which costs most of the throughput")
	} else {
		j.add("gro-off", finding.OK, of, "", "packets are coalesced (GRO)")
	}
}

// resources judges what the daemon needs of the machine.
func (j *judge) resources() {
	f := &j.facts
	switch {
	case f.filesErr != nil:
		j.add("file-limit", finding.Skip, "local", "", "not known: %v", f.filesErr)
	case f.files*10 > f.fileLimit*9:
		j.add("file-limit", finding.Warn, "local", "LimitNOFILE= of xend.service, then xend restart", "the daemon has %d files open, and may have %d", f.files, f.fileLimit)
	default:
		j.add("file-limit", finding.OK, "local", "", "the daemon has %d files open, and may have %d", f.files, f.fileLimit)
	}
	const little = 3 // percent
	switch {
	case f.stateErr != nil:
		j.add("state-full", finding.Warn, "local", "df -h "+f.stateDir, "the state directory %s: %v", f.stateDir, f.stateErr)
	case f.freeBytes < little || f.freeInodes < little:
		j.add("state-full", finding.Warn, "local", "df -h "+f.stateDir+"; df -i "+f.stateDir, "the file system of %s has %d%% of its room and %d%% of its files free: vnets can soon not be created", f.stateDir, f.freeBytes, f.freeInodes)
	default:
		j.add("state-full", finding.OK, "local", "", "the state directory has room: %d%% free", f.freeBytes)
	}
	switch {
	case f.clockErr != nil:
		j.add("clock", finding.Skip, "local", "", "not known whether the clock is kept: %v", f.clockErr)
	case !f.clockKept && len(j.status.Keys) > 0:
		j.add("clock", finding.Warn, "local", "timedatectl set-ntp true", "nothing keeps the clock right; keys of vnets with security are renewed by it, and logs are compared by it")
	case !f.clockKept:
		j.add("clock", finding.OK, "local", "", "nothing keeps the clock right (timedatectl set-ntp true), which only logs would miss")
	default:
		j.add("clock", finding.OK, "local", "", "the clock is kept right")
	}
	j.fastPath()
}

// fastPath says what the kernel carries.
func (j *judge) fastPath() {
	f := j.status.FastPath
	var how []string
	for _, u := range f.Underlays {
		if u.Way == "" {
			continue
		}
		text := u.Way + " on " + u.Device
		for _, why := range [][2]string{{"not sending: ", u.Send}, {"not receiving: ", u.Receive}} {
			if why[1] != "" {
				text += ", " + why[0] + why[1]
			}
		}
		how = append(how, text)
	}
	left := 0
	for _, why := range f.Vnets {
		if why != "" {
			left++
		}
	}
	switch {
	case f.Problem != "":
		level := finding.OK
		if f.Mode == dataplane.FastPathOn {
			level = finding.Warn
		}
		j.add("fast-path", level, "local", "fastpath = \"off\" in vnet.toml, if that is as it should be", "user space carries all: %s", f.Problem)
	case f.On:
		j.add("fast-path", finding.OK, "local", "", "the kernel carries known unicast: %s; user space carries %d of %d vnets", strings.Join(how, "; "), left, len(f.Vnets))
	default:
		j.add("fast-path", finding.OK, "local", "", "user space carries all, as fastpath = \"%s\" has it", f.Mode)
	}
}
