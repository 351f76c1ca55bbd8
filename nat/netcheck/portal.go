package netcheck

import (
	"context"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"
)

// portalPatience is how long HTTP may take: a portal is near.
const portalPatience = 3 * time.Second

// portal is what HTTP said.
type portal struct {
	verdict Answer
	url     string
}

// portal asks for a page on the relays' hosts by plain HTTP, which no portal can resist answering. Nothing of ours listens there, so what
// answers is a portal or some other server of the same host.
func (c *Config) portal(ctx context.Context) portal {
	ctx, cancel := context.WithTimeout(ctx, portalPatience)
	defer cancel()
	out := portal{verdict: No}
	asked := map[string]bool{}
	for _, r := range c.Relays {
		if r.Host == "" || asked[r.Host] {
			continue
		}
		asked[r.Host] = true
		page, err := c.Get(ctx, "http://"+bracketed(r.Host)+"/")
		if err != nil {
			continue
		}
		switch p := judgePage(r.Host, page); p.verdict {
		case Yes:
			return p
		case Unknown:
			out = p
		}
	}
	if len(asked) == 0 {
		out.verdict = Unknown
	}
	return out
}

// judgePage: a portal sends browsers elsewhere, or says so by 511 (RFC 6585 section 6). A server of the host itself may send them to HTTPS
// there, and what any other page means is not known.
func judgePage(host string, page Page) portal {
	if page.Status == http.StatusNetworkAuthenticationRequired {
		return portal{Yes, page.Location}
	}
	if page.Status < 300 || page.Status > 399 {
		return portal{verdict: Unknown}
	}
	to, err := url.Parse(page.Location)
	if err != nil || len(page.Location) > 2000 || to.Host == "" || strings.EqualFold(to.Hostname(), host) {
		return portal{verdict: No}
	}
	return portal{Yes, page.Location}
}

// judge: where a relay answers as itself, nothing is in the way, whatever HTTP said.
func (r *Report) judge(p portal) {
	for _, relay := range r.Relays {
		if relay.Err == nil && relay.TLS > 0 || relay.Connected {
			r.Portal = No
			return
		}
	}
	r.Portal, r.PortalURL = p.verdict, p.url
}

func bracketed(host string) string {
	if a, err := netip.ParseAddr(host); err == nil && a.Is6() {
		return "[" + host + "]"
	}
	return host
}
