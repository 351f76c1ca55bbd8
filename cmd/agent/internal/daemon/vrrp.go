package daemon

import (
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"warren/tunnel/gateway"
)

// What the file for keepalived says: a number that its configuration gives a weight.
const (
	vrrpWell = "0\n"
	vrrpSick = "1\n"
)

// vrrp tells keepalived, by a file that it tracks, whether this gateway can do its work, so that the LAN's packets go to one that can. That
// the agent has died the file cannot say: keepalived sees it by the tunnel's interface, which is gone then.
type vrrp struct {
	path string
	log  *slog.Logger
	said string    // what is in the file; empty: there is none, or it could not be written
	well time.Time // since when this gateway is well; zero: it is not
}

// vrrpSettle is how long a gateway that was not well has to be so again before it says so: each change moves the LAN's packets.
const vrrpSettle = 5 * time.Second

// newVRRP takes back what the last run has said, if it said anything.
func newVRRP(path string, log *slog.Logger) *vrrp {
	v := &vrrp{path: path, log: log}
	if _, err := os.Stat(path); err == nil {
		v.tell(false, time.Time{})
	}
	return v
}

// tell writes the file if it says anything else. Readers see one or the other. It need not outlive a loss of power, so nothing waits for the disk.
func (v *vrrp) tell(well bool, now time.Time) {
	if v == nil {
		return
	}
	switch {
	case !well:
		v.well = time.Time{}
	case v.well.IsZero():
		v.well = now
	}
	say := vrrpSick
	if well && (v.said != vrrpSick || now.Sub(v.well) >= vrrpSettle) {
		say = vrrpWell
	}
	if v.said == say || v.said == "" && !well && !exists(v.path) {
		return // a device that is no gateway has no such file
	}
	next := filepath.Join(filepath.Dir(v.path), "."+filepath.Base(v.path)+".tmp")
	err := os.WriteFile(next, []byte(say), 0o600)
	if err == nil {
		err = os.Rename(next, v.path)
	}
	if err != nil {
		v.log.Error("keepalived is not told how this gateway does", "file", v.path, "err", err)
		return
	}
	v.said = say
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// noteVRRP tells keepalived how this gateway does: whether it reaches the LAN of each CIDR that it carries, through its own forwarding, and any of the
// gateways that it uses itself.
func (n *networks) noteVRRP() {
	if n.vrrp != nil && n.known.m != nil {
		n.vrrp.tell(n.fit(), n.now())
	}
}

func (n *networks) fit() bool {
	carries := false
	for _, s := range n.carrier.Status() {
		if s.Health == gateway.Failing {
			return false
		}
		carries = true
	}
	if !carries {
		return false
	}
	silent, others := 0, 0
	for _, c := range n.chooser.Status() {
		if c.Own || c.Prefix.Bits() == 0 {
			continue
		}
		for _, g := range c.Gateways {
			if others++; g.State == "silent" {
				silent++
			}
		}
	}
	return others == 0 || silent < others
}
