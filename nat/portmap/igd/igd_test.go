package igd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var gateway = netip.MustParseAddr("127.0.0.1")

func answer(location string) string {
	return "HTTP/1.1 200 OK\r\nCACHE-CONTROL: max-age=120\r\nST: urn:schemas-upnp-org:device:InternetGatewayDevice:1\r\n" +
		"USN: uuid:1::urn:schemas-upnp-org:device:InternetGatewayDevice:1\r\nEXT:\r\nSERVER: x\r\nLOCATION: " + location + "\r\n\r\n"
}

func TestLocation(t *testing.T) {
	u, err := Location([]byte(answer("http://127.0.0.1:5000/rootDesc.xml")), gateway)
	if err != nil || u.String() != "http://127.0.0.1:5000/rootDesc.xml" {
		t.Fatalf("%v, %v", u, err)
	}
	for name, tc := range map[string]struct {
		b    string
		want error
	}{
		"another host":  {answer("http://192.0.2.1:5000/rootDesc.xml"), ErrElsewhere},
		"a name":        {answer("http://localhost:5000/rootDesc.xml"), ErrElsewhere},
		"https":         {answer("https://127.0.0.1/rootDesc.xml"), ErrElsewhere},
		"file":          {answer("file:///etc/passwd"), ErrElsewhere},
		"user":          {answer("http://127.0.0.1@192.0.2.1/"), ErrElsewhere},
		"user, ours":    {answer("http://192.0.2.1@127.0.0.1/"), ErrElsewhere},
		"other form":    {answer("http://2130706433/"), ErrElsewhere},
		"relative":      {answer("/rootDesc.xml"), ErrElsewhere},
		"too long":      {answer("http://127.0.0.1/" + strings.Repeat("x", maxURL)), ErrElsewhere},
		"none":          {"HTTP/1.1 200 OK\r\nST: urn:schemas-upnp-org:device:InternetGatewayDevice:1\r\n\r\n", ErrElsewhere},
		"another kind":  {strings.ReplaceAll(answer("http://127.0.0.1/"), "InternetGatewayDevice", "MediaServer"), ErrFormat},
		"not found":     {strings.Replace(answer("http://127.0.0.1/"), "200 OK", "404 Not Found", 1), ErrFormat},
		"announcement":  {"NOTIFY * HTTP/1.1\r\nLOCATION: http://127.0.0.1/\r\n\r\n", ErrFormat},
		"empty":         {"", ErrFormat},
		"far too long":  {answer("http://127.0.0.1/" + strings.Repeat("x", 2*maxAnswer)), ErrFormat},
		"broken escape": {answer("http://127.0.0.1/%zz"), ErrFormat},
	} {
		if u, err := Location([]byte(tc.b), gateway); !errors.Is(err, tc.want) {
			t.Errorf("%s: %v, %v; want %v", name, u, err, tc.want)
		}
	}
}

const inner = `<device><serviceList><service><serviceType>urn:schemas-upnp-org:service:%s</serviceType><controlURL>%s</controlURL></service></serviceList></device>`

func description(base string, devices ...string) []byte {
	return []byte(`<?xml version="1.0"?><root xmlns="urn:schemas-upnp-org:device-1-0">` + base + `<device><deviceList><device><deviceList>` +
		strings.Join(devices, "") + `</deviceList></device></deviceList></device></root>`)
}

