package server

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"time"

	"warren/coord/domain"
)

// A coordinator whose clock is set back, by which certificates or expiry may seem wrong, says so and goes on: devices follow what changes.
func TestClockSetBack(t *testing.T) {
	var said bytes.Buffer
	c := start(t, func(cfg *Config) { cfg.Log = slog.New(slog.NewTextHandler(&said, nil)) })
	tok := c.token(domain.TokenWish{Reusable: true})
	a := c.member(tok, "a")
	c.member(tok, "b")
	f := a.watch(0, 0)
	f.sees("a", "b")
	f.close()
	c.restart()
	if strings.Contains(said.String(), "clock") {
		t.Errorf("with the right clock it said\n%s", said.String())
	}
	c.stop()
	c.ahead.Store(int64(-400 * 24 * time.Hour))
	c.start()
	if !strings.Contains(said.String(), "this machine's clock is behind what has happened already; set it") {
		t.Errorf("it said\n%s", said.String())
	}
	f = f.resume()
	c.rename("b", "c")
	f.sees("a", "c")
	c.member(c.token(domain.TokenWish{}), "d")
	f.sees("a", "c", "d")
}
