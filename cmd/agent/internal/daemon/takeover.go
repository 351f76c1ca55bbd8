package daemon

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/timestamppb"

	"warren/cmd/agent/internal/handover"
	"warren/cmd/agent/internal/state"
	"warren/nat/traversal"
	"warren/proto/key"
	"warren/proto/record"
	pb "warren/proto/warrenv1"
	"warren/tunnel/bind"
	"warren/tunnel/gateway/choose"
	"warren/tunnel/router"
)

// A daemon is replaced by another without ending the tunnel. Interface and sockets stay open: by way of the service manager, which keeps them, or
// because the process stays the same and becomes another program. The host stays as it is. What the next daemon has to know to call its peers at once, and
// to let answers in, goes along in a file of package handover.
//
// Whether a daemon that is told to end is to be replaced or stopped, it asks the service manager (Config.Restarts). If that does not know, or nobody
// keeps the files, it stops: it takes everything back, and the next one begins anew.

// Keeper is a service manager that keeps files while the program is away. sdnotify.Notifier is one.
type Keeper interface {
	Present() bool
	Keep(name string, files ...syscall.Conn) error
	Forget(name string) error
	Barrier(context.Context) error
}

// HandedOver is what Run gives back when it has ended to be replaced by another program. The host is as it was, and Files are what that program needs, which
// the caller closes if there is none.
type HandedOver struct{ Files handover.Files }

func (h *HandedOver) Error() string { return "this daemon has made room for another" }

// errReplace ends Run when another program is to take over.
var errReplace = errors.New("to be replaced")

const (
	// keeperPatience is how long the service manager may take to deal with files.
	keeperPatience = 2 * time.Second
	// askPatience is how long parts of the session may take to tell what the next daemon needs; it goes without what comes later.
	askPatience = 300 * time.Millisecond
	// sessionLife is how long a WireGuard session lasts (Reject-After-Time): with whom there was nothing since, there is no session to go on with.
	sessionLife = 180 * time.Second
)

// store gives files to the service manager, if there is one. Its errors are for the log: without it a restart costs more.
type store struct {
	keeper Keeper
	warn   func(msg string, args ...any)

	mu   sync.Mutex
	kept map[string]bool
}

func (s *store) present() bool { return s.keeper != nil && s.keeper.Present() }

