package networks

import (
	"strings"
	"testing"
	"time"

	"warren/internal/lab"
)

// TestFirewallReloaded: another program throws all firewall rules away, as "systemctl reload nftables" does. Those of the gateway are back at once.
func TestFirewallReloaded(t *testing.T) {
	w := newWorld(t, strings.Replace(office, `"grants"`, `"autoApprovers": {"routes": {"192.168.0.0/16": ["tag:gateway"]}}, "grants"`, 1))
	site := w.site("office", lab.Easy)
	h, printer := w.host(site.Host("gateway")), w.host(site.Host("printer"))
	gateway := w.device(h, "tag:gateway", "--advertise", "192.168.2.0/24")
	laptop := w.device(w.host(w.Lab.Host("laptop", lab.Easy)), "ann")
	w.awaitRoute(laptop, "192.168.2.0/24", "gateway")
	p := w.ping(laptop.Host, printer.Addr)
	must(t, w.nft(gateway, "flush ruleset"))
	flushed := time.Now()
	for time.Since(flushed) < patience {
		if _, err := p.Ping(100 * time.Millisecond); err == nil {
			t.Logf("answered again after %s", time.Since(flushed))
			break
		}
	}
	if _, err := p.Ping(time.Second); err != nil {
		t.Errorf("the printer is not reached any more: %v", err)
	}
	if lost := time.Since(flushed); lost > 5*time.Second {
		t.Errorf("it took %s", lost)
	}
}
