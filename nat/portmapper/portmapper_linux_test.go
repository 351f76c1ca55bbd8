package portmapper

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"warren/nat/portmap"
	"warren/nat/portmap/igd"
	"warren/nat/portmap/pcp"
)

var external = netip.MustParseAddr("198.51.100.9")

// loopback gives a gateway of this process's own among the loopback addresses, so that its ports are free.
var loopback = netip.AddrFrom4([4]byte{127, 100, byte(os.Getpid() >> 8), byte(os.Getpid())})

// fake is a gateway on real sockets.
type fake struct {
	t      *testing.T
	mu     sync.Mutex
	seen   []string
	notify chan struct{}

	http     *http.Server
	location atomic.Pointer[string]
}

func newFake(t *testing.T) *fake { return &fake{t: t, notify: make(chan struct{}, 100)} }

func (f *fake) saw(format string, args ...any) {
	f.mu.Lock()
	f.seen = append(f.seen, fmt.Sprintf(format, args...))
	f.mu.Unlock()
	f.notify <- struct{}{}
}

// await waits until the gateway has seen something.
func (f *fake) await(what string) {
	f.t.Helper()
	end := time.After(10 * time.Second)
	for {
		f.mu.Lock()
		all := strings.Join(f.seen, "\n")
		f.mu.Unlock()
		if strings.Contains(all, what) {
			return
		}
		select {
		case <-f.notify:
		case <-end:
			f.t.Fatalf("the gateway never saw %q, but\n%s", what, all)
		}
	}
}

func (f *fake) udp(port uint16, answer func(b []byte) []byte) {
	f.t.Helper()
	c, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(loopback, port)))
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { c.Close() })
	go func() {
		b := make([]byte, 1500)
		for {
			n, from, err := c.ReadFromUDPAddrPort(b)
			if err != nil {
				return
			}
			if r := answer(append([]byte(nil), b[:n]...)); r != nil {
				c.WriteToUDPAddrPort(r, from)
			}
		}
	}()
}

// servePCP grants whatever is asked.
func (f *fake) servePCP() {
	f.udp(pcp.Port, func(b []byte) []byte {
		if b[0] != pcp.Version {
			return nil
		}
		f.saw("PCP %d for %d s", binary.BigEndian.Uint16(b[40:]), binary.BigEndian.Uint32(b[4:]))
		b[1] |= 0x80
		binary.BigEndian.PutUint32(b[8:], 1000)
		binary.BigEndian.PutUint16(b[42:], 7777)
		long := external.As16()
		copy(b[44:], long[:])
		return b
	})
}

// serveHTTP makes the device's own server, and stops the one before.
func (f *fake) serveHTTP() {
	l, err := net.Listen("tcp4", netip.AddrPortFrom(loopback, 0).String())
	if err != nil {
		f.t.Fatal(err)
	}
	s := &http.Server{Handler: http.HandlerFunc(f.igd)}
	go s.Serve(l)
	f.t.Cleanup(func() { s.Close() })
	if old := f.http; old != nil {
		old.Close()
	}
	f.http = s
	location := "http://" + l.Addr().String() + "/desc.xml"
	f.location.Store(&location)
}

// serveIGD answers searches with the locations, one after the other, and from then on with where its own description is.
func (f *fake) serveIGD(locations ...string) {
	f.serveHTTP()
	f.udp(igd.Port, func(b []byte) []byte {
		if !strings.HasPrefix(string(b), "M-SEARCH") {
			return nil
		}
		next := *f.location.Load()
		if len(locations) > 0 {
			next, locations = locations[0], locations[1:]
		}
		return []byte("HTTP/1.1 200 OK\r\nST: " + igd.Targets()[0] + "\r\nLOCATION: " + next + "\r\n\r\n")
	})
}

func (f *fake) igd(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/desc.xml" {
		f.saw("description")
		io.WriteString(w, `<root><device><serviceList><service><serviceType>urn:schemas-upnp-org:service:WANIPConnection:1</serviceType>`+
			`<controlURL>/ctl</controlURL></service></serviceList></device></root>`)
		return
	}
	b, _ := io.ReadAll(r.Body)
	_, action, _ := strings.Cut(strings.Trim(r.Header["Soapaction"][0], `"`), "#")
	_, port, _ := strings.Cut(string(b), "<NewExternalPort>")
	port, _, _ = strings.Cut(port, "<")
	f.saw("%s %s", action, port)
	fmt.Fprintf(w, `<Envelope><Body><x><NewExternalIPAddress>%s</NewExternalIPAddress></x></Body></Envelope>`, external)
}

// bench is a running Mapper.
type bench struct {
	*Mapper
	mapped   chan netip.AddrPort
	registry *prometheus.Registry
	stop     func()
}

// metric reads one whose labels have these values, in the order of their names.
func (b *bench) metric(t *testing.T, name string, labels ...string) float64 {
	t.Helper()
	all, err := b.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range all {
		for _, m := range family.GetMetric() {
			var values []string
			for _, l := range m.GetLabel() {
				values = append(values, l.GetValue())
			}
			if family.GetName() == name && slices.Equal(values, labels) {
				return m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	return 0
}

func start(t *testing.T, change func(*Config)) *bench {
	t.Helper()
	b := &bench{mapped: make(chan netip.AddrPort, 10), registry: prometheus.NewRegistry()}
	cfg := Config{
		Port: func() uint16 { return 41641 }, OnMapping: func(a netip.AddrPort) { b.mapped <- a }, Metrics: NewMetrics(b.registry),
		Gateway: func(string) (gateway, local netip.Addr, err error) {
			return loopback, netip.MustParseAddr("127.0.0.1"), nil
		},
	}
	if change != nil {
		change(&cfg)
	}
	b.Mapper = New(cfg)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- b.Run(ctx) }()
	b.stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(10 * time.Second):
			t.Error("Run does not end")
		}
	})
	t.Cleanup(b.stop)
	return b
}

