//go:build !linux

package cli

import "warren/internal/bugreport"

// hostSources are what the host's own programs say.
func hostSources() []bugreport.Source {
	return []bugreport.Source{bugreport.Commands("links.txt", "ifconfig -a", "ipconfig /all"), bugreport.Commands("routes.txt", "netstat -rn")}
}
