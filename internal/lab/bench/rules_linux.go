package main

import (
	"fmt"
	"os"
	"strings"
	"time"

	"warren/internal/lab"
	"warren/internal/lab/warrennet"
)

// rulesRounds is how many rounds make a run: the differences are small, and other things that the machine does are not.
const rulesRounds = 3

// rules measures what the packet filter costs a TCP stream on a direct path: with a grant of everything, and with few and with many rules, one of which
// allows the stream. The policies take turns, so that each round compares what was measured close together.
func (b *bench) rules() error {
	n, done, err := b.network()
	if err != nil {
		return err
	}
	defer done()
	x, y, err := b.pair(n, lab.None, "direct")
	if err != nil {
		return err
	}
	st, err := y.Status(b.ctx)
	if err != nil {
		return err
	}
	counts := []int{0, 10, 10_000}
	bits, cpu, delay := make([]figures, len(counts)), make([]figures, len(counts)), make([]figures, len(counts))
	for round := range rulesRounds * b.runs {
		for i := range counts {
			i = (i + round) % len(counts) // none is always the first or the last
			took, err := b.rule(n, counts[i], x, y)
			if err != nil {
				return fmt.Errorf("%d rules: %w", counts[i], err)
			}
			delay[i] = append(delay[i], float64(took.Microseconds())/1000)
			rate, used, err := b.streamCost(x, y, st.Self.Addresses[0])
			if err != nil {
				return fmt.Errorf("%d rules: %w", counts[i], err)
			}
			bits[i], cpu[i] = append(bits[i], rate), append(cpu[i], used)
		}
	}
	fmt.Println("\none TCP stream under a policy, direct path, none-none")
	for i, count := range counts {
		bits[i].print(fmt.Sprintf("  throughput, %s", ruleText(count)), "Gbit/s")
	}
	for i, count := range counts {
		cpu[i].print(fmt.Sprintf("  CPU of both agents, %s", ruleText(count)), "s/GB")
	}
	for i, count := range counts[1:] {
		lost, more := make(figures, len(bits[0])), make(figures, len(bits[0]))
		for run := range lost {
			lost[run], more[run] = 100*(1-bits[i+1][run]/bits[0][run]), 100*(cpu[i+1][run]/cpu[0][run]-1)
		}
		lost.print(fmt.Sprintf("  throughput lost with %s, round by round", ruleText(count)), "%")
		more.print(fmt.Sprintf("  more CPU with %s, round by round", ruleText(count)), "%")
	}
	for i, count := range counts {
		delay[i].print(fmt.Sprintf("  from \"policy set\" until both devices have %s", ruleText(count)), "ms")
	}
	return nil
}

// streamCost gives the rate of a TCP stream in Gbit/s, and what both agents took for it, in seconds of CPU for 10⁹ bytes.
func (b *bench) streamCost(x, y *warrennet.Device, address string) (rate, cpu float64, err error) {
	before, err := cpuOf(x, y)
	if err != nil {
		return 0, 0, err
	}
	n, took, err := warrennet.Stream(b.ctx, x.Host, y.Host, address, b.stream)
	if err != nil {
		return 0, 0, err
	}
	after, err := cpuOf(x, y)
	gigabytes := float64(n) / 1e9
	return 8 * gigabytes / took.Seconds(), (after - before).Seconds() / gigabytes, err
}

// cpuOf gives what agents have taken so far.
func cpuOf(devices ...*warrennet.Device) (sum time.Duration, err error) {
	for _, d := range devices {
		u, err := usageOf(d.Daemon())
		if err != nil {
			return 0, err
		}
		sum += u.CPU
	}
	return sum, nil
}

func ruleText(count int) string {
	if count == 0 {
		return "a grant of everything"
	}
	return fmt.Sprintf("%d rules", count)
}

// rule puts a policy with so many rules into force, and tells how long it took until both devices had it.
func (b *bench) rule(n *warrennet.Network, count int, devices ...*warrennet.Device) (time.Duration, error) {
	file, err := os.CreateTemp("", "warren-policy")
	if err != nil {
		return 0, err
	}
	defer os.Remove(file.Name())
	_, err = file.WriteString(rulesPolicy(count))
	if closed := file.Close(); err == nil {
		err = closed
	}
	if err != nil {
		return 0, err
	}
	began := time.Now()
	if err := n.Admin(b.ctx, nil, "policy", "set", file.Name()); err != nil {
		return 0, err
	}
	var st struct{ Revision uint64 }
	if err := n.Admin(b.ctx, &st, "status"); err != nil {
		return 0, err
	}
	for _, d := range devices {
		if _, err := d.Await(b.ctx, "aware of the policy", func(s *warrennet.Status) bool { return s.Coordinator.Revision >= st.Revision }); err != nil {
			return 0, err
		}
	}
	return time.Since(began), nil
}

// rulesPolicy has so many ports and ranges that do not touch one another, in grants of a hundred; the last of them allows the stream. 0: everything
// is allowed.
func rulesPolicy(count int) string {
	const each = 100
	flows := []string{`"*"`}
	if count > 0 {
		flows = []string{`"tcp:1024-65535"`} // any port that the stream may take
		for i := range count - 1 {
			// Odd ports below 1024, none of which touches another; after 1536 of them they come again, in grants of other names.
			protocol := []string{"tcp", "udp", "sctp"}[i%3]
			flows = append(flows, fmt.Sprintf(`"%s:%d"`, protocol, 1+2*(i/3%512)))
		}
	}
	var grants []string
	for len(flows) > 0 {
		n := min(each, len(flows))
		grants = append([]string{fmt.Sprintf(`{"name": "rule %d", "src": ["autogroup:member"], "dst": ["autogroup:self"], "ip": [%s]}`, len(grants), strings.Join(flows[:n], ", "))}, grants...)
		flows = flows[n:]
	}
	return `{"grants": [` + strings.Join(grants, ",\n") + "]}\n"
}
