package server

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"warren/coord/policy"
	"warren/coord/policy/compile"
	"warren/coord/store"
	"warren/proto/record"
)

// Report is what was found out about a policy document.
type Report struct {
	// Errors keep it from being put into force, and so does a test that fails.
	Errors, Warnings policy.Problems
	Tests            int
	Failures         []compile.Failure
	// Difference is against the policy in force.
	Difference compile.Difference
	// Routes are those that it would approve and those that it would take back. What follows from them is in Difference.
	Routes []RouteChange
	// LocksOut says that no device could reach the coordinator's host, and one can now.
	LocksOut bool
	// TooLarge names a device whose map could not hold its grants.
	TooLarge string
	// Unchanged says that it is the text in force already.
	Unchanged bool
}

// Refused is why a policy was not put into force.
type Refused struct {
	why    string
	Report *Report
}

func (r *Refused) Error() string { return r.why }

// against says what speaks against a document, or nothing.
func (r *Report) against(force bool) string {
	switch {
	case len(r.Errors) > 0:
		return "the policy has errors; the one in force stays"
	case len(r.Failures) > 0:
		return fmt.Sprintf("%d of the policy's tests fail; the one in force stays", failedTests(r.Failures))
	case r.TooLarge != "":
		return r.TooLarge
	case r.LocksOut && !force:
		return "under this policy no device could reach the coordinator's host, and one can now; set it with --force if that is meant"
	}
	return ""
}

func failedTests(failures []compile.Failure) int {
	tests := map[string]bool{}
	for _, f := range failures {
		tests[f.Test] = true
	}
	return len(tests)
}

// examine parses a document and finds out what it would do to the network as it is.
func (s *Server) examine(ctx context.Context, text []byte) (*policy.Policy, *Report, error) {
	r := new(Report)
	p, err := policy.Parse(text)
	if err != nil {
		if !errors.As(err, &r.Errors) {
			return nil, nil, err
		}
		return nil, r, nil
	}
	old, dir := s.hub.directory()
	known, err := s.names(ctx, dir.Devices)
	if err != nil {
		return nil, nil, err
	}
	errs, warnings := p.Check(known)
	r.Errors, r.Warnings, r.Tests = errs, append(p.Warnings, warnings...), len(p.Tests)
	if len(errs) > 0 {
		return nil, r, nil
	}
	now := s.cfg.Now()
	var next compile.Directory
	next, r.Routes = s.hub.directoryUnder(p)
	r.Failures = compile.RunTests(p, next, now)
	r.Difference = compile.Diff(old, p, dir, next, now)
	r.LocksOut = compile.LockedOut(old, p, dir, next, s.ownHost(), now)
	r.TooLarge = s.tooLarge(compile.New(p, next, now), next)
	return p, r, nil
}

// names are the users and tags that devices and tokens have.
func (s *Server) names(ctx context.Context, devices []compile.Device) (policy.Names, error) {
	n := policy.Names{Users: map[string]bool{}, Tags: map[string]bool{}}
	add := func(owner string, tags []string) {
		if owner != "" {
			n.Users[owner] = true
		}
		for _, t := range tags {
			n.Tags[t] = true
		}
	}
	for _, d := range devices {
		add(d.Owner, d.Tags)
	}
	err := s.store.View(ctx, func(tx store.Tx) error {
		all, err := tx.Tokens()
		for _, t := range all {
			add(t.Owner, t.Tags)
		}
		return err
	})
	if s.cfg.Owner != "" {
		n.Users[s.cfg.Owner] = true
	}
	return n, err
}

// directory is the network as policies see it, and the policy in force.
func (h *hub) directory() (*policy.Policy, compile.Directory) {
	h.mu.Lock()
	defer h.mu.Unlock()
	dir := h.s.emptyDirectory()
	for _, d := range h.devices {
		if d.Visible() {
			dir.Devices = append(dir.Devices, compiledDevice(&d.Device))
		}
	}
	return h.access.compiled.Policy(), dir
}

// emptyDirectory is one without devices. Until users can sign in, a user is a name that devices have as their owner.
func (s *Server) emptyDirectory() compile.Directory {
	return compile.Directory{Prefixes: s.network.Prefixes}
}

// ownHost gives the addresses by which devices reach the host that the coordinator runs on: those of a device on it, and private ones, which
// may lie behind a gateway. A public address is reached without any policy.
func (s *Server) ownHost() (out []netip.Addr) {
	if s.cfg.HostAddresses == nil {
		return nil
	}
	all, err := s.cfg.HostAddresses()
	if err != nil {
		s.log.Warn("addresses of this host cannot be read; a policy is not checked for locking it out", "err", err)
	}
	for _, a := range all {
		own := false
		for _, p := range s.network.Prefixes {
			own = own || p.Contains(a)
		}
		if own || a.IsPrivate() {
			out = append(out, a)
		}
	}
	return out
}

// tooLarge looks for a device whose statement could not hold what it is to be told.
func (s *Server) tooLarge(c *compile.Compiler, dir compile.Directory) string {
	seen := map[[32]byte]bool{}
	for _, d := range dir.Devices {
		v := c.View(d.ID)
		if seen[v.Hash] && len(v.Routes) == 0 {
			continue
		}
		seen[v.Hash] = true
		if t := toldBy(v, anyPriority); t.fit && t.leftOut == 0 {
			continue
		}
		if t := toldBy(c.ViewByPeer(d.ID), anyPriority); !t.fit || t.leftOut > 0 {
			return fmt.Sprintf("a map cannot hold the %d grants and %d routes that concern the device %s, of %d bytes: it holds %d, %d and %d at most; "+
				"name CIDRs instead of many devices, or fewer grants for each", len(t.grants), len(t.routes)+t.leftOut, d.Name, t.size(), record.MaxGrants,
				record.MaxMapRoutes, maxTold)
		}
	}
	return ""
}
