package router

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	mdnetlink "github.com/mdlayher/netlink"
	"go4.org/netipx"
	"golang.org/x/sys/unix"
)

// term is a part of a rule, twice: as nft(8) reads and as the kernel takes it. The text is what rules are compared by, and what the file for
// "nft -f" has; a test has nft say that both mean the same.
type term struct {
	text  string
	exprs []expr.Any
}

// rule is a list of terms, of which the last is the verdict.
type rule []term

func (r rule) String() string {
	var texts []string
	for _, t := range r {
		texts = append(texts, t.text)
	}
	return strings.Join(texts, " ")
}

// chain is a base chain that accepts what none of its rules decides.
type chain struct {
	name     string
	kind     nftables.ChainType
	hook     *nftables.ChainHook
	hookName string
	priority int32
	rules    []rule
}

func (c *chain) add(terms ...term) { c.rules = append(c.rules, terms) }

// addressSet is a named set of one family's addresses, for more prefixes than one would go through in turn.
type addressSet struct {
	name   string
	family netip.Addr
	ranges []netipx.IPRange // none touches another
}

func newAddressSet(name string, family netip.Addr, prefixes []netip.Prefix) *addressSet {
	var b netipx.IPSetBuilder
	for _, p := range prefixes {
		b.AddPrefix(p)
	}
	all, err := b.IPSet()
	if err != nil { // prefixes were checked
		return &addressSet{name: name, family: family}
	}
	return &addressSet{name, family, all.Ranges()}
}

// kind is the type of the set's elements, to nft and to the kernel.
func (s *addressSet) kind() (string, nftables.SetDatatype) {
	if s.family.Is4() {
		return "ipv4_addr", nftables.TypeIPAddr
	}
	return "ipv6_addr", nftables.TypeIP6Addr
}

func (s *addressSet) String() string {
	var elements []string
	for _, r := range s.ranges {
		if p, ok := r.Prefix(); ok {
			elements = append(elements, p.String())
		} else {
			elements = append(elements, r.String())
		}
	}
	kind, _ := s.kind()
	return fmt.Sprintf("\tset %s {\n\t\ttype %s\n\t\tflags interval\n\t\telements = { %s }\n\t}\n", s.name, kind, strings.Join(elements, ", "))
}

// elementsAtOnce is how many ranges fit into one message, whose attributes are 64 KiB long at most.
const elementsAtOnce = 400

func (s *addressSet) add(c *nftables.Conn, t *nftables.Table) error {
	_, kind := s.kind()
	set := &nftables.Set{Table: t, Name: s.name, KeyType: kind, Interval: true}
	if err := c.AddSet(set, nil); err != nil {
		return err
	}
	for some := range slices.Chunk(s.ranges, elementsAtOnce) {
		var elements []nftables.SetElement
		for _, r := range some {
			elements = append(elements, nftables.SetElement{Key: r.From().AsSlice()})
			if after := r.To().Next(); after.IsValid() { // none: the range goes on to the end of all addresses
				elements = append(elements, nftables.SetElement{Key: after.AsSlice(), IntervalEnd: true})
			}
		}
		if err := c.SetAddElements(set, elements); err != nil {
			return err
		}
	}
	return nil
}

// toAny matches destinations in a set, after familyOf.
func toAny(s *addressSet) term {
	family, at, length := "ip6", uint32(24), uint32(16)
	if s.family.Is4() {
		family, at, length = "ip", 16, 4
	}
	return term{fmt.Sprintf("%s daddr @%s", family, s.name), []expr.Any{network(at, length), &expr.Lookup{SourceRegister: 1, SetName: s.name}}}
}

// table is a table of the family inet.
type table struct {
	name   string
	sets   []*addressSet
	chains []*chain
}

// batchBuffer is how many bytes of a batch, and of the kernel's answers to it, the socket may hold.
const batchBuffer = 64 << 20

// newBatch is a connection for batches of any length that a State may need.
func newBatch() (*nftables.Conn, error) {
	return nftables.New(nftables.WithSockOptions(func(c *mdnetlink.Conn) error {
		return errors.Join(c.SetWriteBuffer(batchBuffer), c.SetReadBuffer(batchBuffer))
	}))
}

// String is the table as "nft -f" reads it. Loaded, it replaces one of its name.
func (t table) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "table inet %s\ndelete table inet %s\ntable inet %s {\n", t.name, t.name, t.name)
	for _, s := range t.sets {
		b.WriteString(s.String())
	}
	for _, c := range t.needed() {
		fmt.Fprintf(&b, "\tchain %s {\n\t\ttype %s hook %s priority %d; policy accept;\n", c.name, c.kind, c.hookName, c.priority)
		for _, r := range c.rules {
			fmt.Fprintf(&b, "\t\t%s\n", r)
		}
		b.WriteString("\t}\n")
	}
	b.WriteString("}\n")
	return b.String()
}

