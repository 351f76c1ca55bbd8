package portmap

import (
	"net/netip"
	"time"

	"warren/nat/portmap/natpmp"
	"warren/nat/portmap/pcp"
)

// datagram takes what came from the gateway. Nobody else is listened to.
func (c *Core) datagram(now time.Time, ev Datagram) {
	if !c.net.complete() || ev.From != netip.AddrPortFrom(c.net.Gateway, pcp.Port) || len(ev.B) == 0 {
		return
	}
	if ev.B[0] == natpmp.Version {
		if r, err := natpmp.Parse(ev.B); err == nil {
			c.natpmpResponse(now, r, ev.Announced)
		}
		return
	}
	if r, err := pcp.Parse(ev.B); err == nil {
		c.pcpResponse(now, r, ev.Announced)
	}
}

// busy tells whether an answer is awaited that makes or renews a mapping.
func (k *client) busy() bool { return k.state == asking || k.state == mapping || k.renewing }

func (c *Core) natpmpResponse(now time.Time, r natpmp.Response, announced bool) {
	k := &c.clients[NATPMP]
	lost := c.epochs[NATPMP].restarted(now, r.Epoch)
	if announced {
		c.announced(now, lost || r.Op == natpmp.Address && r.External != k.external)
		return
	}
	switch {
	case r.Result == natpmp.UnsupportedVersion: // it was asked in PCP
		if p := &c.clients[PCP]; p.state == asking {
			c.fail(now, p, NotSupported)
		}
	case r.Op == natpmp.Address && k.wantAddress && k.busy():
		c.natpmpAddress(now, k, r)
	case r.Op == natpmp.MapUDP && k.wantMap && (k.busy() || k.state == releasing):
		c.natpmpMapped(now, k, r)
	}
}

func (c *Core) natpmpAddress(now time.Time, k *client, r natpmp.Response) {
	if r.Result != natpmp.Success {
		c.fail(now, k, natpmpReason(r.Result))
		return
	}
	k.wantAddress, k.answered, k.external = false, true, r.External
	switch why := Useful(r.External); {
	case why != NoReason:
		c.fail(now, k, why)
	case k.state == asking:
		k.state, k.reason, k.resendAt = offering, NoReason, time.Time{}
	case !k.wantMap:
		c.granted(now, k, netip.AddrPortFrom(k.external, k.port), k.life)
	}
}

func (c *Core) natpmpMapped(now time.Time, k *client, r natpmp.Response) {
	switch {
	case r.Result == natpmp.Success && r.Internal != c.net.Port: // another's
	case k.state == releasing:
		if r.Result != natpmp.Success || r.Life == 0 {
			k.released()
		}
	case r.Result != natpmp.Success:
		c.fail(now, k, natpmpReason(r.Result))
	default:
		k.wantMap, k.port, k.life = false, r.Mapped, r.Life
		if !k.wantAddress {
			c.granted(now, k, netip.AddrPortFrom(k.external, k.port), k.life)
		}
	}
}

func natpmpReason(r natpmp.Result) Reason {
	switch r {
	case natpmp.UnsupportedVersion, natpmp.UnsupportedOpcode:
		return NotSupported
	case natpmp.NetworkFailure:
		return NoAddress
	case natpmp.OutOfResources:
		return NoResources
	}
	return Refused
}

func (c *Core) pcpResponse(now time.Time, r pcp.Response, announced bool) {
	k := &c.clients[PCP]
	switch {
	case r.Result == pcp.UnsupportedVersion:
		if r.Version == pcp.Version { // then NAT-PMP's version is the one that it does not know
			k = &c.clients[NATPMP]
		}
		if k.state == asking && !announced {
			c.fail(now, k, NotSupported)
		}
		return
	case r.Announce:
		if lost := c.epochs[PCP].restarted(now, r.Epoch); announced {
			c.announced(now, lost)
		}
		return
	case announced,
		r.HasMap && (r.Map.Nonce != c.nonce || r.Map.Internal != c.net.Port),
		!r.HasMap && k.state != asking: // a refusal that anybody could have made up ends nothing that works
		return
	}
	c.epochs[PCP].restarted(now, r.Epoch) // if it did, this answer is from the new table
	c.pcpMapped(now, k, r)
}

func (c *Core) pcpMapped(now time.Time, k *client, r pcp.Response) {
	switch {
	case k.state == releasing:
		if r.Result != pcp.Success || r.Life == 0 {
			k.released()
		}
	case !k.busy():
		if k.state == idle && r.Result == pcp.Success && r.Life > 0 { // granted too late
			k.lease = r.Map.External
			c.giveBack(now, k)
		}
	case r.Result != pcp.Success:
		k.notBefore = now.Add(min(r.Life, maxRetry)) // RFC 6887 section 8.3: an error lasts as long as it says
		c.fail(now, k, pcpReason(r.Result))
	default:
		c.granted(now, k, r.Map.External, r.Life)
	}
}

func pcpReason(r pcp.Result) Reason {
	switch r {
	case pcp.UnsupportedVersion, pcp.UnsupportedOpcode, pcp.UnsupportedProtocol:
		return NotSupported
	case pcp.NetworkFailure:
		return NoAddress
	case pcp.NoResources, pcp.UserExceededQuota:
		return NoResources
	case pcp.CannotProvideExternal:
		return Conflict
	}
	return Refused
}

// unreachable is the word of the gateway's kernel that nobody has the port. While a mapping is renewed it may be a restart.
func (c *Core) unreachable(now time.Time) {
	for _, p := range []Protocol{PCP, NATPMP} {
		switch k := &c.clients[p]; k.state {
		case asking, mapping:
			c.fail(now, k, NotSupported)
		case releasing:
			k.released()
		}
	}
}

func (k *client) released() { k.state, k.resendAt, k.op = idle, time.Time{}, 0 }
