package config

import (
	"fmt"

	"warren/internal/runlog"
	"warren/internal/tomlfile"
)

// forms are what the settings look like in a file.
func forms() map[string]tomlfile.Form {
	return map[string]tomlfile.Form{
		"state":       tomlfile.Text(`a directory in quotes`),
		"listen":      tomlfile.Text(`an address in quotes, such as ":443"`),
		"url":         tomlfile.Texts(`a list of URLs, such as ["https://warren.example"]`),
		"stun":        tomlfile.Text(`an address in quotes, such as ":3478", or "off"`),
		"tls":         tomlfile.Text(`"self", "off" or "CERT,KEY"`),
		"metrics":     tomlfile.Text(`an address in quotes, such as "127.0.0.1:9100"`),
		"relay":       tomlfile.Bool(),
		"relay-rate":  tomlfile.Whole(fmt.Sprintf("a whole number of Mbit/s, from 0 to %d", maxRelayRate)),
		"region":      tomlfile.Text(`a word in quotes`),
		"ipv4":        tomlfile.Text(`a prefix in quotes, such as "100.80.0.0/16"`),
		"ipv6":        tomlfile.Text(`a prefix in quotes, such as "fd12:3456:789a::/48"`),
		"log-level":   tomlfile.Text(fmt.Sprintf("one of %q", runlog.Levels())),
		"map-max-age": tomlfile.Duration(fmt.Sprintf("a duration in quotes, from %q to %q", minMapMaxAge, maxMapMaxAge)),
	}
}

// Load reads the file over c. The error of a file that cannot be read is an *fs.PathError; any other names file, line, setting and what
// is allowed.
func (c *Config) Load(path string) error {
	f, err := tomlfile.Read(path, forms())
	if err != nil {
		return err
	}
	c.origin = map[string]string{}
	for name := range forms() {
		c.origin[name] = f.At(name)
	}
	return f.Decode(c)
}

// Named says that the setting was made by a flag, whatever a file says of it.
func (c *Config) Named(setting string) { delete(c.origin, setting) }
