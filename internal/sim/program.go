package sim

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"time"

	"warren/internal/sim/linkmodel"
	"warren/internal/sim/natmodel"
	"warren/nat/path"
)

// program reads bytes. Where there are no more it reads zeros, of which each means the simplest choice.
type program struct{ b []byte }

func (p *program) byte() byte {
	if len(p.b) == 0 {
		return 0
	}
	x := p.b[0]
	p.b = p.b[1:]
	return x
}

// below gives a number below n.
func (p *program) below(n int) int { return int(p.byte()) % n }

// chance is true n times in 256.
func (p *program) chance(n byte) bool { return p.byte() > 255-n }

const (
	devicesMax = 6
	opsMax     = 60
	headBytes  = 80 // what a world takes at most
)

// Random is a program drawn from a seed.
func Random(seed uint64) []byte {
	r := rand.New(rand.NewPCG(seed, 0x70726f67))
	b := make([]byte, headBytes+4*r.IntN(opsMax))
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

// Run plays a program: a world, what befalls it, then peace, in which everything must come to the best path there is, and an idle hour. The
// error is the first violation.
func Run(b []byte) (Stats, error) {
	p := &program{b: b}
	w := build(p)
	w.run(time.Second)
	for i := 0; i < opsMax && len(p.b) > 0; i++ {
		w.op(p)
	}
	w.heal()
	w.run(directSlow + settled + time.Minute)
	w.tally()
	w.rest()
	return w.stats, w.failure
}

var began = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// build makes the world that the first bytes describe.
func build(p *program) *world {
	w := newWorld(began, uint64(binary.BigEndian.Uint16([]byte{p.byte(), p.byte()})))
	w.relays = []*relay{{name: "r1", up: true, delay: 10 * time.Millisecond}}
	if p.chance(128) {
		w.relays = append(w.relays, &relay{name: "r2", up: true, delay: 25 * time.Millisecond})
	}
	n := 2 + p.below(devicesMax-1)
	cgnat := w.root
	if p.chance(96) {
		cgnat = w.addBox("CGNAT", w.root, *p.nat(), nil, netip.AddrFrom4([4]byte{203, 0, 113, 100}), linkmodel.Options{})
	}
	var sites []*box
	for i := range 1 + p.below(n+1) {
		sites = append(sites, w.site(p, i, cgnat))
	}
	for i := range n {
		at := []*box{sites[i%len(sites)]}
		if second := sites[p.below(len(sites))]; p.chance(48) && second != at[0] {
			at = append(at, second)
		}
		w.addDevice(at...)
	}
	return w
}

// site makes the router of one.
func (w *world) site(p *program, i int, cgnat *box) *box {
	parent, external := w.root, netip.AddrFrom4([4]byte{203, 0, 113, byte(10 + i)})
	var v4 natmodel.Options
	if !p.chance(40) { // else public addresses, perhaps with a firewall
		v4 = *p.nat()
	} else if p.chance(128) {
		v4.Filtering = natmodel.FilterAddressAndPort
	}
	if p.chance(96) && cgnat != w.root && v4.Mapping != natmodel.NoMapping {
		parent, external = cgnat, netip.AddrFrom4([4]byte{100, 64, 0, byte(10 + i)})
	}
	var v6 *natmodel.Options
	if p.chance(80) {
		v6 = &natmodel.Options{Filtering: natmodel.FilterAddressAndPort}
	}
	b := w.addBox(fmt.Sprintf("site %d", i+1), parent, v4, v6, external, p.link())
	if p.chance(128) {
		b.private = 1 // many sites use the same addresses
	}
	b.largest = p.largest()
	return b
}

// nat draws a kind of NAT.
func (p *program) nat() *natmodel.Options {
	x := p.byte()
	if x < 100 {
		return natmodel.Easy()
	}
	if x < 130 {
		return natmodel.Hard()
	}
	o := &natmodel.Options{
		Mapping: natmodel.EndpointIndependent + natmodel.Mapping(x%3), Filtering: natmodel.Filtering(x / 3 % 3), Ports: natmodel.Ports(x / 9 % 3),
		NoUDP: x > 245,
	}
	y := p.byte()
	o.Hairpin = y&1 != 0
	if y&2 != 0 {
		o.Timeout = natmodel.ShortTimeout + 5*time.Second
	}
	return o
}

func (p *program) link() linkmodel.Options {
	o := linkmodel.Options{Delay: time.Duration(1+p.below(40)) * time.Millisecond, Jitter: time.Duration(p.below(4)) * time.Millisecond}
	if p.chance(40) {
		o.Reorder = 0.02
	}
	return o
}

// largest draws how much one link carries.
func (p *program) largest() int {
	return []int{0, 0, 0, 0, 1452, 1380, 1312, 1252}[p.below(8)]
}

// op does one thing and lets time pass.
func (w *world) op(p *program) {
	what, who, arg := p.byte(), p.byte(), p.byte()
	d := w.devices[int(who)%len(w.devices)]
	to := w.devices[(d.index+1+int(who>>4)%(len(w.devices)-1))%len(w.devices)]
	site := d.ifaces[0].box
	switch what % 20 {
	case 0, 1, 2, 3, 4:
		w.startFlow(flow{from: d, to: to, every: time.Duration(10+int(arg)%8*40) * time.Millisecond, echo: arg&0x80 == 0, long: arg&0x40 != 0})
	case 5:
		w.stopFlow(d, to)
	case 6, 7:
		w.cuts[[2]*box{site, to.ifaces[0].box}] = true
		w.cuts[[2]*box{to.ifaces[0].box, site}] = arg&1 == 0
		w.changeOf("no way from "+d.name+" to "+to.name, false)
	case 8, 9:
		clear(w.cuts)
		w.changeOf("all ways are open", false)
	case 10:
		site.v4.Forget()
		w.changeOf(site.name+" reboots", false)
	case 11:
		d.move(p)
	case 12:
		d.handle(path.NetworkChanged{})
		w.calm = w.now
	case 13:
		r := w.relays[int(arg)%len(w.relays)]
		r.up = !r.up
		w.settleRelays()
		w.changeOf(fmt.Sprintf("relay %s is up: %v", r.name, r.up), true)
	case 14:
		d.restart(time.Duration(arg) * 20 * time.Millisecond)
	case 15:
		d.suspend(time.Duration(arg) * time.Second)
	case 16:
		o := site.link
		o.Loss = float64(arg%8) / 50
		site.setLink(o, uint64(arg))
		w.changeOf(fmt.Sprintf("%s loses %.0f %%", site.name, 100*o.Loss), false)
	case 17:
		site.largest = p.largest()
		w.changeOf(fmt.Sprintf("%s carries at most %d", site.name, site.largest), false)
	case 18:
		site.off = !site.off
		w.settleRelays()
		w.changeOf(fmt.Sprintf("%s is off: %v", site.name, site.off), false)
	case 19:
		d.lie(to, arg)
	}
	w.run(time.Duration(p.byte()) * time.Duration(p.byte()) / 4 * time.Millisecond)
}

func (w *world) changeOf(what string, told bool) {
	w.diagram.add(entry{at: w.now, note: what})
	w.change(told)
}

// move takes a device to another site, and tells its core as nat/netmon does.
func (d *device) move(p *program) {
	w := d.w
	var sites []*box
	for _, b := range w.boxes {
		if b.name != "CGNAT" {
			sites = append(sites, b)
		}
	}
	d.leave()
	d.join(sites[p.below(len(sites))], 0)
	w.changeOf(d.name+" moves to "+d.ifaces[0].box.name, true)
	d.handle(path.NetworkChanged{})
	d.gather()
	d.settleRelay()
}

// restart ends the daemon and starts it again after a while.
func (d *device) restart(after time.Duration) {
	if d.down {
		return
	}
	w := d.w
	d.down = true
	d.settleRelay()
	w.changeOf(d.name+" stops", true)
	d.later(after, func() {
		w.changeOf(d.name+" starts", true)
		d.start()
	})
}

// later has a device that is down come back, by do.
func (d *device) later(after time.Duration, do func()) {
	d.resumes++
	mine := d.resumes
	d.resume = func() {
		if d.resumes == mine && d.down {
			d.down, d.resume = false, nil
			do()
		}
	}
	d.w.after(after, d.resume)
}

// suspend has a device sleep.
func (d *device) suspend(long time.Duration) {
	if d.down {
		return
	}
	w := d.w
	d.down = true
	d.settleRelay()
	w.changeOf(d.name+" falls asleep", true)
	d.later(long, func() {
		d.upSince = w.now
		w.changeOf(d.name+" wakes up", true)
		d.handle(path.NetworkChanged{})
		d.setHome(nil)
		d.gather()
	})
}

// heal ends all faults but those of the world itself, and has every device talk to the next.
func (w *world) heal() {
	clear(w.cuts)
	w.lossyUntil = w.now.Add(10 * time.Second)
	for i, b := range w.boxes {
		b.off = false
		o := b.link
		o.Loss = 0
		b.setLink(o, uint64(i))
	}
	for _, r := range w.relays {
		r.up = true
	}
	for _, d := range w.devices {
		if d.resume != nil {
			d.resume()
		}
	}
	w.settleRelays()
	w.changeOf("peace", false)
	for i, d := range w.devices {
		w.startFlow(flow{from: d, to: w.devices[(i+1)%len(w.devices)], every: 150 * time.Millisecond, echo: true, long: i%2 == 0})
	}
}

// tally counts how things are at the end.
func (w *world) tally() {
	for _, f := range w.flows {
		switch f.from.link(f.to).path.Kind {
		case path.Direct:
			w.stats.Direct++
		case path.Relay:
			w.stats.Relayed++
		case path.None:
			if !f.from.down && !f.to.down {
				w.fail("%s has no path to %s in the end", f.from.name, f.to.name)
			}
		}
		if w.prospect(f.from, f.to) == yes {
			w.stats.Possible++
		}
	}
}

// rest ends all traffic: after a while nothing at all is sent for an hour, and nothing is kept.
func (w *world) rest() {
	for len(w.flows) > 0 {
		w.stopFlow(w.flows[0].from, w.flows[0].to)
	}
	w.run(10 * time.Minute)
	before := w.sent()
	w.run(time.Hour)
	if n := w.sent() - before; n > 0 && w.failure == nil {
		w.fail("%d checks and signals in an idle hour", n)
	}
	for _, d := range w.devices {
		if n := d.core.Sessions(); n > 0 && !d.down {
			w.fail("%s keeps %d sessions after an idle hour", d.name, n)
		}
		if n := len(d.extra); n > 0 {
			w.fail("%s keeps %d extra sockets after an idle hour", d.name, n)
		}
	}
}

func (w *world) sent() (n int) {
	for _, d := range w.devices {
		n += d.count.checks + d.count.signals
	}
	return n
}
