package portmap

import (
	"net/netip"
	"time"
)

// Report is what a Core knows, for people.
type Report struct {
	// Gateway is zero where there is none.
	Gateway netip.Addr
	// Mapping is the one that holds, until Until unless renewed at RenewAt; zero if there is none.
	Mapping        Mapping
	RenewAt, Until time.Time
	// Protocols are those in use, in order of preference.
	Protocols []ProtocolReport
}

// ProtocolReport is about one protocol.
type ProtocolReport struct {
	Protocol Protocol
	// Answered says that the gateway speaks it, as far as is known.
	Answered bool
	// Reason is why it gave no mapping when it was last asked.
	Reason Reason
	// External is the gateway's address outside by its own word; zero while unknown.
	External netip.Addr
}

// DoubleNAT tells that the gateway's own address outside is a private one: another NAT is in front of it, which no mapping can pass.
func (r Report) DoubleNAT() bool {
	for _, p := range r.Protocols {
		if p.Reason == PrivateAddress {
			return r.Mapping == Mapping{}
		}
	}
	return false
}

// Report gives what is known now.
func (c *Core) Report() Report {
	r := Report{Gateway: c.net.Gateway, Mapping: c.published}
	if c.active != None {
		k := &c.clients[c.active]
		r.RenewAt, r.Until = k.renewAt, k.until
	}
	for _, p := range c.cfg.Use {
		k := &c.clients[p]
		r.Protocols = append(r.Protocols, ProtocolReport{p, k.answered, k.reason, k.external})
	}
	return r
}
