package networks

import (
	"net/netip"
	"strings"
	"testing"

	"warren/internal/lab"
)

// office lets ann reach the office's hosts.
const office = `{
	"grants": [{"name": "office", "src": ["ann"], "dst": ["192.168.0.0/16"], "ip": ["*"]}],
}`

// TestOfficePrinter: a laptop behind a CGNAT reaches a printer in the office, which knows nothing of Warren, through a gateway that stands beside it.
//
//	laptop --- CGNAT --- internet --- NAT --- office LAN --- gateway
//	                                             |
//	                                          printer
func TestOfficePrinter(t *testing.T) {
	w := newWorld(t, office)
	site := w.site("office", lab.Easy)
	gatewayHost, printer := w.host(site.Host("gateway")), w.host(site.Host("printer"))
	lan := netip.PrefixFrom(printer.Addr, 24).Masked().String()
	gateway := w.device(gatewayHost, "tag:gateway", "--advertise", lan)
	laptop := w.device(w.host(w.Lab.Host("laptop", lab.EasyCGNAT)), "ann")
	w.awaitAdvertised(gateway, lan, "waiting")
	w.silent(laptop.Host, printer.Addr)
	w.approve(gateway)
	w.awaitRoute(laptop, lan, "gateway")
	w.ping(laptop.Host, printer.Addr)
	if text, err := laptop.Text(w.ctx, "ping", printer.Addr.String()); err != nil || !strings.Contains(text, "direct") {
		t.Errorf("warren ping of the printer: %v: %s", err, text)
	}

	at := netip.AddrPortFrom(printer.Addr, 631)
	w.server(printer, at)
	c, seen := w.call(laptop.Host, at)
	if seen != gatewayHost.Addr.String() {
		t.Errorf("the printer is called by %s, want the gateway's address in the LAN, %s", seen, gatewayHost.Addr)
	}
	w.through(c, 20<<20)

	must(t, laptop.Warren(w.ctx, nil, "set", "--accept-routes=false"))
	w.silent(laptop.Host, printer.Addr)
	must(t, laptop.Warren(w.ctx, nil, "set", "--accept-routes=true"))
	w.ping(laptop.Host, printer.Addr)

	must(t, w.Admin(w.ctx, nil, "route", "revoke", "gateway"))
	w.awaitRoute(laptop, lan, "")
	w.silent(laptop.Host, printer.Addr)
}