func TestServices(t *testing.T) {
	location := &url.URL{Scheme: "http", Host: "127.0.0.1:5000", Path: "/a/desc.xml"}
	ip := fmt.Sprintf(inner, "WANIPConnection:1", "/ctl/IPConn")
	ppp := fmt.Sprintf(inner, "WANPPPConnection:1", "ctl")
	ip2 := fmt.Sprintf(inner, "WANIPConnection:2", "http://127.0.0.1:6000/x")
	for name, tc := range map[string]struct {
		b    []byte
		want []string
	}{
		"one":              {description("", ip), []string{"http://127.0.0.1:5000/ctl/IPConn"}},
		"better first":     {description("", ppp, ip, ip2), []string{"http://127.0.0.1:6000/x", "http://127.0.0.1:5000/ctl/IPConn", "http://127.0.0.1:5000/a/ctl"}},
		"base":             {description("<URLBase>http://127.0.0.1:7000/</URLBase>", ip), []string{"http://127.0.0.1:7000/ctl/IPConn"}},
		"another's base":   {description("<URLBase>http://192.0.2.1/</URLBase>", ip), nil},
		"elsewhere":        {description("", fmt.Sprintf(inner, "WANIPConnection:1", "http://192.0.2.1/ctl")), nil},
		"elsewhere, short": {description("", fmt.Sprintf(inner, "WANIPConnection:1", "//192.0.2.1/ctl")), nil},
		"another service":  {description("", fmt.Sprintf(inner, "Layer3Forwarding:1", "/ctl")), nil},
		"nothing":          {description(""), nil},
		"not XML":          {[]byte("<html>"), nil},
		"too many":         {description("", strings.Repeat(ip, 100)), []string{8: ""}},
		"too long":         {description("", ip, strings.Repeat(" ", maxBody)), nil},
	} {
		got, err := services(tc.b, location, gateway)
		var urls []string
		for _, s := range got {
			urls = append(urls, s.control.String())
		}
		if len(tc.want) == 9 {
			if len(got) != maxServices {
				t.Errorf("%s: %d services", name, len(got))
			}
			continue
		}
		if diff := cmp.Diff(tc.want, urls); diff != "" || (err == nil) != (tc.want != nil) {
			t.Errorf("%s: %v\n%s", name, err, diff)
		}
	}
}

// device is a fake one.
type device struct {
	*httptest.Server
	description []byte
	reply       func(action, body string) (int, string)
	hits        atomic.Int32
}

func serve(t *testing.T) *device {
	d := &device{description: description("", fmt.Sprintf(inner, "WANIPConnection:1", "/ctl"))}
	d.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		d.hits.Add(1)
		if r.URL.Path != "/ctl" {
			w.Write(d.description)
			return
		}
		b, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		_, action, _ := strings.Cut(strings.Trim(r.Header["Soapaction"][0], `"`), "#")
		status, text := d.reply(action, string(b))
		w.WriteHeader(status)
		io.WriteString(w, text)
	}))
	t.Cleanup(d.Close)
	d.reply = func(string, string) (int, string) { return 200, ok("GetExternalIPAddress", "198.51.100.9") }
	return d
}

func ok(action, address string) string {
	return fmt.Sprintf(`<?xml version="1.0"?><s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"><s:Body><u:%sResponse xmlns:u="x">`+
		`<NewExternalIPAddress>%s</NewExternalIPAddress></u:%sResponse></s:Body></s:Envelope>`, action, address, action)
}

func fault(code int) string {
	return fmt.Sprintf(`<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"><s:Body><s:Fault><faultcode>s:Client</faultcode>`+
		`<faultstring>UPnPError</faultstring><detail><UPnPError xmlns="urn:schemas-upnp-org:control-1-0"><errorCode>%d</errorCode>`+
		`</UPnPError></detail></s:Fault></s:Body></s:Envelope>`, code)
}

func (d *device) open(t *testing.T) (*Device, netip.Addr, error) {
	t.Helper()
	u, err := url.Parse(d.URL + "/desc.xml")
	if err != nil {
		t.Fatal(err)
	}
	return NewClient(gateway, new(net.Dialer).DialContext).Open(t.Context(), u)
}

func TestDevice(t *testing.T) {
	d := serve(t)
	got, address, err := d.open(t)
	if err != nil || address.String() != "198.51.100.9" {
		t.Fatalf("%v, %v", address, err)
	}
	var actions []string
	d.reply = func(action, body string) (int, string) {
		lease := "-"
		if _, after, found := strings.Cut(body, "<NewLeaseDuration>"); found {
			lease, _, _ = strings.Cut(after, "<")
		}
		actions = append(actions, action+" "+lease)
		if action == "AddPortMapping" && lease != "0" {
			return 500, fault(codePermanentOnly)
		}
		return 200, ok(action, "")
	}
	life, err := got.Map(t.Context(), 4000, netip.MustParseAddrPort("192.168.1.5:41641"), time.Hour)
	if err != nil || life != time.Hour {
		t.Errorf("%s, %v", life, err)
	}
	if err := got.Unmap(t.Context(), 4000); err != nil {
		t.Error(err)
	}
	if diff := cmp.Diff([]string{"AddPortMapping 3600", "AddPortMapping 0", "DeletePortMapping -"}, actions); diff != "" {
		t.Error(diff)
	}
}

