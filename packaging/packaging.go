// Package packaging holds the texts by which service managers run Warren's programs, so that packages and "warren service install" use the same:
// Systemd and OpenRC give them, for programs in /usr/bin, and Config the settings. The folders beside it make packages.
package packaging

import (
	"embed"
	"fmt"
)

//go:embed systemd/*.service openrc/* config/*.toml
var texts embed.FS

// Systemd is the unit NAME.service; it panics if there is none.
func Systemd(name string) string { return text("systemd/" + name + ".service") }

// OpenRC is the script of a service; it panics if there is none.
func OpenRC(name string) string { return text("openrc/" + name) }

// Config is a reference configuration, in which nothing is set; it panics if there is none.
func Config(name string) string { return text("config/" + name) }

func text(path string) string {
	b, err := texts.ReadFile(path)
	if err != nil {
		panic(fmt.Sprintf("packaging: %v", err))
	}
	return string(b)
}
