package dnsforward

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

var (
	answered  = func(s *Stats) *uint64 { return &s.Answered }
	refused   = func(s *Stats) *uint64 { return &s.Refused }
	failed    = func(s *Stats) *uint64 { return &s.Failed }
	malformed = func(s *Stats) *uint64 { return &s.Malformed }
	dropped   = func(s *Stats) *uint64 { return &s.Dropped }
)

// answer gives what to send to a client, or nil for nothing.
func (f *Forwarder) answer(ctx context.Context, network string, client netip.Addr, b []byte) []byte {
	q, err := parse(b)
	switch {
	case errors.Is(err, errNoQuestion):
		f.count(malformed)
		return nil
	case !f.cfg.Allowed(client):
		f.count(refused)
		return q.reply(dnsmessage.RCodeRefused, false)
	case err != nil:
		f.count(malformed)
		return q.reply(dnsmessage.RCodeFormatError, false)
	}
	if c := q.forwardable(); c != dnsmessage.RCodeSuccess {
		f.count(refused)
		return q.reply(c, false)
	}
	a, err := f.ask(ctx, network, q)
	if err != nil {
		f.count(failed)
		f.log.Debug("question not answered", "client", client, "err", err)
		return q.reply(dnsmessage.RCodeServerFailure, false)
	}
	f.count(answered)
	if network == "udp" && len(a) > q.longest {
		return q.reply(dnsmessage.RCodeSuccess, true)
	}
	binary.BigEndian.PutUint16(a, q.id())
	return a
}

// errOwn is about a host that resolves by itself in a circle.
var errOwn = errors.New("this is the forwarder itself")

// ask asks one resolver after the other. One that says that it failed is as good as one that does not answer, unless it is the last.
func (f *Forwarder) ask(ctx context.Context, network string, q question) (last []byte, err error) {
	servers := f.cfg.Resolvers()
	if len(servers) == 0 {
		return nil, errors.New("the host has no resolver")
	}
	var errs []error
	for i := range maxTries {
		server := servers[i%len(servers)]
		a, err := f.askOne(ctx, network, server, q)
		switch {
		case err != nil:
			errs = append(errs, fmt.Errorf("%s: %w", server, err))
		case code(a) == dnsmessage.RCodeServerFailure || code(a) == dnsmessage.RCodeRefused:
			last = a
		default:
			return a, nil
		}
		if ctx.Err() != nil || last != nil && i+1 >= len(servers) {
			break
		}
	}
	if last != nil {
		return last, nil
	}
	return nil, errors.Join(errs...)
}

// askOne asks by the network that the client has used, so that an answer of many bytes comes whole to who wants it so.
func (f *Forwarder) askOne(ctx context.Context, network string, server netip.AddrPort, q question) ([]byte, error) {
	if f.own(server) {
		return nil, errOwn
	}
	ctx, cancel := context.WithTimeout(ctx, f.cfg.patience)
	defer cancel()
	c, err := f.cfg.Dial(ctx, network, server.String())
	if err != nil {
		return nil, err
	}
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { c.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	id := uint16(rand.Uint32())
	if network == "tcp" {
		return askTCP(c, q, id)
	}
	return askUDP(c, q, id)
}

// own reports whether a resolver is where this forwarder is to listen.
func (f *Forwarder) own(server netip.AddrPort) bool {
	if server.Port() != f.cfg.port {
		return false
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Contains(f.want, server.Addr())
}

func askTCP(c net.Conn, q question, id uint16) ([]byte, error) {
	if err := writeFramed(c, q.with(id)); err != nil {
		return nil, err
	}
	a, err := readFramed(c, 65535)
	if err == nil && !q.answeredBy(a, id) {
		err = errMalformed
	}
	return a, err
}

// askUDP waits for the answer to this question, whatever else comes.
func askUDP(c net.Conn, q question, id uint16) ([]byte, error) {
	if _, err := c.Write(q.with(id)); err != nil {
		return nil, err
	}
	b := make([]byte, q.longest+1) // what is longer does not reach the client anyway
	for {
		n, err := c.Read(b)
		if err != nil {
			return nil, err
		}
		if q.answeredBy(b[:n], id) {
			return append([]byte(nil), b[:n]...), nil
		}
	}
}
