package netcheck

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"warren/internal/sim/natmodel"
	"warren/nat/gather"
)

// good is what is found behind an easy NAT.
func good() *Report {
	return &Report{
		Servers: 2,
		IPv4: Family{Local: inside4, UDP: Yes, Mapped: netip.AddrPortFrom(outside4, 9), Mapping: gather.Mapping{Behaviour: gather.EndpointIndependent},
			Filtering: AddressAndPortDependent, MTU: 1500},
		Portal: No,
		Relays: []RelayReport{{Name: "coordinator", UDP: time.Millisecond, TCP: time.Millisecond, TLS: time.Millisecond}},
	}
}

func TestFindings(t *testing.T) {
	const keeps = "the NAT keeps one port for all destinations: direct paths are to be expected"
	for name, tc := range map[string]struct {
		change func(*Report)
		want   []string
	}{
		"easy": {func(*Report) {}, []string{keeps}},
		"hard": {func(r *Report) { r.IPv4.Mapping.Behaviour = gather.AddressAndPortDependent },
			[]string{"the NAT maps each destination to another port: direct paths are to be expected at once only with peers that have a public address, a mapped port or IPv6"}},
		"hard, and IPv6": {func(r *Report) {
			r.IPv4.Mapping.Behaviour = gather.AddressDependent
			r.IPv6 = Family{Local: own6, UDP: Yes, Mapping: gather.Mapping{Behaviour: gather.NoNAT}, MTU: 1500}
		}, []string{"over IPv6 peers can be reached directly; over IPv4 the NAT maps each destination to another port"}},
		"public": {func(r *Report) { r.IPv4.Mapping.Behaviour, r.IPv4.Filtering = gather.NoNAT, NotPortDependent },
			[]string{"there is no NAT, and any peer can reach this device"}},
		"public behind a firewall": {func(r *Report) { r.IPv4.Mapping.Behaviour = gather.NoNAT },
			[]string{"there is no NAT: direct paths are to be expected"}},
		"one server": {func(r *Report) { r.IPv4.Mapping.Behaviour = gather.Unknown },
			[]string{"how the NAT maps is not known: that takes two STUN servers, or one on two ports"}},
		"blocked": {func(r *Report) { r.IPv4 = Family{Local: inside4, UDP: No} },
			[]string{"UDP is blocked: no STUN server answers, so peers are reached only through relays"}},
		"no STUN": {func(r *Report) { r.IPv4, r.Servers = Family{}, 0 }, []string{"no STUN server is known, so nothing can be told about UDP"}},
		"no network": {func(r *Report) {
			r.IPv4 = Family{}
			r.Relays[0] = RelayReport{Name: "coordinator", Err: errNoRoute}
		}, []string{"this device has no network over which the STUN servers could be asked", "relay coordinator cannot be reached: network is unreachable",
			"no relay can be reached: without one new paths to peers cannot be found"}},
		"IPv4 broken": {func(r *Report) {
			r.IPv6 = Family{Local: own6, UDP: Yes, MTU: 1500}
			r.IPv4 = Family{Local: inside4, UDP: No}
		}, []string{"UDP over IPv4 is blocked; IPv6 works"}},
		"IPv6 broken": {func(r *Report) { r.IPv6 = Family{Local: own6, UDP: No} }, []string{"UDP over IPv6 is blocked; IPv4 works", keeps}},
		"portal": {func(r *Report) {
			r.IPv4, r.Portal, r.PortalURL = Family{Local: inside4, UDP: No}, Yes, "http://192.168.1.1/login"
			r.Relays[0] = RelayReport{Name: "coordinator", Err: errors.New("timeout")}
		}, []string{`a captive portal is in the way: open "http://192.168.1.1/login" in a browser and log in there`,
			"UDP is blocked: no STUN server answers, so peers are reached only through relays", "relay coordinator cannot be reached: timeout",
			"no relay can be reached: without one new paths to peers cannot be found"}},
		"portal without a place": {func(r *Report) { r.Portal = Yes },
			[]string{"a captive portal is in the way: open any page in a browser and log in there", keeps}},
		"one relay of two": {func(r *Report) { r.Relays = append(r.Relays, RelayReport{Name: "ams", Err: errors.New("refused")}) },
			[]string{keeps, "relay ams cannot be reached: refused"}},
		"no relay": {func(r *Report) { r.Relays = nil }, []string{keeps, "the network has no relay: peers behind NATs may not find each other"}},
		"PPPoE":    {func(r *Report) { r.IPv4.MTU = 1492 }, []string{keeps, "IPv4 packets of more than 1492 bytes get lost; the tunnel adapts"}},
		"tunnel": {func(r *Report) { r.IPv4.MTU = 1280 },
			[]string{keeps, "IPv4 packets of more than 1280 bytes get lost, which is less than the tunnel needs: larger ones take the relay"}},
		"MTU unknown": {func(r *Report) { r.IPv4.MTU = 0 }, []string{keeps}},
	} {
		r := good()
		tc.change(r)
		if diff := cmp.Diff(tc.want, r.Findings()); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

func TestJudgePage(t *testing.T) {
	for name, tc := range map[string]struct {
		host string
		page Page
		want portal
	}{
		"redirection elsewhere":   {one, Page{302, "http://login.example/?from=x"}, portal{Yes, "http://login.example/?from=x"}},
		"307":                     {one, Page{307, "https://192.168.1.1/"}, portal{Yes, "https://192.168.1.1/"}},
		"511":                     {one, Page{511, ""}, portal{Yes, ""}},
		"to HTTPS":                {"vpn.example", Page{301, "https://VPN.example/"}, portal{verdict: No}},
		"to HTTPS, another port":  {one, Page{301, "https://" + one + ":8443/"}, portal{verdict: No}},
		"to a path":               {one, Page{302, "/login"}, portal{verdict: No}},
		"nowhere":                 {one, Page{302, ""}, portal{verdict: No}},
		"nonsense":                {one, Page{302, "http://[::1"}, portal{verdict: No}},
		"a place without end":     {one, Page{302, "http://x/" + strings.Repeat("a", 3000)}, portal{verdict: No}},
		"a page":                  {one, Page{200, ""}, portal{verdict: Unknown}},
		"not found":               {one, Page{404, ""}, portal{verdict: Unknown}},
		"IPv6 host to itself":     {six, Page{301, "https://[" + six + "]/"}, portal{verdict: No}},
		"IPv6 host to a neighbor": {six, Page{301, "https://[2001:db8::2]/"}, portal{Yes, "https://[2001:db8::2]/"}},
	} {
		if got := judgePage(tc.host, tc.page); got != tc.want {
			t.Errorf("%s: %+v, want %+v", name, got, tc.want)
		}
	}
}

// TestPortal: HTTP counts only where no relay answers as itself.
func TestPortal(t *testing.T) {
	refused := func(context.Context) (time.Duration, time.Duration, error) { return 0, 0, errors.New("refused") }
	pages := func(m map[string]Page) func(context.Context, string) (Page, error) {
		return func(_ context.Context, url string) (Page, error) {
			if p, ok := m[url]; ok {
				return p, nil
			}
			return Page{}, errors.New("no answer")
		}
	}
	login := Page{302, "http://login.example/"}
	for name, tc := range map[string]struct {
		pages   map[string]Page
		reached bool
		want    Answer
	}{
		"silence":                     {nil, false, No},
		"portal":                      {map[string]Page{"http://203.0.113.1/": login}, false, Yes},
		"portal at the second":        {map[string]Page{"http://203.0.113.1/": {200, ""}, "http://[2001:db8::1]/": login}, false, Yes},
		"some page":                   {map[string]Page{"http://203.0.113.1/": {200, ""}}, false, Unknown},
		"somebody's, but relays work": {map[string]Page{"http://203.0.113.1/": login}, true, No},
	} {
		cfg := newWorld(*natmodel.Easy()).config(one, six)
		cfg.Get = pages(tc.pages)
		r := &Report{Relays: []RelayReport{{Name: "a"}}}
		if tc.reached {
			r.Relays[0].TCP, r.Relays[0].TLS = 1, 2
		} else {
			_, _, r.Relays[0].Err = refused(t.Context())
		}
		r.judge(cfg.portal(t.Context()))
		if r.Portal != tc.want || (r.PortalURL != "") != (tc.want == Yes) {
			t.Errorf("%s: %s, %q", name, r.Portal, r.PortalURL)
		}
	}
}

// TestSystem: the system's sockets do what is asked of them.
func TestSystem(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "http://elsewhere.example/", http.StatusFound)
	}))
	defer server.Close()
	cfg := System(nil)
	page, err := cfg.Get(t.Context(), server.URL)
	if want := (Page{302, "http://elsewhere.example/"}); err != nil || page != want {
		t.Errorf("got %+v, %v", page, err)
	}
	if a, err := cfg.Route(netip.MustParseAddrPort("127.0.0.1:9")); err != nil || a != netip.MustParseAddr("127.0.0.1") {
		t.Errorf("route from %s, %v", a, err)
	}
	for _, network := range []string{"udp4", "udp6"} {
		c, err := cfg.Listen(network)
		if err != nil {
			t.Fatalf("%s: %v", network, err)
		}
		c.Close()
		if _, _, err := c.ReadFromUDPAddrPort(make([]byte, 1)); err == nil || temporary(err) {
			t.Errorf("%s: reading from a closed socket: %v", network, err)
		}
	}
}
