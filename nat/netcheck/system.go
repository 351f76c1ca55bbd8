package netcheck

import (
	"context"
	"net"
	"net/http"
	"net/netip"
	"syscall"
	"time"
)

// System gives a Config with the system's sockets. control, which may be nil, sets their options, such as a firewall mark.
func System(control func(network, address string, c syscall.RawConn) error) Config {
	listen := net.ListenConfig{Control: func(network, address string, c syscall.RawConn) error {
		if control != nil {
			if err := control(network, address, c); err != nil {
				return err
			}
		}
		return whole(network, c)
	}}
	dialer := &net.Dialer{Control: control}
	client := &http.Client{
		Transport:     &http.Transport{DialContext: dialer.DialContext, DisableKeepAlives: true, ResponseHeaderTimeout: portalPatience},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Timeout:       portalPatience + time.Second,
	}
	return Config{
		Whole: canWhole,
		Listen: func(network string) (Conn, error) {
			c, err := listen.ListenPacket(context.Background(), network, ":0")
			if err != nil {
				return nil, err
			}
			return c.(*net.UDPConn), nil
		},
		Route: func(to netip.AddrPort) (netip.Addr, error) {
			c, err := dialer.Dial("udp", to.String()) // sends nothing
			if err != nil {
				return netip.Addr{}, err
			}
			defer c.Close()
			return c.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Unmap(), nil
		},
		Resolve: func(ctx context.Context, host string) ([]netip.Addr, error) {
			return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
		},
		Get: func(ctx context.Context, url string) (Page, error) { return get(ctx, client, url) },
	}
}

func get(ctx context.Context, client *http.Client, url string) (Page, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return Page{}, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return Page{}, err
	}
	resp.Body.Close()
	return Page{resp.StatusCode, resp.Header.Get("Location")}, nil
}