// needed are the chains that the kernel has to have: those with rules, and all of NAT, which needs each of its hooks for answers to be translated
// back.
func (t table) needed() []*chain {
	return slices.DeleteFunc(slices.Clone(t.chains), func(c *chain) bool { return len(c.rules) == 0 && c.kind != nftables.ChainTypeNAT })
}

// empty reports whether the table would decide nothing.
func (t table) empty() bool {
	for _, c := range t.chains {
		if len(c.rules) > 0 {
			return false
		}
	}
	return true
}

// load puts the table in place of one of its name, in one step: there is no moment with neither.
func (t table) load() error {
	c, err := newBatch()
	if err != nil {
		return explainFirewall(t.name, err)
	}
	kernel := &nftables.Table{Family: nftables.TableFamilyINet, Name: t.name}
	c.AddTable(kernel) // so that there is one to delete
	c.DelTable(kernel)
	c.AddTable(kernel)
	for _, s := range t.sets {
		if err := s.add(c, kernel); err != nil {
			return fmt.Errorf("nftables table %s: set %s: %w", t.name, s.name, err)
		}
	}
	for _, ch := range t.needed() {
		base := c.AddChain(&nftables.Chain{
			Name: ch.name, Table: kernel, Type: ch.kind, Hooknum: ch.hook, Priority: nftables.ChainPriorityRef(nftables.ChainPriority(ch.priority)),
		})
		for _, r := range ch.rules {
			var all []expr.Any
			for _, part := range r {
				all = append(all, part.exprs...)
			}
			c.AddRule(&nftables.Rule{Table: kernel, Chain: base, Exprs: all})
		}
	}
	return explainFirewall(t.name, c.Flush())
}

// explainFirewall says what a person can do.
func explainFirewall(name string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("nftables table %s: %w; run as root, or give the program CAP_NET_ADMIN", name, ErrPermission)
	case errors.Is(err, unix.EAFNOSUPPORT), errors.Is(err, unix.EPROTONOSUPPORT), errors.Is(err, unix.EINVAL) && !tablesWork():
		return fmt.Errorf("nftables table %s: %w (%v); load the module with \"modprobe nf_tables\"", name, ErrNoFirewall, err)
	}
	return fmt.Errorf("nftables table %s: %w", name, err)
}

// tablesWork reports whether the kernel has nftables at all.
func tablesWork() bool {
	c, err := nftables.New()
	if err != nil {
		return false
	}
	_, err = c.ListTablesOfFamily(nftables.TableFamilyINet)
	return err == nil
}

// tableExists reports whether there is a table of family inet of that name.
func tableExists(name string) (bool, error) {
	c, err := nftables.New()
	if err != nil {
		return false, err
	}
	_, err = c.ListTableOfFamily(name, nftables.TableFamilyINet)
	if errors.Is(err, unix.ENOENT) {
		return false, nil
	}
	return err == nil, err
}

// removeTable deletes the table of that name, if there is one. A kernel without nftables has none.
func removeTable(name string) error {
	there, err := tableExists(name)
	if err != nil && !tablesWork() {
		return nil
	}
	if err != nil {
		return explainFirewall(name, err)
	}
	if !there {
		return nil
	}
	c, err := nftables.New()
	if err != nil {
		return explainFirewall(name, err)
	}
	c.DelTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: name})
	if err := c.Flush(); !errors.Is(err, unix.ENOENT) { // somebody else was faster
		return explainFirewall(name, err)
	}
	return nil
}

func equal(data ...byte) *expr.Cmp { return &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: data} }
func differ(data ...byte) *expr.Cmp {
	return &expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: data}
}
func meta(key expr.MetaKey) *expr.Meta { return &expr.Meta{Key: key, Register: 1} }

func interfaceName(name string) []byte {
	padded := make([]byte, unix.IFNAMSIZ)
	copy(padded, name)
	return padded
}

func iif(name string) term {
	return term{fmt.Sprintf("iifname %q", name), []expr.Any{meta(expr.MetaKeyIIFNAME), equal(interfaceName(name)...)}}
}

func notIif(name string) term {
	return term{fmt.Sprintf("iifname != %q", name), []expr.Any{meta(expr.MetaKeyIIFNAME), differ(interfaceName(name)...)}}
}

func oif(name string) term {
	return term{fmt.Sprintf("oifname %q", name), []expr.Any{meta(expr.MetaKeyOIFNAME), equal(interfaceName(name)...)}}
}

