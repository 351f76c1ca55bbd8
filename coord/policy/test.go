package policy

import (
	"strconv"
	"strings"
	"time"
)

func (r *reader) readTests(v value) {
	for _, e := range r.list(v) {
		t := Test{ID: e.part, At: e.at()}
		proto, hasSrc := "", false
		var accept, deny value
		src := func(v value) {
			if s, ok := r.string(v); ok {
				t.Src, hasSrc = r.selector(v, s, sourceKinds(), "src")
			}
			hasSrc = true
		}
		keep := func(at *value) func(value) { return func(v value) { *at = v } }
		ok := r.object(e,
			field{"src", src}, field{"user", src},
			field{"proto", func(v value) {
				if s, ok := r.string(v); ok {
					if _, fix, err := parseProtocol(s); err != nil {
						r.fail(v, fix, "%v", err)
						return
					}
					proto = s
				}
			}},
			field{"accept", keep(&accept)}, field{"allow", keep(&accept)}, field{"deny", keep(&deny)},
			field{"srcPostureAttrs", func(v value) { t.Facts = r.readFacts(v) }},
			field{"at", func(v value) { t.Time = r.readTime(v) }},
			field{"comment", func(v value) { r.string(v) }},
		)
		if !ok {
			continue
		}
		if !hasSrc {
			r.fail(e, "write \"src\": \"ann\", for example", "no src")
		}
		if accept.Value == nil && deny.Value == nil {
			r.fail(e, "write \"accept\": [\"tag:web:443\"], for example", "the test states nothing")
		}
		t.Accept, t.Deny = r.testTargets(accept, proto), r.testTargets(deny, proto)
		r.Tests = append(r.Tests, t)
	}
}

func (r *reader) readFacts(v value) map[string]string {
	out := map[string]string{}
	for _, m := range r.members(v, false) {
		if s, ok := r.scalar(m.value); ok {
			out[m.name] = s
		}
	}
	return out
}

func (r *reader) readTime(v value) time.Time {
	s, ok := r.string(v)
	if !ok {
		return time.Time{}
	}
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		r.fail(v, "write a date, a time and the distance from UTC, such as 2030-12-31T18:00:00+01:00, or Z for UTC", "%s is not a time", quote(s))
	}
	return t
}

// testTargets reads "host:port", with one port or "*".
func (r *reader) testTargets(v value, proto string) (out []TestTarget) {
	if v.Value == nil {
		return nil
	}
	for _, e := range r.list(v) {
		s, ok := r.string(e)
		if !ok {
			continue
		}
		t, ok := r.target(e, s)
		if !ok {
			continue
		}
		if strings.ContainsAny(t.ports, ",-") {
			r.fail(e, "write one line for each port", "a test asks about one port, not %s", quote(t.ports))
			continue
		}
		flows, fix, err := testFlows(proto, t.ports)
		if err != nil {
			r.fail(e, fix, "%v", err)
			continue
		}
		if r.targets++; r.targets == maxTargets+1 {
			r.fail(e, "", "more than %d destinations in tests", maxTargets)
		}
		out = append(out, TestTarget{t.Selector, flows, s, e.at()})
	}
	return out
}

// testFlows gives what a test tries. Without a protocol that is TCP and UDP, and with port * ICMP too.
func testFlows(proto, ports string) ([]Flow, string, error) {
	flows, fix, err := parseFlows(proto, ports)
	if err != nil || proto != "" {
		return flows, fix, err
	}
	if _, err := strconv.Atoi(ports); err == nil {
		flows = flows[:2]
	}
	return flows, "", nil
}
