// Package clientstest has a service for tests of what carries connections.
package clientstest

import (
	"bufio"
	"fmt"
	"net"
	"net/netip"
	"testing"
)

// Lines is a service that answers each line with itself behind a mark, and the end of lines with a farewell.
func Lines(t testing.TB) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				for s := bufio.NewScanner(c); s.Scan(); {
					fmt.Fprintln(c, "re:", s.Text())
				}
				fmt.Fprintln(c, "bye")
			}()
		}
	}()
	return l.Addr().(*net.TCPAddr).AddrPort()
}
