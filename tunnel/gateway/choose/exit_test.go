package choose

import (
	"testing"
	"time"
)

// TestWiderIsNoExit shows that what is meant for an office is not sent to the internet.
func TestWiderIsNoExit(t *testing.T) {
	d := newDesk(t, nil, "10.1.0.0/16 a 200", "0.0.0.0/0 x 100")
	d.handle(SetExit{Gateway: id('x')})
	d.run(10*time.Second, lan, all4)
	d.told("10.1.0.0/16 a: it is the best one", "0.0.0.0/0 x: it is the best one")
	d.g('a').mute = true
	d.run(time.Minute, lan, all4)
	d.told()
}

func TestExit(t *testing.T) {
	routes := []string{"0.0.0.0/0 x 0", "::/0 x 0", "0.0.0.0/0 y 0", "::/0 y 0", "0.0.0.0/0 z 0"}
	d := newDesk(t, nil, routes...)
	d.told()
	d.handle(SetExit{Gateway: id('y')})
	d.told("0.0.0.0/0 y: it is the best one", "::/0 y: it is the best one")
	d.g('y').mute = true
	d.run(time.Minute, all4)
	d.told() // what was named stays
	d.g('y').mute = false
	d.handle(SetExit{Gateway: id('z')})
	d.told("::/0: the one before carries it no more", "0.0.0.0/0 z: the one before carries it no more")
	d.handle(SetExit{})
	d.told("0.0.0.0/0: the one before carries it no more")
	d.handle(SetExit{Gateway: id('q')})
	d.told()
}

func TestExitAuto(t *testing.T) {
	d := newDesk(t, nil, "0.0.0.0/0 x 0", "::/0 x 0", "0.0.0.0/0 y 0", "::/0 y 0", "0.0.0.0/0 z 0")
	d.g('x').rtt, d.g('y').rtt, d.g('z').rtt = 80*time.Millisecond, 40*time.Millisecond, 35*time.Millisecond
	d.handle(SetExit{Auto: true})
	d.told("0.0.0.0/0 x: it is the best one", "::/0 x: it is the best one") // nothing is measured yet
	d.run(50*time.Second, all4)
	d.told()
	d.run(20*time.Second, all4)
	d.told("0.0.0.0/0 z: it is nearer") // y is as good for IPv6, but nothing asks for that
	d.run(time.Minute, all4)
	d.told("::/0 y: it is nearer")
	d.g('x').rtt = 32 * time.Millisecond
	d.run(10*time.Minute, all4)
	d.told() // that is not much nearer
	d.g('z').mute = true
	d.run(3*time.Second, all4)
	d.told("0.0.0.0/0 x: the one before does not answer", "::/0 x: all of IPv4 leaves there")
	d.g('y').rtt, d.g('x').rtt = 5*time.Millisecond, 90*time.Millisecond
	d.chosen = nil
	d.run(5*time.Minute, all4)
	for i, s := range d.core.Status() {
		if s.Gateway != id('y') {
			t.Errorf("family %d leaves at %c", i, s.Gateway[0])
		}
	}
}

// TestExitPriority shows that the priority counts before the distance.
func TestExitPriority(t *testing.T) {
	d := newDesk(t, nil, "0.0.0.0/0 x 200", "0.0.0.0/0 y 100")
	d.g('x').rtt, d.g('y').rtt = 80*time.Millisecond, 10*time.Millisecond
	d.handle(SetExit{Auto: true})
	d.run(10*time.Minute, all4)
	d.told("0.0.0.0/0 x: it is the best one")
}
