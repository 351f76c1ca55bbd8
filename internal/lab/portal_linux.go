package lab

import (
	"errors"
	"fmt"
	"net/http"
	"net/netip"
)

// PortalURL is where a captive portal asks for consent, by POST.
func (s *Site) PortalURL() string {
	return fmt.Sprintf("http://%s/accept", netip.AddrPortFrom(nth(s.inside.v4, 1).Addr(), portalPort))
}

// startPortal answers every HTTP request from inside with a redirection to the portal (RFC 8952, section 1 has the manners of portals).
func (s *Site) startPortal() error {
	l, err := s.router.Listen(fmt.Sprintf("0.0.0.0:%d", portalPort))
	if err != nil {
		return fmt.Errorf("captive portal: %w", err)
	}
	own := netip.AddrPortFrom(nth(s.inside.v4, 1).Addr(), portalPort).String()
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.Host != own:
			http.Redirect(w, r, s.PortalURL(), http.StatusFound)
		case r.Method != http.MethodPost:
			fmt.Fprintln(w, "POST here to go online.")
		default:
			if err := s.OpenPortal(); err != nil {
				http.Error(w, err.Error(), http.StatusInternalServerError)
				return
			}
			fmt.Fprintln(w, "You are online.")
		}
	})}
	s.lab.stops = append(s.lab.stops, func() { server.Close() })
	go server.Serve(l)
	return nil
}

// OpenPortal lets the site's hosts out.
func (s *Site) OpenPortal() error {
	if s.Access.Block != CaptivePortal {
		return errors.New("the site has no portal")
	}
	open := s.rules()
	open.block = BlockNothing
	return s.router.applyRules(open)
}

// ClosePortal puts the portal in the way again.
func (s *Site) ClosePortal() error {
	if s.Access.Block != CaptivePortal {
		return errors.New("the site has no portal")
	}
	return s.router.applyRules(s.rules())
}
