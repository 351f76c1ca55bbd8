package sqlite

import (
	"encoding/json"
	"fmt"
	"net/netip"

	"warren/coord/domain"
	"warren/proto/cidr"
)

// advertised is the form of domain.Advertised in the database. Kinds are those of package cidr, whose texts are for people.
type advertised struct {
	Kind     cidr.Kind    `json:"kind"`
	Prefix   netip.Prefix `json:"prefix"`
	LAN      netip.Prefix `json:"lan"`
	Priority uint8        `json:"priority"`
}

// ruling is that of domain.Ruling.
type ruling struct {
	Prefix   netip.Prefix `json:"prefix"`
	Approved bool         `json:"approved"`
	Policy   bool         `json:"policy,omitempty"`
	By       string       `json:"by,omitempty"`
	At       int64        `json:"at"` // Unix nanoseconds
}

// encodeRoutes gives the columns of what a device advertises and what was ruled on it.
func encodeRoutes(d *domain.Device) (adverts, rulings string, err error) {
	as, rs := []advertised{}, []ruling{}
	for _, a := range d.Advertised {
		as = append(as, advertised{a.Kind, a.Prefix, a.LAN, a.Priority})
	}
	for _, r := range d.Rulings {
		rs = append(rs, ruling{r.Prefix, r.Approved, r.Policy, r.By, toNano(r.At)})
	}
	a, err := json.Marshal(as)
	if err != nil {
		return "", "", err
	}
	r, err := json.Marshal(rs)
	return string(a), string(r), err
}

// decodeRoutes reads those columns into d.
func decodeRoutes(d *domain.Device, adverts, rulings string) error {
	var as []advertised
	var rs []ruling
	if err := json.Unmarshal([]byte(adverts), &as); err != nil {
		return fmt.Errorf("what device %s advertises: %w", d.Name, err)
	}
	if err := json.Unmarshal([]byte(rulings), &rs); err != nil {
		return fmt.Errorf("routes of device %s: %w", d.Name, err)
	}
	for _, a := range as {
		d.Advertised = append(d.Advertised, domain.Advertised{Route: cidr.Route{Kind: a.Kind, Prefix: a.Prefix, LAN: a.LAN}, Priority: a.Priority})
	}
	for _, r := range rs {
		d.Rulings = append(d.Rulings, domain.Ruling{Prefix: r.Prefix, Approved: r.Approved, Policy: r.Policy, By: r.By, At: fromNano(r.At)})
	}
	return nil
}