func (b *bench) await(t *testing.T, want netip.AddrPort) {
	t.Helper()
	select {
	case got := <-b.mapped:
		if got != want {
			t.Fatalf("mapped %s, want %s", got, want)
		}
	case <-time.After(10 * time.Second):
		t.Fatalf("never mapped; %+v", b.Report())
	}
}

func TestPCP(t *testing.T) {
	f := newFake(t)
	f.servePCP()
	var marked sync.Map
	b := start(t, func(c *Config) {
		c.Control = func(network, _ string, _ syscall.RawConn) error { marked.Store(network, true); return nil }
	})
	b.await(t, netip.AddrPortFrom(external, 7777))
	if r := b.Report(); r.Mapping.Protocol != portmap.PCP || r.Gateway != loopback {
		t.Errorf("report %+v", r)
	}
	for p, want := range map[string]float64{"PCP": 1, "NAT-PMP": 0, "UPnP": 0} {
		if got := b.metric(t, "warren_port_mapping_active", p); got != want {
			t.Errorf("active %s: %v, want %v", p, got, want)
		}
	}
	if _, ok := marked.Load("udp4"); !ok {
		t.Error("the sockets' options were not set")
	}
	b.stop()
	f.await("PCP 41641 for 0 s")
	b.await(t, netip.AddrPort{})
	if got := b.metric(t, "warren_port_mapping_active", "PCP"); got != 0 {
		t.Error("still active after the end")
	}
}

// TestLeave: who makes room for another process leaves the mapping as it is.
func TestLeave(t *testing.T) {
	f := newFake(t)
	f.servePCP()
	b := start(t, nil)
	b.await(t, netip.AddrPortFrom(external, 7777))
	b.Leave()
	b.stop()
	if got := b.Report().Mapping.Protocol; got != portmap.PCP {
		t.Errorf("at the end the port is mapped by %s", got)
	}
}

func TestUPnP(t *testing.T) {
	f := newFake(t)
	f.serveIGD("http://192.0.2.1/desc.xml") // not on the gateway, so it is not asked for; then the right one
	b := start(t, nil)
	b.await(t, netip.AddrPortFrom(external, 41641))
	if got := b.metric(t, "warren_port_mapping_failures_total", "PCP", "not supported"); got != 1 {
		t.Errorf("%v failures of PCP, though its port is closed", got)
	}
	b.stop()
	f.await("DeletePortMapping 41641")
}

// A device may be elsewhere after a restart. The mapping is renewed there.
func TestUPnPDeviceMoves(t *testing.T) {
	f := newFake(t)
	f.serveIGD()
	b := start(t, func(c *Config) { c.Use = []portmap.Protocol{portmap.UPnP} })
	b.await(t, netip.AddrPortFrom(external, 41641))
	f.serveHTTP()
	f.mu.Lock()
	f.seen = nil
	f.mu.Unlock()
	b.Trigger()
	f.await("AddPortMapping 41641")
	b.stop()
	f.await("DeletePortMapping 41641")
}

// What another host on the link says of UPnP is not even read.
func TestSearchHearsTheGatewayOnly(t *testing.T) {
	f := newFake(t)
	f.serveIGD()
	b := start(t, func(c *Config) {
		c.Use = []portmap.Protocol{portmap.UPnP}
		c.Gateway = func(string) (gateway, local netip.Addr, err error) {
			return netip.MustParseAddr("127.100.255.254"), loopback, nil
		}
	})
	// The search goes to the group too. On the loopback interface nobody hears that, so it is answered from elsewhere by hand.
	c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 100, 255, 253)})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	l := newLink(t.Context(), b.cfg, portmap.Network{Gateway: loopback, Local: loopback})
	defer l.close()
	s, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 100, 255, 252)})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	evil := "HTTP/1.1 200 OK\r\nST: " + igd.Targets()[0] + "\r\nLOCATION: http://" + loopback.String() + ":1/evil\r\n\r\n"
	if _, err := c.WriteTo([]byte(evil), s.LocalAddr()); err != nil {
		t.Fatal(err)
	}
	for _, u := range l.search(s) {
		if u.Path == "/evil" {
			t.Errorf("taken from another host: %s", u)
		}
	}
}

func TestNetworkGoesAndComes(t *testing.T) {
	f := newFake(t)
	f.servePCP()
	var away sync.Map
	b := start(t, func(c *Config) {
		there := c.Gateway
		c.Gateway = func(except string) (gateway, local netip.Addr, err error) {
			if _, gone := away.Load("away"); gone {
				return gateway, local, ErrNoGateway
			}
			return there(except)
		}
	})
	at := netip.AddrPortFrom(external, 7777)
	b.await(t, at)
	away.Store("away", true)
	b.Trigger()
	b.await(t, netip.AddrPort{})
	away.Clear()
	b.Trigger()
	b.await(t, at)
}

func TestStopWithoutGateway(t *testing.T) {
	b := start(t, func(c *Config) {
		c.Gateway = func(string) (gateway, local netip.Addr, err error) { return gateway, local, ErrNoGateway }
	})
	b.stop()
	if r := b.Report(); r.Gateway.IsValid() || r.Mapping != (portmap.Mapping{}) {
		t.Errorf("%+v", r)
	}
}
