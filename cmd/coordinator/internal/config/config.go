// Package config reads the coordinator's configuration: defaults, then the file, then flags. Load reads the file; Config.Check says what is
// wrong with the result before anything is started.
package config

import (
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"strings"
	"time"

	"warren/cmd/internal/cmdline"
	"warren/coord/domain"
	"warren/internal/runlog"
	"warren/proto/record"
	"warren/proto/token"
	pb "warren/proto/warrenv1"
)

// Defaults.
const (
	DefaultListen = ":443"
	DefaultSTUN   = ":3478"
)

// Config is what serve runs with. The names in the file are those of the flags.
type Config struct {
	State  string   `toml:"state"`
	Listen string   `toml:"listen"`
	URLs   []string `toml:"url"`
	// STUN is the UDP address of the STUN server; "off" for none.
	STUN string `toml:"stun"`
	// TLS is "self", "off" or "CERT,KEY".
	TLS     string `toml:"tls"`
	Metrics string `toml:"metrics"`
	// Region says where the relay inside is, in the administrator's words.
	Region string `toml:"region"`
	// Relay is false where the relay inside is not wanted.
	Relay bool `toml:"relay"`
	// RelayRate is how much one device may send through the relay, in Mbit/s; 0 for any amount.
	RelayRate int `toml:"relay-rate"`
	// IPv4 and IPv6 are the prefixes for devices' addresses, chosen at the first start.
	IPv4      string        `toml:"ipv4"`
	IPv6      string        `toml:"ipv6"`
	MapMaxAge time.Duration `toml:"map-max-age"`
	// LogLevel is a word of runlog.Levels.
	LogLevel string `toml:"log-level"`

	// origin tells where in a file each setting was read: "FILE:LINE".
	origin map[string]string
}

// Default is what holds when nothing else is said.
func Default(stateDir string) Config {
	return Config{State: stateDir, Listen: DefaultListen, STUN: DefaultSTUN, TLS: "self", Relay: true, MapMaxAge: 30 * 24 * time.Hour, LogLevel: "info"}
}

// TLSMode gives the mode, and the files with CERT,KEY.
func (c *Config) TLSMode() (mode pb.TLSMode, cert, key string, err error) {
	switch c.TLS {
	case "self":
		return pb.TLSMode_TLS_MODE_SELF, "", "", nil
	case "off":
		return pb.TLSMode_TLS_MODE_OFF, "", "", nil
	}
	cert, key, ok := strings.Cut(c.TLS, ",")
	if !ok || cert == "" || key == "" {
		return 0, "", "", fmt.Errorf("%q: want self, off, or the two files CERT,KEY", c.TLS)
	}
	return pb.TLSMode_TLS_MODE_PUBLIC, cert, key, nil
}

// Prefixes gives the address prefixes; the zero prefix where none was configured.
func (c *Config) Prefixes() (v4, v6 netip.Prefix, err error) {
	if v4, err = prefix(c.IPv4, false); err == nil {
		v6, err = prefix(c.IPv6, true)
	}
	return v4, v6, err
}

func prefix(text string, six bool) (p netip.Prefix, err error) {
	if text == "" {
		return p, nil
	}
	if p, err = netip.ParsePrefix(text); err != nil {
		return p, fmt.Errorf("prefix %q is not of the form ADDRESS/BITS", text)
	}
	return p, domain.CheckPrefix(p, six)
}

// Bounds of MapMaxAge. The lesser one keeps a map usable for long enough to be renewed.
const (
	minMapMaxAge = time.Hour
	maxMapMaxAge = 366 * 24 * time.Hour
)

var errNoName = errors.New("with certificate files the coordinator must be told the name that they are for: --url https://NAME")

// Check finds what cannot work. Its error names the setting, where it was made, and what is allowed.
func (c *Config) Check() error {
	mode, _, _, err := c.TLSMode()
	if err != nil {
		return c.wrong("tls", err)
	}
	if mode == pb.TLSMode_TLS_MODE_PUBLIC && len(c.URLs) == 0 {
		return c.wrong("tls", errNoName)
	}
	if err := record.CheckRegion(c.Region); err != nil {
		return c.wrong("region", err)
	}
	if err := CheckRelayRate(c.RelayRate); err != nil {
		return c.wrong("relay-rate", err)
	}
	if _, err := prefix(c.IPv4, false); err != nil {
		return c.wrong("ipv4", err)
	}
	if _, err := prefix(c.IPv6, true); err != nil {
		return c.wrong("ipv6", err)
	}
	for _, a := range []struct{ name, value, without string }{{"listen", c.Listen, ""}, {"stun", c.STUN, "off"}, {"metrics", c.Metrics, ""}} {
		if a.value == a.without && a.name != "listen" {
			continue
		}
		if err := cmdline.CheckListen(a.value); err != nil {
			return c.wrong(a.name, err)
		}
	}
	if len(c.URLs) > record.MaxURLs {
		return c.wrong("url", fmt.Errorf("%d URLs, more than %d", len(c.URLs), record.MaxURLs))
	}
	for _, u := range c.URLs {
		if err := token.CheckEndpoint(u, urlMode(mode, u)); err != nil {
			return c.wrong("url", err)
		}
	}
	if _, err := runlog.ParseLevel(c.LogLevel); err != nil {
		return c.wrong("log-level", err)
	}
	if c.MapMaxAge < minMapMaxAge || c.MapMaxAge > maxMapMaxAge {
		return c.wrong("map-max-age", fmt.Errorf("%s: want %s to %s", c.MapMaxAge, minMapMaxAge, maxMapMaxAge))
	}
	return nil
}

// maxRelayRate is more than any device has, in Mbit/s.
const maxRelayRate = 1_000_000

// CheckRelayRate finds a limit that is none, in Mbit/s.
func CheckRelayRate(mbit int) error {
	if mbit < 0 || mbit > maxRelayRate {
		return fmt.Errorf("%d: want 0, for any amount, to %d Mbit/s", mbit, maxRelayRate)
	}
	return nil
}

// RelayBytes is RelayRate in bytes a second.
func RelayBytes(mbit int) int { return mbit * 1_000_000 / 8 }

// Change is a setting that differs between two configurations, as text.
type Change struct{ Setting, From, To string }

// Changes are the settings in which next differs from c, in the order of Config.
func (c *Config) Changes(next *Config) (out []Change) {
	was, is := reflect.ValueOf(c).Elem(), reflect.ValueOf(next).Elem()
	for _, f := range reflect.VisibleFields(was.Type()) {
		name := f.Tag.Get("toml")
		if name == "" {
			continue
		}
		if from, to := fmt.Sprint(was.FieldByIndex(f.Index)), fmt.Sprint(is.FieldByIndex(f.Index)); from != to {
			out = append(out, Change{name, from, to})
		}
	}
	return out
}

// wrong says which setting is wrong, and in which file or flag it was made.
func (c *Config) wrong(name string, err error) error {
	if at := c.origin[name]; at != "" {
		return fmt.Errorf("configuration %s: %s: %w", at, name, err)
	}
	return fmt.Errorf("--%s: %w", name, err)
}

// urlMode tells how agents recognise TLS at u: with --tls off, an https URL is a reverse proxy's, with a public certificate.
func urlMode(mode pb.TLSMode, u string) pb.TLSMode {
	if mode == pb.TLSMode_TLS_MODE_OFF && strings.HasPrefix(u, "https://") {
		return pb.TLSMode_TLS_MODE_PUBLIC
	}
	return mode
}
