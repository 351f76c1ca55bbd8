// Package natmodel is a NAT or stateful firewall as a pure model, in the terms of RFC 4787: the simulator runs it in virtual time, and the lab
// runs it where the kernel's own NAT cannot express a behaviour. New makes one; NAT.Out and NAT.In say what becomes of a packet from
// either side. It does no I/O, keeps no clock and draws its random ports from a seed.
package natmodel

import (
	"fmt"
	"time"
)

// Mapping says when a packet to another destination gets another external port (RFC 4787, section 4.1).
type Mapping uint8

// Mappings. NoMapping, the zero value, does not translate at all: with a filter it is a stateful firewall, without one nothing.
const (
	NoMapping Mapping = iota
	EndpointIndependent
	AddressDependent
	AddressAndPortDependent
)

// String is the name that RFC 4787 uses.
func (m Mapping) String() string {
	return name(m, "no", "endpoint-independent", "address-dependent", "address-and-port-dependent")
}

// Filtering says from where packets come in to an external port that is in use (RFC 4787, section 5).
type Filtering uint8

// Filterings, from the most liberal on.
const (
	FilterNone           Filtering = iota // endpoint-independent: from anywhere
	FilterAddress                         // from addresses that were sent to
	FilterAddressAndPort                  // from addresses and ports that were sent to
)

// String is the name that RFC 4787 uses.
func (f Filtering) String() string {
	return name(f, "endpoint-independent", "address-dependent", "address-and-port-dependent")
}

// Ports says which external port a new mapping gets.
type Ports uint8

// Ways to choose a port. All avoid ports that are taken.
const (
	PreservePort   Ports = iota // the internal one, or else a random one
	RandomPort                  // any of 1024 to 65535
	SequentialPort              // the one after the last
)

// String is the way's name.
func (p Ports) String() string { return name(p, "preserved", "random", "sequential") }

func name[T ~uint8](v T, names ...string) string {
	if int(v) < len(names) {
		return names[v]
	}
	return fmt.Sprintf("unknown (%d)", v)
}

// Options combine freely.
type Options struct {
	Mapping   Mapping
	Filtering Filtering
	Ports     Ports
	// Hairpin lets hosts inside reach each other at their external addresses (RFC 4787, section 6).
	Hairpin bool
	// NoUDP drops UDP in both directions.
	NoUDP bool
	// Timeout is how long UDP state lives without a packet; 0 for DefaultTimeout. ICMP queries live as long, TCP TCPTimeout.
	Timeout time.Duration
	// OutboundRefresh has only packets from inside keep state alive. Otherwise those from outside do too.
	OutboundRefresh bool
	// Capacity bounds the table, counted in pairs of mapping and remote endpoint; 0 for DefaultCapacity. A full table drops new flows.
	Capacity int
}

// Defaults and fixed values.
const (
	// DefaultTimeout is what RFC 4787, REQ-5, asks for at least.
	DefaultTimeout = 2 * time.Minute
	// ShortTimeout is the shortest that is commonly seen.
	ShortTimeout = 20 * time.Second
	// TCPTimeout is what RFC 5382, REQ-5, asks for at least.
	TCPTimeout = 2*time.Hour + 4*time.Minute
	// DefaultCapacity is a table of a small router.
	DefaultCapacity = 16384
)

// Easy is what Linux does: the port is kept as long as it is free, so that the mapping is endpoint-independent.
func Easy() *Options {
	return &Options{Mapping: EndpointIndependent, Filtering: FilterAddressAndPort}
}

// Hard gives every destination another, random port.
func Hard() *Options {
	return &Options{Mapping: AddressAndPortDependent, Filtering: FilterAddressAndPort, Ports: RandomPort}
}

// String describes the options.
func (o Options) String() string {
	s := fmt.Sprintf("%s mapping, %s ports, %s filtering", o.Mapping, o.Ports, o.Filtering)
	if o.Hairpin {
		s += ", hairpin"
	}
	if o.NoUDP {
		s += ", no UDP"
	}
	if o.Timeout != 0 {
		s += fmt.Sprintf(", %s time-out", o.Timeout)
	}
	return s
}
