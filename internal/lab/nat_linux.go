package lab

import (
	"fmt"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// NAT is a kind of box between a host and the internet. All but None drop silently what they did not ask for.
type NAT int

// The kinds of NAT, in the terms of RFC 4787.
const (
	// None gives the host a public address.
	None NAT = iota
	// Easy maps endpoint-independently, keeps the port when it is free, and filters by address and port.
	Easy
	// Hard gives every destination another, random port.
	Hard
	// UDPBlocked lets TCP out and no UDP.
	UDPBlocked
)

// String is the kind's name.
func (n NAT) String() string { return [...]string{"none", "easy", "hard", "udp-blocked"}[n] }

const (
	wanName = "wan"
	lanName = "lan"
)

// applyNAT loads the box's rules.
func (h *Host) applyNAT(kind NAT) error {
	c, err := nftables.New(nftables.WithNetNSFd(int(h.ns.Fd())))
	if err != nil {
		return err
	}
	table := c.AddTable(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: "nat"})
	post := c.AddChain(&nftables.Chain{
		Name: "post", Table: table, Type: nftables.ChainTypeNAT, Hooknum: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityNATSource,
	})
	// A NAT needs its other hook registered for answers to be translated back.
	c.AddChain(&nftables.Chain{
		Name: "pre", Table: table, Type: nftables.ChainTypeNAT, Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityNATDest,
	})
	c.AddRule(&nftables.Rule{Table: table, Chain: post, Exprs: append(interfaceIs(expr.MetaKeyOIFNAME, wanName),
		&expr.Masq{Random: kind == Hard, FullyRandom: kind == Hard})})
	drop := nftables.ChainPolicyDrop
	forward := c.AddChain(&nftables.Chain{
		Name: "forward", Table: table, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookForward,
		Priority: nftables.ChainPriorityFilter, Policy: &drop,
	})
	input := c.AddChain(&nftables.Chain{
		Name: "input", Table: table, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookInput,
		Priority: nftables.ChainPriorityFilter, Policy: &drop,
	})
	if kind == UDPBlocked {
		c.AddRule(&nftables.Rule{Table: table, Chain: forward, Exprs: []expr.Any{
			&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.IPPROTO_UDP}},
			&expr.Verdict{Kind: expr.VerdictDrop},
		}})
	}
	for _, chain := range []*nftables.Chain{forward, input} {
		c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: established()})
		c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: append(interfaceIs(expr.MetaKeyIIFNAME, lanName), &expr.Verdict{Kind: expr.VerdictAccept})})
	}
	if err := c.Flush(); err != nil {
		return fmt.Errorf("%s: nftables: %w", h.Name, err)
	}
	return nil
}

func interfaceIs(key expr.MetaKey, name string) []expr.Any {
	padded := make([]byte, unix.IFNAMSIZ)
	copy(padded, name)
	return []expr.Any{&expr.Meta{Key: key, Register: 1}, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: padded}}
}

// established accepts what belongs to a connection that was let out.
func established() []expr.Any {
	mask := uint32(expr.CtStateBitESTABLISHED | expr.CtStateBitRELATED)
	return []expr.Any{
		&expr.Ct{Key: expr.CtKeySTATE, Register: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: binaryutil.NativeEndian.PutUint32(mask), Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: make([]byte, 4)},
		&expr.Verdict{Kind: expr.VerdictAccept},
	}
}
