package compile

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"strings"
	"testing"

	"warren/coord/policy"
)

// company is a network of many devices: four in five belong to users, who are in groups, the others have tags; some are gateways.
func company(devices int) Directory {
	r := rand.New(rand.NewPCG(1, 2))
	dir := Directory{
		Prefixes: []netip.Prefix{netip.MustParsePrefix("100.64.0.0/10"), netip.MustParsePrefix("fd00:1::/48")}, Users: map[string]User{},
	}
	for i := range devices {
		host := uint32(i)*7 + 2
		d := Device{
			ID: ID{byte(i >> 16), byte(i >> 8), byte(i), 1}, Name: fmt.Sprintf("device-%d", i),
			Addresses: []netip.Addr{
				netip.AddrFrom4([4]byte{100, 64 | byte(host>>16), byte(host >> 8), byte(host)}),
				netip.AddrFrom16([16]byte{0xfd, 0, 0, 1, 13: byte(host >> 16), 14: byte(host >> 8), 15: byte(host)}),
			},
			Facts: map[string]string{"node:os": []string{"linux", "macos", "windows"}[i%3]},
		}
		if i%5 == 0 {
			d.Tags = []string{fmt.Sprintf("t%d", r.IntN(200))}
			if i%500 == 0 {
				d.Routes = []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i / 500), 0, 0}), 16)}
			}
		} else {
			d.Owner = fmt.Sprintf("user%d", r.IntN(devices/2))
		}
		dir.Devices = append(dir.Devices, d)
	}
	return dir
}

// companyPolicy grants groups of users, and tags, ports on tags and on offices.
func companyPolicy(tb testing.TB, users, grants int) *policy.Policy {
	r := rand.New(rand.NewPCG(3, 4))
	var b strings.Builder
	b.WriteString("{\"groups\": {\n")
	for g := range 200 {
		fmt.Fprintf(&b, "\"group:g%d\": [", g)
		for range users / 20 {
			fmt.Fprintf(&b, "\"user%d\",", r.IntN(users))
		}
		b.WriteString("],\n")
	}
	b.WriteString("}, \"postures\": {\"posture:mac\": [\"node:os == 'macos'\"]}, \"grants\": [\n")
	for g := range grants {
		src, dst, extra := fmt.Sprintf("group:g%d", r.IntN(200)), fmt.Sprintf("tag:t%d", r.IntN(200)), ""
		switch g % 20 {
		case 0:
			src = fmt.Sprintf("tag:t%d", r.IntN(200))
		case 1:
			dst = fmt.Sprintf("10.%d.0.0/16", r.IntN(20))
		case 2:
			extra = "\"srcPosture\": [\"posture:mac\"], "
		case 3:
			src = "autogroup:member"
		}
		if g == 4 {
			src, dst = "autogroup:member", "autogroup:self"
		}
		fmt.Fprintf(&b, "{\"src\": [%q, \"user%d\"], \"dst\": [%q], %s\"ip\": [\"tcp:%d\"]},\n", src, r.IntN(users), dst, extra, 1+g)
	}
	b.WriteString("]}")
	return parse(tb, strings.ReplaceAll(b.String(), "\"autogroup:member\", \"user", "\"autogroup:member\", \"user"))
}

func allToAll(tb testing.TB) *policy.Policy { return parse(tb, string(policy.BuiltIn())) }

// reportHeap gives what f makes and keeps, in bytes.
func reportHeap(b *testing.B, f func() any) {
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	kept := f()
	runtime.GC()
	runtime.ReadMemStats(&after)
	b.ReportMetric(float64(after.HeapAlloc)-float64(before.HeapAlloc), "heap-B")
	runtime.KeepAlive(kept)
}

func BenchmarkCompile(b *testing.B) {
	for _, c := range []struct{ devices, grants int }{{1000, 100}, {10_000, 1000}} {
		dir, p := company(c.devices), companyPolicy(b, c.devices/2, c.grants)
		b.Run(fmt.Sprintf("%d-devices-%d-grants", c.devices, c.grants), func(b *testing.B) {
			for b.Loop() {
				New(p, dir, start)
			}
			reportHeap(b, func() any { return New(p, dir, start) })
		})
	}
	dir, p := company(10_000), allToAll(b)
	b.Run("10000-devices-all-to-all", func(b *testing.B) {
		for b.Loop() {
			New(p, dir, start)
		}
		reportHeap(b, func() any { return New(p, dir, start) })
	})
}