func notOif(name string) term {
	return term{fmt.Sprintf("oifname != %q", name), []expr.Any{meta(expr.MetaKeyOIFNAME), differ(interfaceName(name)...)}}
}

func marked() term {
	return term{fmt.Sprintf("meta mark %#x", Mark), []expr.Any{meta(expr.MetaKeyMARK), equal(binaryutil.NativeEndian.PutUint32(Mark)...)}}
}

func unmarked() term {
	return term{fmt.Sprintf("meta mark != %#x", Mark), []expr.Any{meta(expr.MetaKeyMARK), differ(binaryutil.NativeEndian.PutUint32(Mark)...)}}
}

// socketMarked matches what is for a socket of the agent's, which it looks up.
func socketMarked() term {
	return term{fmt.Sprintf("socket mark %#x", Mark), []expr.Any{
		&expr.Socket{Key: expr.SocketKeyMark, Register: 1}, equal(binaryutil.NativeEndian.PutUint32(Mark)...),
	}}
}

func setMark() term {
	return term{fmt.Sprintf("meta mark set %#x", Mark), []expr.Any{
		&expr.Immediate{Register: 1, Data: binaryutil.NativeEndian.PutUint32(Mark)}, &expr.Meta{Key: expr.MetaKeyMARK, SourceRegister: true, Register: 1},
	}}
}

func protocol(name string, number byte) term {
	return term{"meta l4proto " + name, []expr.Any{meta(expr.MetaKeyL4PROTO), equal(number)}}
}

func tcp() term    { return protocol("tcp", unix.IPPROTO_TCP) }
func udp() term    { return protocol("udp", unix.IPPROTO_UDP) }
func icmpv6() term { return protocol("icmpv6", unix.IPPROTO_ICMPV6) }

// ports come after tcp or udp.
func sourcePort(port uint16) term {
	return term{fmt.Sprintf("th sport %d", port), []expr.Any{transport(0, 2), equal(binaryutil.BigEndian.PutUint16(port)...)}}
}

func destinationPort(port uint16) term {
	return term{fmt.Sprintf("th dport %d", port), []expr.Any{transport(2, 2), equal(binaryutil.BigEndian.PutUint16(port)...)}}
}

// icmpv6Type comes after icmpv6.
func icmpv6Type(name string, number byte) term {
	return term{"icmpv6 type " + name, []expr.Any{transport(0, 1), equal(number)}}
}

// hopLimit comes after a match of IPv6.
func hopLimit(n byte) term {
	return term{fmt.Sprintf("ip6 hoplimit %d", n), []expr.Any{network(7, 1), equal(n)}}
}

func transport(at, length uint32) *expr.Payload {
	return &expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: at, Len: length}
}

func network(at, length uint32) *expr.Payload {
	return &expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: at, Len: length}
}

// familyOf matches the family of a.
func familyOf(a netip.Addr) term {
	if a.Is4() {
		return term{"meta nfproto ipv4", []expr.Any{meta(expr.MetaKeyNFPROTO), equal(unix.NFPROTO_IPV4)}}
	}
	return term{"meta nfproto ipv6", []expr.Any{meta(expr.MetaKeyNFPROTO), equal(unix.NFPROTO_IPV6)}}
}

// These come after familyOf.
func from(p netip.Prefix) term    { return address("saddr", p, expr.CmpOpEq) }
func notFrom(p netip.Prefix) term { return address("saddr", p, expr.CmpOpNeq) }
func to(p netip.Prefix) term      { return address("daddr", p, expr.CmpOpEq) }

func address(field string, p netip.Prefix, op expr.CmpOp) term {
	p = p.Masked()
	family, at, length := "ip6", uint32(8), uint32(16)
	if p.Addr().Is4() {
		family, at, length = "ip", 12, 4
	}
	if field == "daddr" {
		at += length
	}
	value, sign := p.String(), ""
	if p.IsSingleIP() {
		value = p.Addr().String()
	}
	if op == expr.CmpOpNeq {
		sign = "!= "
	}
	exprs := []expr.Any{network(at, length)}
	if !p.IsSingleIP() {
		exprs = append(exprs, &expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: length, Mask: netipx.PrefixIPNet(p).Mask, Xor: make([]byte, length)})
	}
	exprs = append(exprs, &expr.Cmp{Op: op, Register: 1, Data: p.Addr().AsSlice()})
	return term{fmt.Sprintf("%s %s %s%s", family, field, sign, value), exprs}
}

// notToThisHost matches what the kernel will not deliver to this host.
func notToThisHost() term {
	return term{"fib daddr type != local", []expr.Any{
		&expr.Fib{Register: 1, FlagDADDR: true, ResultADDRTYPE: true}, differ(binaryutil.NativeEndian.PutUint32(unix.RTN_LOCAL)...),
	}}
}

