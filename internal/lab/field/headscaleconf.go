package field

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"net/netip"
)

// headscaleConfig is what Headscale's configuration depends on.
type headscaleConfig struct {
	Dir       string     // for its files
	Address   netip.Addr // where devices reach it
	Cert, Key string     // files
}

//go:embed headscale.yml.tmpl
var headscaleTemplate string

// yaml writes the configuration file.
func (c headscaleConfig) yaml() []byte { return fill(headscaleTemplate, c) }

// parseJoinKey reads what "headscale preauthkeys create -o json" prints.
func parseJoinKey(text string) (string, error) {
	var k struct{ Key string }
	if err := json.Unmarshal([]byte(text), &k); err != nil {
		return "", fmt.Errorf("what headscale printed of the join key: %w: %q", err, text)
	}
	if k.Key == "" {
		return "", fmt.Errorf("headscale printed no join key: %q", text)
	}
	return k.Key, nil
}
