// Package config reads the coordinator's configuration: defaults, then the file, then flags. Load reads the file; Config.Check says what is
// wrong with the result before anything is started.
package config

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/BurntSushi/toml"

	"warren/coord/domain"
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
	// Relay is false where the relay inside is not wanted.
	Relay bool `toml:"relay"`
	// IPv4 and IPv6 are the prefixes for devices' addresses, chosen at the first start.
	IPv4      string        `toml:"ipv4"`
	IPv6      string        `toml:"ipv6"`
	MapMaxAge time.Duration `toml:"map-max-age"`
}

// Default is what holds when nothing else is said.
func Default(stateDir string) Config {
	return Config{State: stateDir, Listen: DefaultListen, STUN: DefaultSTUN, TLS: "self", Relay: true, MapMaxAge: 30 * 24 * time.Hour}
}

// Load reads the file over c. An unknown name is an error that says which.
func (c *Config) Load(path string) error {
	meta, err := toml.DecodeFile(path, c)
	if err != nil {
		var parse toml.ParseError
		if errors.As(err, &parse) {
			return fmt.Errorf("configuration %s: %s", path, parse.ErrorWithPosition())
		}
		if errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("configuration %s does not exist", path)
		}
		return fmt.Errorf("configuration %s: %w", path, err)
	}
	if unknown := meta.Undecoded(); len(unknown) > 0 {
		var names []string
		for _, k := range unknown {
			names = append(names, k.String())
		}
		return fmt.Errorf("configuration %s: unknown setting %s", path, strings.Join(names, ", "))
	}
	return nil
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
		return 0, "", "", fmt.Errorf("tls %q: want self, off, or the two files CERT,KEY", c.TLS)
	}
	return pb.TLSMode_TLS_MODE_PUBLIC, cert, key, nil
}

// Prefixes gives the address prefixes; the zero prefix where none was configured.
func (c *Config) Prefixes() (v4, v6 netip.Prefix, err error) {
	for _, p := range []struct {
		text string
		into *netip.Prefix
		six  bool
	}{{c.IPv4, &v4, false}, {c.IPv6, &v6, true}} {
		if p.text == "" {
			continue
		}
		if *p.into, err = netip.ParsePrefix(p.text); err != nil {
			return v4, v6, fmt.Errorf("prefix %q is not of the form ADDRESS/BITS", p.text)
		}
		if err := domain.CheckPrefix(*p.into, p.six); err != nil {
			return v4, v6, err
		}
	}
	return v4, v6, nil
}

// minMapMaxAge keeps a map usable for long enough to be renewed.
const minMapMaxAge = time.Hour

// Check finds what cannot work.
func (c *Config) Check() error {
	mode, _, _, err := c.TLSMode()
	if err != nil {
		return err
	}
	if _, _, err := c.Prefixes(); err != nil {
		return err
	}
	for name, addr := range map[string]string{"listen": c.Listen, "stun": c.STUN, "metrics": c.Metrics} {
		if addr == "" && name == "metrics" || addr == "off" && name == "stun" {
			continue
		}
		if _, _, err := net.SplitHostPort(addr); err != nil {
			return fmt.Errorf("%s %q is not of the form [HOST]:PORT", name, addr)
		}
	}
	for _, u := range c.URLs {
		if err := token.CheckEndpoint(u, urlMode(mode, u)); err != nil {
			return err
		}
	}
	if c.MapMaxAge < minMapMaxAge {
		return fmt.Errorf("map-max-age %s is shorter than %s", c.MapMaxAge, minMapMaxAge)
	}
	return nil
}

// urlMode tells how agents recognise TLS at u: with --tls off, an https URL is a reverse proxy's, with a public certificate.
func urlMode(mode pb.TLSMode, u string) pb.TLSMode {
	if mode == pb.TLSMode_TLS_MODE_OFF && strings.HasPrefix(u, "https://") {
		return pb.TLSMode_TLS_MODE_PUBLIC
	}
	return mode
}
