package flowlog

import (
	"cmp"
	"net/netip"
	"slices"
	"time"

	"warren/internal/ipproto"
	"warren/tunnel/filter"
)

// Bounds of what one interval may bring, in records.
const (
	maxPeer  = 32 // of one peer
	maxBatch = 1024
)

// batch turns what the filter tells in one interval into records: alike flows become one, and what is too much is counted. Which flows a peer
// is told by when it has too many is as good as drawn: the filter tells them in the order of a hash.
type batch struct {
	now     time.Time
	resolve func(id [32]byte) Identity
	merged  map[likeness]*Record
	peers   map[*filter.Peer]*share
}

// likeness is what flows have in common that become one record.
type likeness struct {
	kind      filter.Kind
	peer      *filter.Peer
	direction filter.Direction
	proto     uint8
	src       netip.Addr
	dst       netip.AddrPort
	grant     string
	reason    filter.Reason
}

// share is what a peer has of a batch.
type share struct {
	Identity
	records int
	omitted *Record
}

func newBatch(now time.Time, resolve func([32]byte) Identity) *batch {
	return &batch{now: now, resolve: resolve, merged: map[likeness]*Record{}, peers: map[*filter.Peer]*share{}}
}

func (b *batch) share(p *filter.Peer) *share {
	s := b.peers[p]
	if s == nil {
		s = &share{Identity: b.resolve(p.ID)}
		b.peers[p] = s
	}
	return s
}

// add takes a flow of which the filter tells.
func (b *batch) add(r *filter.Record) {
	like := likeness{r.Kind, r.Peer, r.Direction, r.Proto, r.Src.Addr(), r.Dst, r.Grant, r.Reason}
	if !ipproto.HasPorts(r.Proto) {
		like.dst = netip.AddrPortFrom(r.Dst.Addr(), 0)
	}
	if m := b.merged[like]; m != nil {
		m.Flows++
		m.SourcePort = 0
		m.count(&r.Traffic)
		if began := ago(b.now, r.Age); began.Before(m.Began) {
			m.Began = began
		}
		if last := ago(b.now, r.Idle); last.After(m.Last) {
			m.Last = last
		}
		return
	}
	s := b.share(r.Peer)
	if s.records >= maxPeer || len(b.merged) >= maxBatch {
		o := b.omission(s)
		o.count(&r.Traffic)
		switch r.Kind {
		case filter.Began:
			o.OmittedNew++
		case filter.Ended:
			o.OmittedEnded++
		case filter.Refused:
			o.OmittedRefused++
		}
		return
	}
	s.records++
	m := FromFilter(r, s.Identity, b.now)
	b.merged[like] = &m
}

// omission is the record of what a peer has too much of.
func (b *batch) omission(s *share) *Record {
	if s.omitted == nil {
		s.omitted = &Record{At: b.now, Kind: Omitted, Device: s.Device, User: s.User, Tags: s.Tags}
	}
	return s.omitted
}

// omit takes what the filter had too much of.
func (b *batch) omit(p *filter.Peer, o filter.Omitted) {
	r := b.omission(b.share(p))
	r.OmittedEnded += o.Ended
	r.OmittedRefused += o.Refused
	r.count(&o.Traffic)
}

// records gives all, in order of time.
func (b *batch) records() []Record {
	out := make([]Record, 0, len(b.merged))
	for _, m := range b.merged {
		out = append(out, *m)
	}
	for _, s := range b.peers {
		if s.omitted != nil {
			out = append(out, *s.omitted)
		}
	}
	slices.SortFunc(out, func(x, y Record) int {
		return cmp.Or(
			cmp.Compare(b2i(x.Kind == Omitted), b2i(y.Kind == Omitted)), x.Last.Compare(y.Last), cmp.Compare(x.Device, y.Device),
			x.Source.Compare(y.Source), x.Destination.Compare(y.Destination), cmp.Compare(x.DestinationPort, y.DestinationPort),
			cmp.Compare(x.Protocol, y.Protocol), cmp.Compare(x.SourcePort, y.SourcePort), cmp.Compare(x.Kind, y.Kind),
		)
	})
	return out
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}
