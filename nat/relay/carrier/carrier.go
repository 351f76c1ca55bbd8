// Package carrier decides whether what a device and its relay send each other goes over UDP or over the WebSocket connection that is always
// there. It is a pure core: a Device is told what happens with the time, and says what to do and when to be called again; a Downlink is the
// relay's smaller part of it. package relay runs both.
//
// UDP is used while the device's pings are answered. The first pings, to each address of the relay, are as long as the longest packet, so
// that a path which carries only shorter ones is not used. A ping that goes unanswered is soon followed by others, and after Dead without an
// answer the WebSocket connection carries everything; pings go on, ever rarer, for as long as that connection stands.
package carrier

import (
	"slices"
	"time"
)

const (
	// Dead is how long a ping may be unanswered while packets are on their way, or data be sent without a ping from the device: then UDP is
	// given up, so that less than a second is lost.
	Dead = 700 * time.Millisecond
	// pingBusy is between pings while there is traffic, pingQuick after one that was not answered at once, pingIdle otherwise: NATs keep
	// UDP mappings for 30 s and more (RFC 4787 wants 2 minutes; some keep 20 s).
	pingBusy  = 250 * time.Millisecond
	pingQuick = 100 * time.Millisecond
	pingIdle  = 15 * time.Second
	// busyFor is how long traffic counts.
	busyFor = 2 * time.Second
	// patience is how late an answer may be before pings become quick, beyond twice the round trip.
	patience = 100 * time.Millisecond
	// tryFirst is between the first attempts to reach the relay, doubling up to tryLast.
	tryFirst = 200 * time.Millisecond
	tryLast  = 30 * time.Second
	// maxPending bounds the pings whose answers are awaited.
	maxPending = 64
)

// Event is what happened. A nil one is the time that was asked for.
type Event interface{ event() }

// The events. Addresses are numbered as the shell has them.
type (
	// Offered says that the relay has a session for us, reachable at this many addresses. It ends what went before.
	Offered struct{ Addresses int }
	// Answered is a Pong.
	Answered struct{ ID uint64 }
	// Challenged is a Pong that wants the Ping repeated from where it came from.
	Challenged struct{ ID uint64 }
	// Traffic says that packets were sent or received, by either way. It is enough to tell it now and then.
	Traffic struct{}
)

func (Offered) event()    {}
func (Answered) event()   {}
func (Challenged) event() {}
func (Traffic) event()    {}

// Action is what to do.
type Action interface{ action() }

// The actions.
type (
	// SendPing sends a Ping to an address; Long says as long as the longest packet.
	SendPing struct {
		Address     int
		ID          uint64
		Using, Long bool
	}
	// Use changes what carries packets: the address's UDP path, or the WebSocket connection. Reason is for people.
	Use struct {
		UDP     bool
		Address int
		Reason  string
	}
	// RTT is a new measure of the round trip to the relay.
	RTT struct{ RTT time.Duration }
	// Doubt says that an answer is late: what is sent over the WebSocket connection now tells soon whether the relay is there at all.
	Doubt struct{}
)

func (SendPing) action() {}
func (Use) action()      {}
func (RTT) action()      {}
func (Doubt) action()    {}

// Device is the device's part.
type Device struct {
	now     time.Time
	actions []Action

	addresses int // 0: no session
	up        bool
	address   int // in use, while up
	rtt       time.Duration
	lastID    uint64
	pending   []ping // oldest first
	nextPing  time.Time
	tries     int
	traffic   time.Time
	doubted   bool
}

type ping struct {
	id      uint64
	address int
	long    bool
	at      time.Time
	// repeated: it was challenged.
	repeated bool
}

// NewDevice makes a core without a session. firstID is a random number from which pings are counted.
func NewDevice(firstID uint64) *Device { return &Device{lastID: firstID} }

// UDP tells whether packets go over UDP.
func (d *Device) UDP() bool { return d.up }

// Handle takes an event and tells what to do, and when to be called with nil; zero for never.
func (d *Device) Handle(now time.Time, e Event) ([]Action, time.Time) {
	d.now, d.actions = now, nil
	switch e := e.(type) {
	case Offered:
		*d = Device{now: now, lastID: d.lastID, addresses: e.Addresses, nextPing: now, traffic: now}
	case Answered:
		d.answered(e.ID)
	case Challenged:
		d.challenged(e.ID)
	case Traffic:
		d.noteTraffic()
	}
	d.giveUp()
	d.hurry()
	d.pings()
	return d.actions, d.next()
}

func (d *Device) emit(a Action) { d.actions = append(d.actions, a) }

func (d *Device) take(id uint64) (ping, bool) {
	i := slices.IndexFunc(d.pending, func(p ping) bool { return p.id == id })
	if i < 0 {
		return ping{}, false
	}
	p := d.pending[i]
	d.pending = slices.Delete(d.pending, i, i+1)
	return p, true
}

