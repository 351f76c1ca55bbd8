package onetable

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"

	"warren/internal/atomicfile"
	"warren/internal/hostroutes"
)

// maxRoutes bounds what is believed of a journal.
const maxRoutes = 65536

// journal names the routes that outlive the process, before they are added: some of them may never have been. Those into the tunnel end with its
// interface.
type journal struct {
	path string
	// boot says where it holds: after a restart of the system, none of its routes are left.
	boot   string
	routes []hostroutes.Route
	onDisk string
}

// entry is a route in the file.
type entry struct {
	Prefix    netip.Prefix `json:"prefix"`
	Gateway   netip.Addr   `json:"gateway,omitzero"`
	Interface int          `json:"interface"`
}

type file struct {
	Boot   string  `json:"boot"`
	Routes []entry `json:"routes"`
}

// readJournal returns nil if there is none that holds. One that cannot be read is removed: it would be in the way for ever.
func readJournal(path, boot string) (*journal, error) {
	if path == "" {
		return nil, nil
	}
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("journal of changes to this host: %w", err)
	}
	j := &journal{path: path, boot: boot, onDisk: string(b)}
	var f file
	if err := json.Unmarshal(b, &f); err != nil {
		return nil, errors.Join(fmt.Errorf("journal of changes to this host %s: %w", path, err), j.remove())
	}
	if f.Boot != boot {
		return nil, j.remove()
	}
	if err := f.check(); err != nil {
		return nil, errors.Join(fmt.Errorf("journal of changes to this host %s: %w", path, err), j.remove())
	}
	for _, e := range f.Routes {
		j.routes = append(j.routes, hostroutes.Route{Prefix: e.Prefix, Gateway: e.Gateway, Interface: e.Interface})
	}
	return j, nil
}

func (f file) check() error {
	if len(f.Routes) > maxRoutes {
		return fmt.Errorf("%d routes: at most %d", len(f.Routes), maxRoutes)
	}
	for _, e := range f.Routes {
		if !e.Prefix.IsValid() || e.Prefix != e.Prefix.Masked() || e.Interface <= 0 || e.Gateway.IsValid() && e.Gateway.Is4() != e.Prefix.Addr().Is4() {
			return fmt.Errorf("route %s by %s on interface %d: not a route", e.Prefix, e.Gateway, e.Interface)
		}
	}
	return nil
}

// save has the journal name exactly these routes, which none at all need no file for.
func (j *journal) save(routes []hostroutes.Route) error {
	j.routes = routes
	if len(routes) == 0 {
		return j.remove()
	}
	if j.path == "" {
		return nil
	}
	f := file{Boot: j.boot}
	for _, r := range routes {
		f.Routes = append(f.Routes, entry{r.Prefix, r.Gateway, r.Interface})
	}
	b, err := json.MarshalIndent(f, "", "\t")
	if err != nil || string(b) == j.onDisk {
		return err
	}
	if err := atomicfile.Write(j.path, b); err != nil {
		return fmt.Errorf("journal of changes to this host, without which none is made: %w", err)
	}
	j.onDisk = string(b)
	return nil
}

// takeBack removes the routes, and the file if that worked.
func (j *journal) takeBack(system Router) error {
	var errs []error
	for _, r := range j.routes {
		if err := system.RemoveRoute(r); err != nil && !errors.Is(err, ErrGone) {
			errs = append(errs, fmt.Errorf("route %s cannot be removed: %w", r.Prefix, err))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return j.save(nil)
}

func (j *journal) remove() error {
	if j.path == "" || j.onDisk == "" {
		return nil
	}
	j.onDisk = ""
	if err := os.Remove(j.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("journal of changes to this host: %w", err)
	}
	return nil
}