// keep has a file kept in place of another of that name.
func (s *store) keep(name string, c syscall.Conn) {
	if !s.present() {
		return
	}
	err := s.keeper.Keep(name, c)
	if err != nil {
		s.warn("service manager does not keep a file, so that a restart will interrupt the tunnel", "file", name, "err", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.kept[name] = err == nil
}

// forget returns once the manager has closed the files, so that what they hold is free.
func (s *store) forget(list ...string) {
	if !s.present() {
		return
	}
	s.mu.Lock()
	list = slices.DeleteFunc(list, func(name string) bool { return !s.kept[name] })
	for _, name := range list {
		delete(s.kept, name)
	}
	s.mu.Unlock()
	for _, name := range list {
		if err := s.keeper.Forget(name); err != nil {
			s.warn("service manager still keeps a file", "file", name, "err", err)
		}
	}
	if len(list) > 0 {
		s.wait()
	}
}

// wait returns once the manager has dealt with all that it was told.
func (s *store) wait() {
	ctx, cancel := context.WithTimeout(context.Background(), keeperPatience)
	defer cancel()
	if err := s.keeper.Barrier(ctx); err != nil {
		s.warn("service manager is slow", "err", err)
	}
}

func (s *store) has(name string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.kept[name]
}

// inheritance is what a session takes over; nil: nothing.
type inheritance struct {
	files handover.Files
	state *handover.State // nil: the files only, as after a crash
}

// inherit looks at what a daemon before this one has left: nil, and all of it closed, if the tunnel is not wanted or there is no interface.
func (d *daemon) inherit() *inheritance {
	files := d.cfg.Inherited
	d.cfg.Inherited = nil
	for name := range files {
		d.store.kept[name] = true // the manager may have it; it does no harm to say that it be forgotten
	}
	if files[handover.TUN] == nil || d.cfg.Userspace != nil || !d.state.Up || d.state.Membership == nil {
		files.Close()
		d.store.forget(handover.Names()...)
		return nil
	}
	in := &inheritance{files: files, state: d.known(files)}
	if f := files[handover.Known]; f != nil {
		f.Close()
		delete(files, handover.Known)
		d.store.forget(handover.Known) // what is true now is not after the next crash
	}
	return in
}

// known reads what the daemon before knew; nil if there is nothing that could be used.
func (d *daemon) known(files handover.Files) *handover.State {
	f := files[handover.Known]
	if f == nil {
		return nil
	}
	var s *handover.State
	omitted := 0
	now, err := handover.Now()
	if err == nil {
		var b []byte
		if b, err = handover.Open(f); err == nil {
			s, omitted, err = handover.Decode(b, now)
		}
	}
	if err == nil && (s.Network != d.state.Membership.Network || !s.Device.Equal(d.state.Device.Public())) {
		err = errors.New("it is about another device")
	}
	if err != nil {
		d.log.Warn("what the daemon before knew is of no use; connections through the tunnel may be interrupted", "err", err)
		return nil
	}
	if omitted > 0 {
		d.log.Warn("part of what the daemon before knew is of no use", "parts", omitted)
	}
	return s
}

// disinherit takes back what was left by a daemon before this one, since no session goes on with it.
func (d *daemon) disinherit(in *inheritance) {
	in.files.Close()
	d.store.forget(handover.Names()...)
	d.cleanUp()
}

// cleanUp takes back what a daemon before this one has left on the host.
func (d *daemon) cleanUp() {
	journal := state.JournalFile(d.cfg.StateDir)
	if _, err := os.Stat(journal); d.cfg.Userspace != nil && errors.Is(err, fs.ErrNotExist) {
		return // there is nothing of ours on the host
	}
	left, err := router.CleanUp(journal)
	for _, note := range left {
		d.log.Info("host changed", "what", note)
	}
	if err != nil {
		d.log.Error("what a killed daemon has left on this host could not be taken back", "err", err)
	}
}

// finish ends the session when Run ends, and has the files ready if another program is to take over. Nobody calls the local API any more. The caller
// holds mu.
func (d *daemon) finish(cause error) {
	replaced := errors.Is(cause, errReplace)
	if replaced {
		d.handed = &HandedOver{Files: handover.Files{}} // the other program begins anew, if there is no tunnel to go on with
	}
	if d.session == nil || d.session.ended() || !replaced && !(d.store.has(handover.TUN) && d.restarts()) {
		d.stopSession()
		return
	}
	// All that takes time comes first, while the tunnel works still.
	d.session.leaves.Store(true)
	d.stopFlows()
	files, err := d.session.handOver(replaced)
	if err != nil {
		d.log.Error("the tunnel cannot be handed over, and ends", "err", err)
		d.session.leaves.Store(false)
		d.stopSession()
		return
	}
	if replaced {
		d.handed = &HandedOver{Files: files}
	} else {
		if f := files[handover.Known]; f != nil {
			d.store.keep(handover.Known, f)
		}
		d.store.wait()
		files.Close()
	}
	d.session.leave()
	d.session = nil
}

// restarts asks whether the service manager starts the daemon again at once.
func (d *daemon) restarts() bool {
	if d.cfg.Restarts == nil {
		return false
	}
	ctx, cancel := context.WithTimeout(context.Background(), keeperPatience)
	defer cancel()
	again, err := d.cfg.Restarts(ctx)
	if err != nil {
		d.log.Warn("not known whether this is a restart, so the tunnel is taken down", "err", err)
	}
	return again && err == nil
}

// replace has Run end with HandedOver, once the program that is installed now is known to be able to take over. It gives that one's version.
func (d *daemon) replace(ctx context.Context) (version string, err error) {
	if d.cfg.Userspace != nil {
		return "", errors.New("this daemon has no interface to hand over (--tun=userspace), and cannot be replaced while it runs; restart it")
	}
	if d.cfg.Check == nil {
		return "", errors.New("this daemon cannot be replaced while it runs; restart its service")
	}
	if version, err = d.cfg.Check(ctx); err != nil {
		return "", fmt.Errorf("the daemon goes on as it is: %w", err)
	}
	d.log.Info("making room for another daemon", "version", version)
	d.end(errReplace)
	return version, nil
}

// awaitReplace replaces the daemon when it is told to.
func (d *daemon) awaitReplace(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-d.cfg.Replace:
			if _, err := d.replace(ctx); err != nil {
				d.log.Error("not replaced", "err", err)
			}
		}
	}
}

// handOver gives what the next daemon is told, and the session's other files, if it is to have them from this process. Without the former it has to do if
// need be.
func (s *session) handOver(all bool) (files handover.Files, err error) {
	files = handover.Files{}
	if all {
		if files, err = s.duplicate(); err != nil {
			return nil, err
		}
	}
	f, err := s.sealed()
	if err != nil {
		s.log.Warn("the next daemon will not be told whom to call", "err", err)
	} else {
		files[handover.Known] = f
	}
	return files, nil
}

// duplicate gives interface and sockets.
func (s *session) duplicate() (handover.Files, error) {
	conns := map[string]syscall.Conn{}
	if f := s.router.File(); f != nil {
		conns[handover.TUN] = f
	}
	s.sockets.Range(func(name, c any) bool {
		conns[name.(string)] = c.(syscall.Conn)
		return true
	})
	if conns[handover.TUN] == nil {
		return nil, errors.New("the interface is no file on this system")
	}
	files := handover.Files{}
	for name, c := range conns {
		f, err := handover.Duplicate(name, c)
		if err != nil {
			files.Close()
			return nil, err
		}
		files[name] = f
	}
	return files, nil
}

// socketNames are the names of the tunnel's sockets, by network.
var socketNames = map[string]string{"udp4": handover.UDP4, "udp6": handover.UDP6}

// onSocket keeps a socket of the tunnel for the next daemon.
func (s *session) onSocket(network string, c syscall.Conn) {
	name := socketNames[network]
	if c == nil {
		s.sockets.Delete(name)
		s.cfg.store.forget(name)
		return
	}
	s.sockets.Store(name, c)
	s.cfg.store.keep(name, c)
}