func (d *Device) answered(id uint64) {
	p, ok := d.take(id)
	if !ok || d.up && p.address != d.address || !d.up && !p.long {
		return
	}
	d.rtt = d.now.Sub(p.at)
	d.emit(RTT{d.rtt})
	// What was sent before it is lost, or late: it says nothing about now.
	d.pending = slices.DeleteFunc(d.pending, func(o ping) bool { return !o.at.After(p.at) })
	if d.up {
		d.nextPing = d.now.Add(d.interval())
		return
	}
	d.up, d.address, d.tries = true, p.address, 0
	d.pending = nil
	d.emit(Use{UDP: true, Address: p.address, Reason: "the relay answers over UDP"})
	d.ping(p.address, false) // tells the relay that it is used
	d.nextPing = d.now.Add(d.interval())
}

// challenged repeats a ping, once: a relay must not make us send for ever. The answer may take no longer for it.
func (d *Device) challenged(id uint64) {
	i := slices.IndexFunc(d.pending, func(p ping) bool { return p.id == id && !p.repeated })
	if i < 0 {
		return
	}
	d.lastID++
	p := &d.pending[i]
	p.id, p.repeated = d.lastID, true
	d.emit(SendPing{Address: p.address, ID: p.id, Using: d.up, Long: p.long})
}

func (d *Device) noteTraffic() {
	idle := !d.busy()
	d.traffic = d.now
	if d.up && idle {
		d.nextPing = d.now
	}
}

func (d *Device) busy() bool { return d.now.Sub(d.traffic) < busyFor }

// unanswered is how long the oldest ping in use has waited; 0 while none has.
func (d *Device) unanswered() time.Duration {
	if !d.up || len(d.pending) == 0 {
		return 0
	}
	return d.now.Sub(d.pending[0].at)
}

func (d *Device) giveUp() {
	if d.unanswered() < Dead {
		return
	}
	d.up, d.pending, d.tries = false, nil, 0
	d.nextPing = d.now
	d.emit(Use{Reason: "the relay no longer answers over UDP"})
}

// late says that an answer should have come.
func (d *Device) late() time.Duration { return 2*d.rtt + patience }

func (d *Device) interval() time.Duration {
	switch {
	case d.unanswered() >= d.late():
		return pingQuick
	case d.busy():
		return pingBusy
	}
	return pingIdle
}

// hurry brings the next ping forward when an answer is late.
func (d *Device) hurry() {
	if !d.up || d.unanswered() < d.late() {
		d.doubted = false
		return
	}
	if !d.doubted {
		d.doubted = true
		d.emit(Doubt{})
	}
	if at := d.pending[len(d.pending)-1].at.Add(pingQuick); at.Before(d.nextPing) {
		d.nextPing = at
	}
}

func (d *Device) pings() {
	if d.addresses == 0 || d.nextPing.After(d.now) {
		return
	}
	if d.up {
		d.ping(d.address, false)
		d.nextPing = d.now.Add(d.interval())
		return
	}
	for a := range d.addresses {
		d.ping(a, true)
	}
	d.nextPing = d.now.Add(min(tryFirst<<min(d.tries, 16), tryLast))
	d.tries++
}

func (d *Device) ping(address int, long bool) {
	d.lastID++
	if len(d.pending) == maxPending {
		d.pending = slices.Delete(d.pending, 0, 1)
	}
	d.pending = append(d.pending, ping{id: d.lastID, address: address, long: long, at: d.now})
	d.emit(SendPing{Address: address, ID: d.lastID, Using: d.up, Long: long})
}

func (d *Device) next() time.Time {
	if d.addresses == 0 {
		return time.Time{}
	}
	next := d.nextPing
	if d.up && len(d.pending) > 0 {
		oldest := d.pending[0].at
		if late := oldest.Add(d.late()); late.After(d.now) && late.Before(next) {
			next = late
		}
		if dead := oldest.Add(Dead); dead.Before(next) {
			next = dead
		}
	}
	return next
}

// Downlink is the relay's part for one device: whether packets to it go over UDP. It is told of pings by one goroutine and asked by many, so
// its owner locks it. Times are nanoseconds of a clock that does not go back.
type Downlink struct {
	using bool
	since int64 // when data first went over UDP after the last ping; 0 for not yet
}

// Pinged takes the word of a ping that is newer than all before, from the device's address.
func (l *Downlink) Pinged(using bool) { l.using, l.since = using, 0 }

// Stop makes data go over the WebSocket connection until the next ping: the device said so, or its address is lost.
func (l *Downlink) Stop() { l.using = false }

// Send tells whether data goes over UDP now; the caller then sends it so. A device that gets data pings often, so one whose pings do not come
// does not get the data either.
func (l *Downlink) Send(now int64) bool {
	switch {
	case !l.using:
		return false
	case l.since == 0:
		l.since = now
	case now-l.since >= int64(Dead):
		l.using = false
	}
	return l.using
}
