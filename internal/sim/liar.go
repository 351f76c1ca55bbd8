package sim

import (
	"net/netip"
	"time"

	"warren/nat/candidate"
	"warren/nat/path"
)

// victim is a third party that has nothing to do with anybody.
var victim = netip.AddrFrom4([4]byte{198, 18, 0, 1})

// lies are candidates of the third party.
func (d *device) lies() (out []candidate.Candidate) {
	for range candidate.Max {
		port := uint16(1 + d.w.rand.IntN(65535))
		out = append(out, candidate.Candidate{Kind: reflexiveKind, Addr: netip.AddrPortFrom(victim, port)})
	}
	return out
}

// lie makes a device a liar for good, and has it press a peer for a while: with calls, with checks that seem to come from the third party, and
// with the claim that its sockets are open.
func (d *device) lie(to *device, arg byte) {
	w := d.w
	if w.lied.IsZero() {
		w.lied = w.now
	}
	d.liar = true
	w.changeOf(d.name+" lies to "+to.name, false)
	left := 20 + int(arg)
	var press func()
	press = func() {
		if left--; left < 0 || d.down {
			return
		}
		switch arg % 3 {
		case 0:
			d.signal(path.SendSignal{Peer: to.id, Call: true})
		case 1:
			to.handle(path.Request{Peer: d.id, Pair: path.Pair{Local: to.ifaces[0].v4, Remote: d.lies()[0].Addr}})
		case 2:
			d.signal(path.SendSignal{Peer: to.id, NAT: path.NAT{Mapping: path.MappingDependent}, Step: path.StepReady})
		}
		w.after(20*time.Millisecond, press)
	}
	press()
}