// toThisHost matches what the kernel will deliver to this host.
func toThisHost() term {
	return term{"fib daddr type local", []expr.Any{
		&expr.Fib{Register: 1, FlagDADDR: true, ResultADDRTYPE: true}, equal(binaryutil.NativeEndian.PutUint32(unix.RTN_LOCAL)...),
	}}
}

// clampSegments lowers the maximum segment size of a connection that is opened to what the narrower of its two ways holds.
func clampSegments() []term {
	const flags, syn, rst, maxseg = 13, 0x02, 0x04, 2
	return []term{
		tcp(),
		{"tcp flags & (syn | rst) == syn", []expr.Any{
			transport(flags, 1), &expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 1, Mask: []byte{syn | rst}, Xor: []byte{0}}, equal(syn),
		}},
		{"tcp option maxseg size set rt mtu", []expr.Any{
			&expr.Rt{Register: 1, Key: expr.RtTCPMSS},
			&expr.Byteorder{SourceRegister: 1, DestRegister: 1, Op: expr.ByteorderHton, Len: 2, Size: 2},
			&expr.Exthdr{SourceRegister: 1, Type: maxseg, Offset: 2, Len: 2, Op: expr.ExthdrOpTcpopt},
		}},
	}
}

// redirected matches packets of connections whose destination was translated on this host.
func redirected() term {
	const destinationTranslated = 1 << 5 // IPS_DST_NAT
	return term{"ct status dnat", []expr.Any{
		&expr.Ct{Key: expr.CtKeySTATUS, Register: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: binaryutil.NativeEndian.PutUint32(destinationTranslated), Xor: make([]byte, 4)},
		differ(0, 0, 0, 0),
	}}
}

func accept() term { return term{"accept", []expr.Any{&expr.Verdict{Kind: expr.VerdictAccept}}} }
func drop() term   { return term{"drop", []expr.Any{&expr.Verdict{Kind: expr.VerdictDrop}}} }

func masquerade() term { return term{"masquerade", []expr.Any{&expr.Masq{}}} }

// refusal answers with ICMP "administratively prohibited" of the packet's family, which programs take for final: "no route" they may wait out.
func refusal() term {
	return term{"reject with icmpx type admin-prohibited",
		[]expr.Any{&expr.Reject{Type: unix.NFT_REJECT_ICMPX_UNREACH, Code: unix.NFT_REJECT_ICMPX_ADMIN_PROHIBITED}}}
}

// reset answers with a TCP reset; it comes after tcp.
func reset() term {
	return term{"reject with tcp reset", []expr.Any{&expr.Reject{Type: unix.NFT_REJECT_TCP_RST}}}
}

// refuseOwn refuses this host's own packets. TCP is reset: an ICMP answer would come while the system call that opens the connection still runs, be
// taken for a hint only, and count when the first segment is repeated, a second later.
func (c *chain) refuseOwn(terms ...term) {
	c.add(append(slices.Clone(terms), tcp(), reset())...)
	c.add(append(slices.Clone(terms), refusal())...)
}

// destinationTo translates the destination to one address.
func destinationTo(a netip.Addr) term {
	return translation("dnat", expr.NATTypeDestNAT, netip.PrefixFrom(a, a.BitLen()))
}

// destinationInto and sourceInto translate one to one into p: the bits below its length stay.
func destinationInto(p netip.Prefix) term { return translation("dnat", expr.NATTypeDestNAT, p) }
func sourceInto(p netip.Prefix) term      { return translation("snat", expr.NATTypeSourceNAT, p) }

func translation(verb string, kind expr.NATType, p netip.Prefix) term {
	family, name := uint32(unix.NFPROTO_IPV6), "ip6"
	if p.Addr().Is4() {
		family, name = unix.NFPROTO_IPV4, "ip"
	}
	first := &expr.Immediate{Register: 1, Data: p.Masked().Addr().AsSlice()}
	if p.IsSingleIP() {
		return term{fmt.Sprintf("%s %s to %s", verb, name, p.Addr()), []expr.Any{first, &expr.NAT{Type: kind, Family: family, RegAddrMin: 1}}}
	}
	last := &expr.Immediate{Register: 2, Data: netipx.PrefixLastIP(p).AsSlice()}
	return term{fmt.Sprintf("%s %s prefix to %s", verb, name, p.Masked()), []expr.Any{
		first, last, &expr.NAT{Type: kind, Family: family, RegAddrMin: 1, RegAddrMax: 2, Prefix: true},
	}}
}
