package lab

import (
	"fmt"
	"strconv"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"warren/internal/sim/natmodel"
)

// rules are what a box's kernel does with packets.
type rules struct {
	nat         *natmodel.Options // nil: no translation
	model       bool              // the simulator's model translates, not the kernel
	ipv6        IPv6
	block       Block
	brokenIPv4  bool
	portMapping bool
}

const (
	tableName  = "lab"
	portalPort = 8080
)

// applyRules loads the box's rules, in place of those that it had.
func (h *Host) applyRules(r rules) error {
	c, err := nftables.New(nftables.WithNetNSFd(int(h.ns.Fd())))
	if err != nil {
		return err
	}
	// Adding a table that is there changes nothing, so that deleting it afterwards always works.
	for _, family := range []nftables.TableFamily{nftables.TableFamilyINet, nftables.TableFamilyIPv4} {
		t := &nftables.Table{Family: family, Name: tableName}
		c.AddTable(t)
		c.DelTable(t)
	}
	r.filter(c)
	if r.nat != nil && !r.model || r.block == CaptivePortal {
		r.translate(c)
	}
	if err := c.Flush(); err != nil {
		return fmt.Errorf("%s: nftables: %w", h.Name, err)
	}
	if r.model {
		return nil
	}
	return h.setTimeout(r.nat)
}

// setTimeout sets how long the kernel keeps UDP state.
func (h *Host) setTimeout(o *natmodel.Options) error {
	if o == nil || o.Timeout == 0 {
		return nil
	}
	value := strconv.Itoa(int(o.Timeout.Seconds()))
	for _, name := range []string{"udp_timeout", "udp_timeout_stream", "icmp_timeout"} {
		if err := h.sysctl("netfilter/nf_conntrack_"+name, value); err != nil {
			return fmt.Errorf("%s: time-out of UDP state: %w", h.Name, err)
		}
	}
	return nil
}

func (r rules) translate(c *nftables.Conn) {
	table := c.AddTable(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: tableName})
	post := c.AddChain(&nftables.Chain{
		Name: "post", Table: table, Type: nftables.ChainTypeNAT, Hooknum: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityNATSource,
	})
	// A NAT needs its other hook registered for answers to be translated back.
	pre := c.AddChain(&nftables.Chain{
		Name: "pre", Table: table, Type: nftables.ChainTypeNAT, Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityNATDest,
	})
	if r.nat != nil && !r.model {
		random := r.nat.Ports == natmodel.RandomPort
		add(c, post, interfaceIs(expr.MetaKeyOIFNAME, wanName), one(&expr.Masq{Random: random, FullyRandom: random}))
	}
	if r.block == CaptivePortal {
		add(c, pre, interfaceIs(expr.MetaKeyIIFNAME, lanName), protocolIs(unix.IPPROTO_TCP), portIs(80), []expr.Any{
			&expr.Immediate{Register: 1, Data: binaryutil.BigEndian.PutUint16(portalPort)},
			&expr.Redir{RegisterProtoMin: 1},
		})
	}
}

// filter drops what is not let through, silently.
func (r rules) filter(c *nftables.Conn) {
	table := c.AddTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: tableName})
	drop := nftables.ChainPolicyDrop
	forward := c.AddChain(&nftables.Chain{
		Name: "forward", Table: table, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookForward,
		Priority: nftables.ChainPriorityFilter, Policy: &drop,
	})
	input := c.AddChain(&nftables.Chain{
		Name: "input", Table: table, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookInput,
		Priority: nftables.ChainPriorityFilter, Policy: &drop,
	})
	fromLAN, accept := interfaceIs(expr.MetaKeyIIFNAME, lanName), verdict(expr.VerdictAccept)
	add(c, input, established(), accept)
	add(c, input, fromLAN, accept)
	add(c, input, interfaceIs(expr.MetaKeyIIFNAME, "lo"), accept)
	add(c, input, protocolIs(unix.IPPROTO_ICMPV6), accept) // neighbour discovery
	if r.brokenIPv4 {
		add(c, forward, familyIs(unix.NFPROTO_IPV4), verdict(expr.VerdictDrop))
	}
	if r.block == BlockUDP {
		add(c, forward, protocolIs(unix.IPPROTO_UDP), verdict(expr.VerdictDrop))
	}
	if r.model { // it decides; what it does not see is dropped or let out below
		add(c, forward, interfaceIs(expr.MetaKeyIIFNAME, modelName), accept)
		add(c, forward, interfaceIs(expr.MetaKeyIIFNAME, wanName), interfaceIs(expr.MetaKeyOIFNAME, modelName), accept)
	}
	switch r.block {
	case BlockNothing:
		add(c, forward, fromLAN, accept)
		if r.portMapping {
			add(c, forward, translated(), accept)
		}
		if r.nat == nil {
			add(c, forward, familyIs(unix.NFPROTO_IPV4), accept)
		}
		if r.ipv6 == OpenIPv6 {
			add(c, forward, familyIs(unix.NFPROTO_IPV6), accept)
		}
	case BlockUDP:
		add(c, forward, fromLAN, accept)
	case BlockAllBut443:
		add(c, forward, fromLAN, protocolIs(unix.IPPROTO_TCP), portIs(443), accept)
	}
	add(c, forward, established(), accept)
}