// leave ends the session for another daemon to take over.
func (s *session) leave() {
	s.leaves.Store(true)
	if s.mapper != nil {
		s.mapper.Leave()
	}
	s.cancel()
	<-s.done
}

// sealed is the file with what the next daemon is told.
func (s *session) sealed() (*os.File, error) {
	known := s.knows()
	now, err := handover.Now()
	if err != nil {
		return nil, err
	}
	b, err := handover.Encode(known, now)
	if err != nil {
		return nil, err
	}
	return handover.Seal(b)
}

// knows is what the next daemon is told. The flows come last, and are the newest.
func (s *session) knows() *handover.State {
	ctx, cancel := context.WithTimeout(s.ctx, askPatience)
	defer cancel()
	out := &handover.State{
		Network: s.cfg.state.Membership.Network, Device: s.cfg.state.Device.Public(), Stamps: s.bind.Stamps(), Choices: s.networks.choicesNow(),
	}
	active := s.engine.Active(sessionLife)
	active = active[:min(len(active), handover.MaxPeers)]
	reached := map[deviceKey]traversal.Kept{}
	for _, k := range s.traversal.Keep(ctx, active) {
		reached[k.Device.Raw()] = k
	}
	known := s.known.Load()
	for _, node := range active {
		d, ok := known.byNode[node.Raw()]
		if !ok {
			continue
		}
		p := handover.Peer{Kept: reached[d.Key.Raw()], Node: node, Relays: s.relays.homesOf(d.Key.Raw())}
		p.Device = d.Key
		out.Peers = append(out.Peers, p)
	}
	out.Flows = s.engine.KeepFlows()
	return out
}

// resume goes on where the daemon before left off. The map is there, and nothing runs yet.
func (s *session) resume(before *handover.State) {
	if before == nil {
		return
	}
	s.bind.RestoreStamps(before.Stamps)
	var list []traversal.Kept
	for _, p := range before.Peers {
		list = append(list, p.Kept)
	}
	known := s.known.Load()
	paths := 0
	for i, k := range s.traversal.Restore(list, known.m.Statement.Prefixes) {
		p := before.Peers[i]
		if d, ok := known.byNode[p.Node.Raw()]; !ok || !d.Key.Equal(p.Device) {
			continue // it has left, or has another key by now
		}
		if k.Path.Kind == traversal.Direct {
			paths++
			s.bind.SetPath(p.Node, bind.Path{Kind: bind.Direct, Local: k.Path.Local.Addr(), Remote: k.Path.Remote, MTU: k.Path.MTU})
			s.engine.SetPeerMTU(p.Node, k.Path.MTU)
		}
		if len(p.Relays) > 0 {
			s.relays.reachedAt(p.Device.Raw(), p.Relays)
		}
		s.engine.Want(p.Node)
	}
	flows := s.engine.RestoreFlows(before.Flows)
	s.log.Info("taking over from the daemon before", "peers", len(before.Peers), "direct", paths, "flows", flows, "flows_before", len(before.Flows))
}

// homesOf is where a peer said that it is reached.
func (r *relays) homesOf(peer [key.Size]byte) [][key.Size]byte {
	if h := r.route(peer).homes.Load(); h != nil {
		return slices.Clone(*h)
	}
	return nil
}

// choicesNow says which gateway each CIDR uses.
func (n *networks) choicesNow() map[netip.Prefix]deviceKey {
	n.mu.Lock()
	defer n.mu.Unlock()
	return maps.Clone(n.chosen)
}

// restore has CIDRs use the gateways that they used before, from the first map on, if those are theirs still.
func (n *networks) restore(chosen map[netip.Prefix]deviceKey) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.restored = chosen
}

// restoreChoices is for the first map. The caller holds mu.
func (n *networks) restoreChoices() {
	before := n.restored
	n.restored = nil
	exit := n.exit()
	for p, gateway := range before {
		offered := slices.ContainsFunc(n.offers[p], func(r record.Route) bool { return r.Gateway == gateway })
		wanted := p.Bits() > 0 && !n.routing.RefuseRoutes || p.Bits() == 0 && (exit.Auto || exit.Gateway == gateway)
		own := slices.ContainsFunc(n.carried, func(c cidrRoute) bool { return c.Prefix == p })
		if offered && wanted && !own {
			n.chosen[p] = gateway
		}
	}
	n.note(choose.Restore{Chosen: maps.Clone(n.chosen)})
}

// Restart implements LocalService.
func (a *api) Restart(ctx context.Context, _ *connect.Request[pb.RestartRequest]) (*connect.Response[pb.RestartResponse], error) {
	if _, err := a.admit(ctx); err != nil {
		return nil, err
	}
	version, err := a.d.replace(ctx)
	if err != nil {
		return nil, connect.NewError(connect.CodeFailedPrecondition, err)
	}
	return connect.NewResponse(&pb.RestartResponse{Version: version, Started: timestamppb.New(a.d.began)}), nil
}
