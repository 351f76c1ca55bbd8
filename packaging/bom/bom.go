// Package bom lists what a Go program was made of, from what the go command stamped into it: Make gives a CycloneDX bill of materials.
package bom

import (
	"encoding/json"
	"net/url"
	"runtime/debug"
	"strings"
	"time"
)

// What follows is of CycloneDX 1.5, https://cyclonedx.org/docs/1.5/json/.
type document struct {
	Format     string      `json:"bomFormat"`
	Spec       string      `json:"specVersion"`
	Version    int         `json:"version"`
	Metadata   metadata    `json:"metadata"`
	Components []component `json:"components"`
}

type metadata struct {
	Timestamp string    `json:"timestamp"`
	Component component `json:"component"`
}

type component struct {
	Ref        string     `json:"bom-ref"`
	Type       string     `json:"type"`
	Name       string     `json:"name"`
	Version    string     `json:"version,omitempty"`
	Package    string     `json:"purl,omitempty"`
	Hashes     []hash     `json:"hashes,omitempty"`
	Properties []property `json:"properties,omitempty"`
}

type hash struct {
	Algorithm string `json:"alg"`
	Content   string `json:"content"`
}

type property struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// Make describes the program name with the hash sum of its file, in hexadecimal, as it was at a time. Modules come in the order in which the program
// has them, which is that of their paths.
func Make(info *debug.BuildInfo, name, version, sha256 string, at time.Time) ([]byte, error) {
	d := document{Format: "CycloneDX", Spec: "1.5", Version: 1, Metadata: metadata{
		Timestamp: at.UTC().Format(time.RFC3339),
		Component: component{Ref: name, Type: "application", Name: name, Version: version, Hashes: []hash{{"SHA-256", sha256}}},
	}}
	for _, s := range info.Settings {
		switch s.Key {
		case "GOOS", "GOARCH", "CGO_ENABLED":
			d.Metadata.Component.Properties = append(d.Metadata.Component.Properties, property{"go:" + s.Key, s.Value})
		}
	}
	d.Components = append(d.Components, module("std", strings.TrimPrefix(info.GoVersion, "go"), ""))
	for _, m := range info.Deps {
		if m.Replace != nil {
			m = m.Replace
		}
		d.Components = append(d.Components, module(m.Path, m.Version, m.Sum))
	}
	return json.MarshalIndent(d, "", "  ")
}

// module names one as a package URL. Its sum is no hash of one file, so that it is told as the go command writes it.
func module(path, version, sum string) component {
	purl := "pkg:golang/" + path + "@" + url.QueryEscape(version)
	c := component{Ref: purl, Type: "library", Name: path, Version: version, Package: purl}
	if sum != "" {
		c.Properties = []property{{"go:sum", sum}}
	}
	return c
}
