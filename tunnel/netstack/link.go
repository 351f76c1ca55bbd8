package netstack

import (
	"math"
	"sync"
	"sync/atomic"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// queueLength is how many packets of the stack wait for WireGuard, of up to 64 KiB each where they are TCP. What does not fit is dropped, as by any
// interface, and TCP slows down.
const queueLength = 512

// link is the stack's interface. It implements stack.LinkEndpoint and stack.GSOEndpoint.
type link struct {
	mtu     atomic.Uint32
	queue   chan *stack.PacketBuffer
	dropped atomic.Uint64

	mu         sync.RWMutex
	dispatcher stack.NetworkDispatcher
	closed     bool
}

func newLink(mtu uint32) *link {
	l := &link{queue: make(chan *stack.PacketBuffer, queueLength)}
	l.mtu.Store(mtu)
	return l
}

// WritePackets implements stack.LinkWriter; it never blocks.
func (l *link) WritePackets(list stack.PacketBufferList) (int, tcpip.Error) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if l.closed {
		return 0, &tcpip.ErrClosedForSend{}
	}
	n := 0
	for _, p := range list.AsSlice() {
		select {
		case l.queue <- p.IncRef():
			n++
		default:
			p.DecRef()
			l.dropped.Add(uint64(list.Len() - n))
			return n, &tcpip.ErrNoBufferSpace{}
		}
	}
	return n, nil
}

// attached is the stack's receiving side; nil once the link is closed.
func (l *link) attached() stack.NetworkDispatcher {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.dispatcher
}

// shut drops what waits and takes no more.
func (l *link) shut() {
	l.mu.Lock()
	l.closed, l.dispatcher = true, nil
	l.mu.Unlock()
	for {
		select {
		case p := <-l.queue:
			p.DecRef()
		default:
			return
		}
	}
}

// Attach implements stack.NetworkLinkEndpoint.
func (l *link) Attach(d stack.NetworkDispatcher) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.dispatcher = d
}

// IsAttached implements stack.NetworkLinkEndpoint.
func (l *link) IsAttached() bool { return l.attached() != nil }

// MTU implements stack.NetworkLinkEndpoint.
func (l *link) MTU() uint32 { return l.mtu.Load() }

// SetMTU implements stack.NetworkLinkEndpoint.
func (l *link) SetMTU(mtu uint32) { l.mtu.Store(mtu) }

// GSOMaxSize implements stack.GSOEndpoint.
func (l *link) GSOMaxSize() uint32 { return math.MaxUint16 }

// SupportedGSO implements stack.GSOEndpoint: segment.go does what a card would.
func (l *link) SupportedGSO() stack.SupportedGSO { return stack.HostGSOSupported }

// Capabilities implements stack.NetworkLinkEndpoint: checksum.go does what a card would.
func (l *link) Capabilities() stack.LinkEndpointCapabilities {
	return stack.CapabilityRXChecksumOffload
}

// The rest of stack.NetworkLinkEndpoint is for links with headers and addresses of their own.

func (l *link) MaxHeaderLength() uint16                 { return 0 }
func (l *link) LinkAddress() tcpip.LinkAddress          { return "" }
func (l *link) SetLinkAddress(tcpip.LinkAddress)        {}
func (l *link) ARPHardwareType() header.ARPHardwareType { return header.ARPHardwareNone }
func (l *link) AddHeader(*stack.PacketBuffer)           {}
func (l *link) ParseHeader(*stack.PacketBuffer) bool    { return true }
func (l *link) Wait()                                   {}
func (l *link) Close()                                  {}
func (l *link) SetOnCloseAction(func())                 {}
