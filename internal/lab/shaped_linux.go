package lab

import (
	"container/heap"
	"context"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"warren/internal/sim/linkmodel"
)

// shapedCable joins two hosts by a pair of TAP devices, and carries frames between them as the link's options say, each way.
func shapedCable(a *Host, aName string, b *Host, bName string, o linkmodel.Options, seed uint64) error {
	left, err := a.openTUN(aName, unix.IFF_TAP)
	if err != nil {
		return err
	}
	right, err := b.openTUN(bName, unix.IFF_TAP)
	if err != nil {
		left.Close()
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	ways := []*way{newWay(left, right, o, 2*seed), newWay(right, left, o, 2*seed+1)}
	for _, w := range ways {
		go w.read(ctx)
		go w.deliver(ctx)
	}
	a.lab.stops = append(a.lab.stops, func() {
		cancel()
		left.Close()
		right.Close()
		for _, w := range ways {
			<-w.readEnded
			<-w.deliverEnded
		}
	})
	return nil
}

// maxWaiting bounds how many frames are on their way in one direction; those above are lost.
const maxWaiting = 1 << 15

// way is one direction of a cable.
type way struct {
	from, to                *os.File
	link                    *linkmodel.Link
	sent                    chan frame
	readEnded, deliverEnded chan struct{}
}

// frame is on its way. seq keeps frames that arrive at the same time in order.
type frame struct {
	at   time.Time
	seq  int
	data []byte
}

func newWay(from, to *os.File, o linkmodel.Options, seed uint64) *way {
	return &way{
		from: from, to: to, link: linkmodel.New(o, seed), sent: make(chan frame, maxWaiting),
		readEnded: make(chan struct{}), deliverEnded: make(chan struct{}),
	}
}

// read takes frames in and asks the model when they arrive.
func (w *way) read(ctx context.Context) {
	defer close(w.readEnded)
	b := make([]byte, 1<<16)
	for seq := 0; ctx.Err() == nil; seq++ {
		n, err := w.from.Read(b)
		if err != nil {
			return
		}
		at, ok := w.link.Send(time.Now(), n)
		if !ok {
			continue
		}
		select {
		case w.sent <- frame{at, seq, append([]byte(nil), b[:n]...)}:
		default:
		}
	}
}

// deliver writes frames when they are due.
func (w *way) deliver(ctx context.Context) {
	defer close(w.deliverEnded)
	var waiting frames
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		for len(waiting) > 0 && !waiting[0].at.After(time.Now()) {
			w.to.Write(heap.Pop(&waiting).(frame).data) // refused while the device is down: lost, as on a wire
		}
		var due <-chan time.Time
		if len(waiting) > 0 {
			timer.Reset(time.Until(waiting[0].at))
			due = timer.C
		}
		select {
		case f := <-w.sent:
			if len(waiting) < maxWaiting {
				heap.Push(&waiting, f)
			}
		case <-due:
		case <-ctx.Done():
			return
		}
	}
}

// frames are a heap, the first one due on top.
type frames []frame

func (f frames) Len() int      { return len(f) }
func (f frames) Swap(i, j int) { f[i], f[j] = f[j], f[i] }
func (f frames) Less(i, j int) bool {
	if f[i].at.Equal(f[j].at) {
		return f[i].seq < f[j].seq
	}
	return f[i].at.Before(f[j].at)
}
func (f *frames) Push(x any) { *f = append(*f, x.(frame)) }
func (f *frames) Pop() any {
	last := (*f)[len(*f)-1]
	*f = (*f)[:len(*f)-1]
	return last
}
