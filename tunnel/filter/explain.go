package filter

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"warren/internal/ipproto"
	pb "warren/proto/warrenv1"
)

// maxMisses is how many grants Explain tells of when none allows the flow.
const maxMisses = 3

// Miss is a grant that does not allow a flow, and what it would need for that.
type Miss struct {
	Grant string
	// Lacks names the parts: "source", "destination", "flow".
	Lacks []string
	// Text says the same to a person.
	Text string
	cost int
}

// Explain gives the ids of the grants that allow a new flow, in their order, or else those that come closest, best first. Grants that have
// nothing to do with either address are not close.
func Explain(grants []*pb.Grant, src, dst netip.Addr, f ipproto.Flow) (allowed []string, nearest []Miss) {
	best := map[string]Miss{}
	for _, g := range grants {
		m := examine(g, src, dst, f)
		if m.cost == 0 {
			allowed = append(allowed, m.Grant)
		}
		if old, ok := best[m.Grant]; !ok || m.cost < old.cost {
			best[m.Grant] = m
		}
	}
	if allowed != nil {
		return uniq(allowed), nil
	}
	for _, g := range grants {
		if m := best[g.GetId()]; m.cost > 0 && !(slices.Contains(m.Lacks, "source") && slices.Contains(m.Lacks, "destination")) {
			nearest = append(nearest, m)
		}
		delete(best, g.GetId())
	}
	slices.SortStableFunc(nearest, func(a, b Miss) int { return cmp.Compare(a.cost, b.cost) })
	return nil, nearest[:min(len(nearest), maxMisses)]
}

// uniq drops repetitions: a grant may come in pieces.
func uniq(list []string) (out []string) {
	for _, s := range list {
		if !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out
}

// examine says what a grant lacks. Another port is the least of it, another protocol comes next, another address is most.
func examine(g *pb.Grant, src, dst netip.Addr, f ipproto.Flow) Miss {
	m := Miss{Grant: g.GetId()}
	var words []string
	if !contains(g.GetSources(), src) {
		m.cost += 4
		m.Lacks, words = append(m.Lacks, "source"), append(words, fmt.Sprintf("%s is not among its sources", src))
	}
	if !contains(g.GetDestinations(), dst) {
		m.cost += 4
		m.Lacks, words = append(m.Lacks, "destination"), append(words, fmt.Sprintf("%s is not among its destinations", dst))
	}
	sameProtocol, allowed := false, false
	for _, own := range g.GetFlows() {
		p := own.GetProtocol()
		sameProtocol = sameProtocol || p == uint32(f.Protocol)
		allowed = allowed || p == 0 || p == uint32(f.Protocol) &&
			(!ipproto.HasPorts(f.Protocol) || uint32(f.Port) >= own.GetFirstPort() && uint32(f.Port) <= own.GetLastPort())
	}
	if !allowed {
		if m.cost += 2; sameProtocol {
			m.cost--
		}
		m.Lacks, words = append(m.Lacks, "flow"), append(words, "it allows "+flowsText(g.GetFlows())+" only")
	}
	m.Text = strings.Join(words, ", and ")
	return m
}

func contains(list []*pb.Prefix, a netip.Addr) bool {
	return slices.ContainsFunc(list, func(m *pb.Prefix) bool {
		p, err := prefix(m)
		return err == nil && p.Contains(a)
	})
}

// flowsText lists a few.
func flowsText(flows []*pb.Flow) string {
	const few = 6
	var out []string
	for _, f := range flows[:min(len(flows), few)] {
		out = append(out, flowText(f))
	}
	if more := len(flows) - few; more > 0 {
		out = append(out, fmt.Sprintf("%d more", more))
	}
	if len(out) == 0 {
		return "nothing"
	}
	return strings.Join(out, ", ")
}

func flowText(f *pb.Flow) string {
	name := ipproto.Name(uint8(f.GetProtocol()))
	switch {
	case !ipproto.HasPorts(uint8(f.GetProtocol())):
		return name
	case f.GetFirstPort() == f.GetLastPort():
		return fmt.Sprintf("%s/%d", name, f.GetFirstPort())
	case f.GetFirstPort() == 0 && f.GetLastPort() == 65535:
		return name
	}
	return fmt.Sprintf("%s/%d-%d", name, f.GetFirstPort(), f.GetLastPort())
}
