package config

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/BurntSushi/toml"
)

// form is what a setting looks like in a file.
type form struct {
	fits func(any) bool
	want string
}

func forms() map[string]form {
	return map[string]form{
		"state":       {isText, `a directory in quotes`},
		"listen":      {isText, `an address in quotes, such as ":443"`},
		"url":         {isTexts, `a list of URLs, such as ["https://warren.example"]`},
		"stun":        {isText, `an address in quotes, such as ":3478", or "off"`},
		"tls":         {isText, `"self", "off" or "CERT,KEY"`},
		"metrics":     {isText, `an address in quotes, such as "127.0.0.1:9100"`},
		"relay":       {isBool, `true or false`},
		"relay-rate":  {isWhole, fmt.Sprintf("a whole number of Mbit/s, from 0 to %d", maxRelayRate)},
		"region":      {isText, `a word in quotes`},
		"ipv4":        {isText, `a prefix in quotes, such as "100.80.0.0/16"`},
		"ipv6":        {isText, `a prefix in quotes, such as "fd12:3456:789a::/48"`},
		"map-max-age": {isDuration, fmt.Sprintf("a duration in quotes, from %q to %q", minMapMaxAge, maxMapMaxAge)},
	}
}

func isText(v any) bool { _, ok := v.(string); return ok }

func isWhole(v any) bool { _, ok := v.(int64); return ok }

func isBool(v any) bool { _, ok := v.(bool); return ok }

func isTexts(v any) bool {
	list, ok := v.([]any)
	return ok && !slices.ContainsFunc(list, func(v any) bool { return !isText(v) })
}

func isDuration(v any) bool {
	text, ok := v.(string)
	_, err := time.ParseDuration(text)
	return ok && err == nil
}

// Load reads the file over c. The error of a file that cannot be read is an *fs.PathError; any other names file, line, setting and what
// is allowed.
func (c *Config) Load(path string) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("configuration: %w", err)
	}
	text, values := string(b), map[string]any{}
	meta, err := toml.Decode(text, &values)
	var parse toml.ParseError
	switch {
	case errors.As(err, &parse):
		return fmt.Errorf("configuration %s:%d: %s", path, max(parse.Position.Line, 1), parse.Message)
	case err != nil:
		return fmt.Errorf("configuration %s: %w", path, err)
	}
	c.origin = map[string]string{}
	for _, k := range meta.Keys() {
		name := k[0]
		at := place(path, text, name)
		f, known := forms()[name]
		if !known {
			return fmt.Errorf("configuration %s: unknown setting %s; there are %s", at, name, strings.Join(slices.Sorted(maps.Keys(forms())), ", "))
		}
		if !f.fits(values[name]) {
			return fmt.Errorf("configuration %s: %s: want %s", at, name, f.want)
		}
		c.origin[name] = at
	}
	_, err = toml.Decode(text, c)
	return err
}

// place is FILE:LINE of a setting or table.
func place(path, text, name string) string {
	at := regexp.MustCompile(`(?m)^[ \t]*\[*[ \t]*"?` + regexp.QuoteMeta(name) + `"?[ \t]*[=.\]]`).FindStringIndex(text)
	if at == nil {
		return path
	}
	return fmt.Sprintf("%s:%d", path, strings.Count(text[:at[0]], "\n")+1)
}

// Named says that the setting was made by a flag, whatever a file says of it.
func (c *Config) Named(setting string) { delete(c.origin, setting) }
