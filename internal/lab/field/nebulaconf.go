package field

import (
	"bytes"
	_ "embed"
	"net/netip"
	"text/template"
)

// nebulaPort is the lighthouse's.
const nebulaPort = 4242

// nebulaConfig is what differs between configurations of nebula.
type nebulaConfig struct {
	CA, Cert, Key string // files
	Lighthouse    netip.Addr
	LighthouseAt  netip.AddrPort
	IsLighthouse  bool
}

//go:embed nebula.yml.tmpl
var nebulaTemplate string

// yaml writes the configuration file.
func (c nebulaConfig) yaml() []byte { return fill(nebulaTemplate, c) }

// fill executes a template that is part of the program, with data that it is made for.
func fill(text string, data any) []byte {
	var out bytes.Buffer
	if err := template.Must(template.New("").Parse(text)).Execute(&out, data); err != nil {
		panic(err) // the template is wrong; the tests see that it is not
	}
	return out.Bytes()
}
