package server

import (
	"testing"

	"connectrpc.com/connect"

	"warren/coord/domain"
	"warren/coord/reason"
	"warren/proto/key"
	pb "warren/proto/warrenv1"
)

// A separate relay is told whom not to serve, and nothing else: no members, no statement, no ticket.
func TestRelayWatch(t *testing.T) {
	c := start(t, nil)
	tok := c.token(domain.TokenWish{Reusable: true})
	removed, expired, member := c.member(tok, "removed"), c.member(tok, "expired"), c.member(tok, "member")
	c.remove("removed")
	c.expire("expired", nil)
	r := c.device("relay")
	relayTok := c.token(domain.TokenWish{Relay: true})
	_, err := r.send(r.signEnrol(relayTok, r.relayBody(relayTok, "ams")))
	c.must(err)

	blocked := func(f *follower, want ...*device) func() bool {
		return func() bool {
			for _, d := range want {
				if !f.blocked[d.key.Public().Raw()] {
					return false
				}
			}
			return len(f.blocked) == len(want)
		}
	}
	f := r.watch(0, 0)
	f.until("the snapshot's end", func() bool { return f.snapshots == 1 })
	f.until("two blocked", blocked(f, removed, expired))
	c.remove("member")
	f.until("three blocked", blocked(f, removed, expired, member))
	_, err = expired.enrol(tok)
	c.must(err)
	f.until("the renewed one unblocked", blocked(f, removed, member))
	if len(f.peers) != 0 || f.statements != 0 || f.tickets != 0 || len(f.online) != 0 {
		t.Errorf("a relay learnt of %v, %d statements, %d tickets, presence %v", f.names(), f.statements, f.tickets, f.online)
	}

	f.close()
	c.expire("expired", nil)
	f = f.resume()
	f.until("what it missed", blocked(f, removed, member, expired))
	if f.snapshots != 0 {
		t.Error("a snapshot though it can resume")
	}

	m := r.loginBody()
	m.Role = pb.Role_ROLE_DEVICE
	_, err = r.sendLogin(m)
	c.refused("a relay as device", err, reason.NotMember, connect.CodePermissionDenied)
	_, err = r.apply(setName("x"))
	c.refused("a relay's change", err, reason.NotMember, connect.CodePermissionDenied)

	list, err := c.admin.ListRelays(t.Context(), connect.NewRequest(&pb.ListRelaysRequest{}))
	c.must(err)
	if l := list.Msg.GetRelays(); len(l) != 2 || !l[0].GetBuiltIn() || !l[1].GetOnline() || l[1].GetRelay().GetName() != "ams" {
		t.Errorf("relays %v", l)
	}
	_, err = c.admin.RemoveRelay(t.Context(), connect.NewRequest(&pb.RemoveRelayRequest{Name: "ams"}))
	c.must(err)
	c.refused("the removed relay's Watch", f.end(), reason.Removed, connect.CodePermissionDenied)
	_, err = r.login()
	c.refused("the removed relay", err, reason.Removed, connect.CodePermissionDenied)
}

// Devices learn of relays that come and go by a new statement.
func TestRelaysInStatements(t *testing.T) {
	c := start(t, nil)
	f := c.member(c.token(domain.TokenWish{}), "a").watch(0, 0)
	f.sees("a")
	r := c.device("relay")
	tok := c.token(domain.TokenWish{Relay: true})
	_, err := r.send(r.signEnrol(tok, r.relayBody(tok, "ams")))
	c.must(err)
	f.until("two relays", func() bool { return len(f.statement.GetRelays()) == 2 })
	if got, err := key.DevicePublicFromBytes(f.statement.GetRelays()[1].GetRelayKey()); err != nil || !got.Equal(r.key.Public()) {
		t.Errorf("relays %v, %v", f.statement.GetRelays(), err)
	}
	_, err = c.admin.RemoveRelay(t.Context(), connect.NewRequest(&pb.RemoveRelayRequest{Name: "ams"}))
	c.must(err)
	f.until("one relay", func() bool { return len(f.statement.GetRelays()) == 1 })
}