func TestRefusals(t *testing.T) {
	d := serve(t)
	got, _, err := d.open(t)
	if err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		status int
		body   string
		want   error
	}{
		"conflict":     {500, fault(718), ErrConflict},
		"unauthorised": {500, fault(606), ErrRefused},
		"no code":      {500, "oops", ErrFormat},
		"not XML":      {200, "oops", ErrFormat},
		"redirect":     {302, "", ErrFormat},
		"too long":     {200, strings.Repeat(" ", maxBody+1), ErrFormat},
	} {
		d.reply = func(string, string) (int, string) { return tc.status, tc.body }
		if _, err := got.Map(t.Context(), 1, netip.MustParseAddrPort("192.168.1.5:1"), time.Hour); !errors.Is(err, tc.want) {
			t.Errorf("%s: %v, want %v", name, err, tc.want)
		}
	}
	for _, a := range []string{"", "0.0.0.0", "nonsense"} {
		d.reply = func(action, _ string) (int, string) { return 200, ok(action, a) }
		if _, err := got.ExternalAddress(t.Context()); !errors.Is(err, ErrNoAddress) {
			t.Errorf("address %q: %v", a, err)
		}
	}
}

// A redirect would lead to any host in reach of ours.
func TestNoRedirect(t *testing.T) {
	victim := serve(t)
	d := httptest.NewServer(http.RedirectHandler(victim.URL+"/desc.xml", http.StatusFound))
	defer d.Close()
	u, err := url.Parse(d.URL)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := NewClient(gateway, new(net.Dialer).DialContext).Open(t.Context(), u); !errors.Is(err, ErrFormat) || victim.hits.Load() != 0 {
		t.Errorf("%v, %d requests elsewhere", err, victim.hits.Load())
	}
}

func TestEndlessBody(t *testing.T) {
	d := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for b := make([]byte, 4096); ; {
			if _, err := w.Write(b); err != nil {
				return
			}
		}
	}))
	defer d.Close()
	u, err := url.Parse(d.URL)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := NewClient(gateway, new(net.Dialer).DialContext).Open(context.Background(), u); !errors.Is(err, ErrFormat) {
		t.Error(err)
	}
}

func FuzzLocation(f *testing.F) {
	f.Add([]byte(answer("http://127.0.0.1:5000/rootDesc.xml")))
	f.Add([]byte(answer("//127.0.0.1")))
	f.Fuzz(func(t *testing.T, b []byte) {
		u, err := Location(b, gateway)
		if err == nil && (u.Hostname() != "127.0.0.1" || u.Scheme != "http") {
			t.Fatal(u)
		}
	})
}

func FuzzDescription(f *testing.F) {
	f.Add(description("", fmt.Sprintf(inner, "WANIPConnection:1", "/ctl")))
	f.Add(description("<URLBase>http://127.0.0.1:7000/</URLBase>", fmt.Sprintf(inner, "WANPPPConnection:1", "x")))
	location := &url.URL{Scheme: "http", Host: "127.0.0.1:5000", Path: "/desc.xml"}
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := services(b, location, gateway)
		if err == nil && len(got) == 0 || len(got) > maxServices {
			t.Fatalf("%d services", len(got))
		}
		for _, s := range got {
			if s.control.Hostname() != "127.0.0.1" {
				t.Fatal(s.control)
			}
		}
	})
}

func FuzzResult(f *testing.F) {
	f.Add(200, []byte(ok("GetExternalIPAddress", "198.51.100.9")))
	f.Add(500, []byte(fault(718)))
	f.Fuzz(func(t *testing.T, status int, b []byte) {
		if r, err := readResult("x", status, b); err != nil && r != (result{}) {
			t.Fatalf("an error and %+v", r)
		}
	})
}