// BenchmarkViews is what all devices are told after a start, with all that is kept of it.
func BenchmarkViews(b *testing.B) {
	for name, p := range map[string]*policy.Policy{"1000-grants": companyPolicy(b, 5000, 1000), "all-to-all": allToAll(b)} {
		dir := company(10_000)
		b.Run("10000-devices-"+name, func(b *testing.B) {
			grants := 0
			for b.Loop() {
				c := New(p, dir, start)
				grants = 0
				for i := range dir.Devices {
					grants += len(c.ViewByPeer(dir.Devices[i].ID).Grants)
				}
			}
			b.ReportMetric(float64(grants)/float64(len(dir.Devices)), "grants/device")
			reportHeap(b, func() any {
				c := New(p, dir, start)
				views := []View{}
				for i := range dir.Devices {
					views = append(views, c.ViewByPeer(dir.Devices[i].ID))
				}
				return []any{c, views}
			})
		})
	}
}

// BenchmarkGroups is what all devices are told of the groups of users.
func BenchmarkGroups(b *testing.B) {
	groups := string(companyPolicy(b, 5000, 0).Text())
	everywhere := parse(b, strings.Replace(groups, "\"grants\": [", "\"grants\": [{\"src\": [\"*\"], \"dst\": [\"*\"], \"ip\": [\"*\"]}", 1))
	for name, p := range map[string]*policy.Policy{"1000-grants": companyPolicy(b, 5000, 1000), "all-to-all": everywhere} {
		dir := company(10_000)
		b.Run("10000-devices-"+name, func(b *testing.B) {
			c, users := New(p, dir, start), 0
			for b.Loop() {
				users = 0
				for i := range dir.Devices {
					users += len(c.Groups(dir.Devices[i].ID).Users)
				}
			}
			b.ReportMetric(float64(users)/float64(len(dir.Devices)), "users/device")
		})
	}
}

// BenchmarkChange is one device that changes, and its new view.
func BenchmarkChange(b *testing.B) {
	for name, p := range map[string]*policy.Policy{"1000-grants": companyPolicy(b, 5000, 1000), "all-to-all": allToAll(b)} {
		dir := company(10_000)
		for what, change := range map[string]func(*Device, int){
			"tag":     func(d *Device, i int) { d.Tags = [][]string{nil, {"t7"}}[i%2] },
			"facts":   func(d *Device, i int) { d.Facts = map[string]string{"node:os": []string{"macos", "linux"}[i%2]} },
			"address": func(d *Device, i int) { d.Addresses[0] = netip.AddrFrom4([4]byte{100, 127, byte(i), 1}) },
			"name":    func(d *Device, i int) { d.Name = fmt.Sprint(i) },
		} {
			b.Run(fmt.Sprintf("10000-devices-%s-%s", name, what), func(b *testing.B) {
				c := New(p, dir, start)
				d := dir.Devices[1]
				d.Addresses = append([]netip.Addr(nil), d.Addresses...)
				changed, i := 0, 0
				for b.Loop() {
					i++
					change(&d, i)
					changed += len(c.SetDevice(d).Changed)
					c.View(d.ID)
				}
				b.ReportMetric(float64(changed)/float64(i), "changed/op")
			})
		}
	}
}

// BenchmarkSetPolicy puts a policy into force that differs in one grant.
func BenchmarkSetPolicy(b *testing.B) {
	dir, one, other := company(10_000), companyPolicy(b, 5000, 1000), companyPolicy(b, 5000, 999)
	c := New(one, dir, start)
	i := 0
	for b.Loop() {
		i++
		c.SetPolicy([]*policy.Policy{one, other}[i%2], start)
	}
}

func BenchmarkExplain(b *testing.B) {
	dir, p := company(10_000), companyPolicy(b, 5000, 1000)
	c := New(p, dir, start)
	for b.Loop() {
		c.Explain(Question{Src: End{Device: dir.Devices[1].ID}, Dst: End{Device: dir.Devices[5].ID}, Protocol: 6, Port: 9999}, start)
	}
}

// BenchmarkDiff compares policies that differ in one grant, and in all.
func BenchmarkDiff(b *testing.B) {
	dir, one, other := company(10_000), companyPolicy(b, 5000, 1000), companyPolicy(b, 5000, 999)
	for name, next := range map[string]*policy.Policy{"one-grant": other, "everything": allToAll(b)} {
		b.Run("10000-devices-1000-grants-"+name, func(b *testing.B) {
			for b.Loop() {
				d := Diff(one, next, dir, dir, start)
				b.ReportMetric(float64(len(d.Changes)+d.More), "changes")
			}
		})
	}
}
