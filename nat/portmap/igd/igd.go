// Package igd is a small client for UPnP Internet Gateway Devices: as much as it takes to map a UDP port. Search makes the datagram that looks
// for one, Location reads an answer, Client.Open reads the device's description, and a Device maps and unmaps.
//
// It is our own because the answers are hostile: anybody on the link can send them, and they name the URLs that are fetched next. Libraries
// for all of UPnP (such as goupnp) follow any URL of any host, redirects too, and read bodies of any size. Here every URL must be plain HTTP on the
// gateway's own address, nothing is redirected, and sizes, times and the number of services are bounded.
package igd

import (
	"bufio"
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
)

const (
	// Port is where devices are looked for (UPnP Device Architecture section 1.3.2), Group by multicast.
	Port  = 1900
	Group = "239.255.255.250"

	maxAnswer      = 2048
	maxBody        = 128 << 10
	maxURL         = 512
	maxServices    = 8
	maxDeviceDepth = 4
)

// Targets are what to search for.
func Targets() []string {
	return []string{"urn:schemas-upnp-org:device:InternetGatewayDevice:1", "urn:schemas-upnp-org:device:InternetGatewayDevice:2"}
}

// Search is a request to all devices of a kind.
func Search(target string) []byte {
	return fmt.Appendf(nil, "M-SEARCH * HTTP/1.1\r\nHOST: %s:%d\r\nMAN: \"ssdp:discover\"\r\nMX: 1\r\nST: %s\r\n\r\n", Group, Port, target)
}

// Errors of Location and Open.
var (
	ErrFormat = errors.New("not the word of an Internet Gateway Device")
	// ErrElsewhere says that a URL is not on the gateway.
	ErrElsewhere = errors.New("URL is not on the gateway")
)

// Location reads an answer to Search and gives the URL of the device's description, which must be on gateway.
func Location(b []byte, gateway netip.Addr) (*url.URL, error) {
	if len(b) > maxAnswer {
		return nil, fmt.Errorf("%w: %d bytes", ErrFormat, len(b))
	}
	r, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(b)), nil)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrFormat, err)
	}
	r.Body.Close()
	if r.StatusCode != http.StatusOK || !slices.Contains(Targets(), r.Header.Get("St")) {
		return nil, fmt.Errorf("%w: status %d, ST %.80q", ErrFormat, r.StatusCode, r.Header.Get("St"))
	}
	return onGateway(r.Header.Get("Location"), nil, gateway)
}

// onGateway reads a URL, relative to base if that is not nil.
func onGateway(text string, base *url.URL, gateway netip.Addr) (*url.URL, error) {
	if len(text) > maxURL {
		return nil, fmt.Errorf("%w: %d characters", ErrElsewhere, len(text))
	}
	u, err := url.Parse(strings.TrimSpace(text))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrFormat, err)
	}
	if base != nil {
		u = base.ResolveReference(u)
	}
	host, err := netip.ParseAddr(u.Hostname())
	if u.Scheme != "http" || u.User != nil || u.Opaque != "" || err != nil || host != gateway {
		return nil, fmt.Errorf("%w: %.80q", ErrElsewhere, text)
	}
	return u, nil
}

// service is one that can map ports.
type service struct {
	kind    string
	control *url.URL
}

// kinds are the services that map ports, better ones first.
func kinds() []string {
	return []string{
		"urn:schemas-upnp-org:service:WANIPConnection:2",
		"urn:schemas-upnp-org:service:WANIPConnection:1",
		"urn:schemas-upnp-org:service:WANPPPConnection:1",
	}
}

// deviceXML is a device in a description (UPnP Device Architecture section 2.3).
type deviceXML struct {
	Services []struct {
		Type    string `xml:"serviceType"`
		Control string `xml:"controlURL"`
	} `xml:"serviceList>service"`
	Devices []deviceXML `xml:"deviceList>device"`
}

// services reads a description that was found at location, and gives the services that can map ports, better ones first.
func services(b []byte, location *url.URL, gateway netip.Addr) ([]service, error) {
	if len(b) > maxBody {
		return nil, fmt.Errorf("%w: a description of %d bytes", ErrFormat, len(b))
	}
	var root struct {
		Base   string    `xml:"URLBase"`
		Device deviceXML `xml:"device"`
	}
	if err := xml.Unmarshal(b, &root); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrFormat, err)
	}
	base := location
	if root.Base != "" { // UPnP 1.0
		var err error
		if base, err = onGateway(root.Base, location, gateway); err != nil {
			return nil, err
		}
	}
	var out []service
	var walk func(d deviceXML, depth int)
	walk = func(d deviceXML, depth int) {
		for _, s := range d.Services {
			control, err := onGateway(s.Control, base, gateway)
			if kind := strings.TrimSpace(s.Type); err == nil && slices.Contains(kinds(), kind) && len(out) < maxServices {
				out = append(out, service{kind, control})
			}
		}
		for _, inner := range d.Devices {
			if depth < maxDeviceDepth {
				walk(inner, depth+1)
			}
		}
	}
	walk(root.Device, 0)
	slices.SortStableFunc(out, func(a, b service) int { return slices.Index(kinds(), a.kind) - slices.Index(kinds(), b.kind) })
	if len(out) == 0 {
		return nil, fmt.Errorf("%w: no service that maps ports", ErrFormat)
	}
	return out, nil
}
