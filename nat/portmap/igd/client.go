package igd

import (
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"
)

// Client fetches from one gateway.
type Client struct {
	gateway netip.Addr
	http    http.Client
}

// requestLimit bounds one HTTP request; devices of this kind are slow.
const requestLimit = 4 * time.Second

// NewClient makes a client that connects with dial to the gateway and to nobody else.
func NewClient(gateway netip.Addr, dial func(ctx context.Context, network, address string) (net.Conn, error)) *Client {
	return &Client{gateway: gateway, http: http.Client{
		Timeout: requestLimit,
		// No proxy, no compression, no connection kept, no redirect.
		Transport:     &http.Transport{DialContext: dial, DisableCompression: true, DisableKeepAlives: true, MaxResponseHeaderBytes: 16 << 10},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// Device is a gateway that was found.
type Device struct {
	client  *Client
	service service
}

// Errors of a Device, besides those of the network.
var (
	// ErrConflict says that the port outside belongs to another host.
	ErrConflict = errors.New("port is mapped to another host")
	// ErrRefused is any other refusal of the device.
	ErrRefused = errors.New("the gateway refuses")
	// ErrNoAddress says that no service of the device has an address outside.
	ErrNoAddress = errors.New("the gateway has no address outside")
)

// Open reads a description and asks for the external address. It chooses the first service that has one.
func (c *Client) Open(ctx context.Context, location *url.URL) (*Device, netip.Addr, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, location.String(), nil)
	if err != nil {
		return nil, netip.Addr{}, err
	}
	status, body, err := c.do(request)
	if err == nil && status != http.StatusOK {
		err = fmt.Errorf("%w: description with status %d", ErrFormat, status)
	}
	if err != nil {
		return nil, netip.Addr{}, err
	}
	found, err := services(body, location, c.gateway)
	if err != nil {
		return nil, netip.Addr{}, err
	}
	for _, s := range found {
		d := &Device{c, s}
		var a netip.Addr
		if a, err = d.ExternalAddress(ctx); err == nil {
			return d, a, nil
		}
	}
	return nil, netip.Addr{}, err
}

func (c *Client) do(r *http.Request) (status int, body []byte, err error) {
	answer, err := c.http.Do(r)
	if err != nil {
		return 0, nil, err
	}
	defer answer.Body.Close()
	body, err = io.ReadAll(io.LimitReader(answer.Body, maxBody+1))
	if err == nil && len(body) > maxBody {
		err = fmt.Errorf("%w: more than %d bytes", ErrFormat, maxBody)
	}
	return answer.StatusCode, body, err
}

// ExternalAddress asks for the address outside.
func (d *Device) ExternalAddress(ctx context.Context) (netip.Addr, error) {
	r, err := d.call(ctx, "GetExternalIPAddress")
	if err != nil {
		return netip.Addr{}, err
	}
	a, err := netip.ParseAddr(strings.TrimSpace(r.Address))
	if err != nil || a.IsUnspecified() {
		return netip.Addr{}, ErrNoAddress
	}
	return a, nil
}

// UPnP's error codes (WANIPConnection:2 section 2.5).
const (
	codeConflict      = 718
	codePermanentOnly = 725
)

// Map maps UDP port external to internal for life, in whole seconds, and gives the life that was granted. A device that knows only permanent
// mappings gets one, which counts as granted for life: who renews it need not care. Mapping it again renews it.
func (d *Device) Map(ctx context.Context, external uint16, internal netip.AddrPort, life time.Duration) (time.Duration, error) {
	add := func(life time.Duration) error {
		_, err := d.call(ctx, "AddPortMapping", // all arguments, in this order
			"NewRemoteHost", "", "NewExternalPort", fmt.Sprint(external), "NewProtocol", "UDP",
			"NewInternalPort", fmt.Sprint(internal.Port()), "NewInternalClient", internal.Addr().String(), "NewEnabled", "1",
			"NewPortMappingDescription", "warren", "NewLeaseDuration", fmt.Sprint(int(life/time.Second)))
		return err
	}
	err := add(life)
	var code *codeError
	if errors.As(err, &code) && code.code == codePermanentOnly {
		err = add(0)
	}
	return life, err
}

// Unmap deletes the mapping of UDP port external.
func (d *Device) Unmap(ctx context.Context, external uint16) error {
	_, err := d.call(ctx, "DeletePortMapping", "NewRemoteHost", "", "NewExternalPort", fmt.Sprint(external), "NewProtocol", "UDP")
	return err
}

// codeError is a refusal with UPnP's code.
type codeError struct {
	action string
	code   int
}

func (e *codeError) Error() string { return fmt.Sprintf("%s: UPnP error %d", e.action, e.code) }

func (e *codeError) Is(target error) bool {
	return target == ErrConflict && e.code == codeConflict || target == ErrRefused && e.code != codeConflict
}

// result is what is read of an answer.
type result struct {
	Address string `xml:"NewExternalIPAddress"`
}

type envelope struct {
	Body struct {
		Fault *struct {
			Code int `xml:"detail>UPnPError>errorCode"`
		} `xml:"Fault"`
		Result result `xml:",any"`
	} `xml:"Body"`
}

// call does one action. args are names and values, which must need no escaping.
func (d *Device) call(ctx context.Context, action string, args ...string) (result, error) {
	var b strings.Builder
	fmt.Fprintf(&b, `<?xml version="1.0"?>`+"\r\n"+`<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/" `+
		`s:encodingStyle="http://schemas.xmlsoap.org/soap/encoding/"><s:Body><u:%s xmlns:u="%s">`, action, d.service.kind)
	for i := 0; i+1 < len(args); i += 2 {
		fmt.Fprintf(&b, "<%s>%s</%s>", args[i], args[i+1], args[i])
	}
	fmt.Fprintf(&b, "</u:%s></s:Body></s:Envelope>\r\n", action)
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, d.service.control.String(), strings.NewReader(b.String()))
	if err != nil {
		return result{}, err
	}
	request.Header.Set("Content-Type", `text/xml; charset="utf-8"`)
	request.Header["SOAPAction"] = []string{fmt.Sprintf("%q", d.service.kind+"#"+action)} // some devices insist on the capitals
	status, body, err := d.client.do(request)
	if err != nil {
		return result{}, fmt.Errorf("%s: %w", action, err)
	}
	return readResult(action, status, body)
}

func readResult(action string, status int, body []byte) (result, error) {
	var e envelope
	err := xml.Unmarshal(body, &e)
	switch {
	case err == nil && e.Body.Fault != nil:
		return result{}, &codeError{action, e.Body.Fault.Code}
	case status != http.StatusOK:
		return result{}, fmt.Errorf("%w: %s with status %d", ErrFormat, action, status)
	case err != nil:
		return result{}, fmt.Errorf("%w: %s: %w", ErrFormat, action, err)
	}
	return e.Body.Result, nil
}