// add appends a rule of several parts.
func add(c *nftables.Conn, chain *nftables.Chain, parts ...[]expr.Any) {
	r := &nftables.Rule{Table: chain.Table, Chain: chain}
	for _, p := range parts {
		r.Exprs = append(r.Exprs, p...)
	}
	c.AddRule(r)
}

func one(e expr.Any) []expr.Any             { return []expr.Any{e} }
func verdict(k expr.VerdictKind) []expr.Any { return one(&expr.Verdict{Kind: k}) }
func equal(data []byte) *expr.Cmp           { return &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: data} }
func meta(key expr.MetaKey) *expr.Meta      { return &expr.Meta{Key: key, Register: 1} }
func familyIs(family byte) []expr.Any {
	return []expr.Any{meta(expr.MetaKeyNFPROTO), equal([]byte{family})}
}
func protocolIs(protocol byte) []expr.Any {
	return []expr.Any{meta(expr.MetaKeyL4PROTO), equal([]byte{protocol})}
}
func field(at, length uint32, base expr.PayloadBase) *expr.Payload {
	return &expr.Payload{DestRegister: 1, Base: base, Offset: at, Len: length}
}

// portIs matches the destination port, after protocolIs.
func portIs(port uint16) []expr.Any {
	return []expr.Any{field(2, 2, expr.PayloadBaseTransportHeader), equal(binaryutil.BigEndian.PutUint16(port))}
}

func interfaceIs(key expr.MetaKey, name string) []expr.Any {
	padded := make([]byte, unix.IFNAMSIZ)
	copy(padded, name)
	return []expr.Any{meta(key), equal(padded)}
}

// established matches what belongs to a connection that was let through.
func established() []expr.Any {
	return anyBit(expr.CtKeySTATE, expr.CtStateBitESTABLISHED|expr.CtStateBitRELATED)
}

// translated matches connections whose destination a port mapping has translated: IPS_DST_NAT in the kernel's nf_conntrack_common.h.
func translated() []expr.Any { return anyBit(expr.CtKeySTATUS, 1<<5) }

func anyBit(key expr.CtKey, mask uint32) []expr.Any {
	return []expr.Any{
		&expr.Ct{Key: key, Register: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: binaryutil.NativeEndian.PutUint32(mask), Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: make([]byte, 4)},
	}
}

// swallow has the box send no ICMP message that tells a next hop's MTU (RFC 1191, RFC 8201) if it is this one.
func (h *Host) swallow(mtu int) error {
	c, err := nftables.New(nftables.WithNetNSFd(int(h.ns.Fd())))
	if err != nil {
		return err
	}
	table := c.AddTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: "silence"})
	output := c.AddChain(&nftables.Chain{
		Name: "output", Table: table, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookOutput, Priority: nftables.ChainPriorityFilter,
	})
	const icmp = expr.PayloadBaseTransportHeader
	add(c, output, protocolIs(unix.IPPROTO_ICMP), []expr.Any{field(0, 2, icmp), equal([]byte{3, 4})},
		[]expr.Any{field(6, 2, icmp), equal(binaryutil.BigEndian.PutUint16(uint16(mtu)))}, verdict(expr.VerdictDrop))
	add(c, output, protocolIs(unix.IPPROTO_ICMPV6), []expr.Any{field(0, 1, icmp), equal([]byte{2})},
		[]expr.Any{field(4, 4, icmp), equal(binaryutil.BigEndian.PutUint32(uint32(mtu)))}, verdict(expr.VerdictDrop))
	if err := c.Flush(); err != nil {
		return fmt.Errorf("%s: nftables: %w", h.Name, err)
	}
	return nil
}
