package client

import (
	"context"
	"errors"
	"fmt"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/timestamppb"

	"warren/coord/reason"
	"warren/proto/key"
	"warren/proto/record"
	pb "warren/proto/warrenv1"
)

const reasonHeader = reason.Header

// defaultKeepAlive is assumed until the coordinator's Hello says otherwise.
const defaultKeepAlive = 15 * time.Second

func (c *Client) place() place {
	return place{c.cfg.Network, c.cfg.Authority, c.endpoints(), c.cfg.Dial, c.cfg.Now}
}

// login proves the device key on l.
func (c *Client) login(ctx context.Context, l *link) (*pb.LoginResponse, error) {
	body := &pb.LoginBody{
		NetworkId: c.cfg.Network[:], CoordinatorKey: l.signing.Bytes(), Challenge: l.challenge.GetChallenge(),
		DeviceKey: c.cfg.Device.Public().Bytes(), Role: c.cfg.Role, InstanceId: c.instance[:],
		Hostname: c.cfg.Hostname, Os: c.cfg.OS, OsVersion: c.cfg.OSVersion, AgentVersion: c.cfg.Version, Time: timestamppb.New(c.cfg.Now()),
	}
	if c.cfg.Node != nil {
		body.NodeKey = c.cfg.Node().Bytes()
	}
	signed, err := record.Sign(c.cfg.Device, record.ContextLogin, body)
	if err != nil {
		return nil, err
	}
	r, err := l.Login(ctx, connect.NewRequest(&pb.LoginRequest{Login: signed}))
	if err != nil {
		return nil, refused(err)
	}
	return r.Msg, nil
}

// watchOnce logs in and follows one Watch until it ends.
func (c *Client) watchOnce(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stop := c.resetCancels(ctx, cancel)
	defer stop()
	l, err := c.place().connect(ctx)
	if err != nil {
		return err
	}
	defer l.close()
	c.state.URL, c.state.Skew = l.endpoint.URL, l.skew
	session, err := c.login(ctx, l)
	if err != nil {
		return err
	}
	c.core.Begin()
	epoch, revision := c.core.Position()
	stream, err := l.Watch(ctx, connect.NewRequest(&pb.WatchRequest{SessionToken: session.GetSessionToken(), Epoch: epoch, Revision: revision, KnowsGrantPeers: true}))
	if err != nil {
		return refused(err)
	}
	defer stream.Close()
	return c.follow(ctx, cancel, l, stream)
}

var errReset = errors.New("connecting anew")

// resetCancels ends the connection when Reset is called.
func (c *Client) resetCancels(ctx context.Context, cancel context.CancelCauseFunc) (stop func()) {
	done := make(chan struct{})
	go func() {
		select {
		case <-c.reset:
			cancel(errReset)
			c.Reset() // so that Run does not wait before the next attempt
		case <-ctx.Done():
		case <-done:
		}
	}()
	return func() { close(done) }
}

// follow handles messages until the stream ends or falls silent.
func (c *Client) follow(ctx context.Context, cancel context.CancelCauseFunc, l *link, stream *connect.ServerStreamForClient[pb.WatchResponse]) error {
	silence := deadAfter(defaultKeepAlive)
	watchdog := time.AfterFunc(silence, func() { cancel(fmt.Errorf("nothing heard for %s", silence)) })
	defer watchdog.Stop()
	c.blocked.begin()
	questions := c.newAnswerer(ctx, l)
	defer questions.close()
	for stream.Receive() {
		m := stream.Msg()
		if h := m.GetHello(); h != nil {
			silence = c.greeted(h)
		}
		watchdog.Reset(silence)
		if q := m.GetFlowsWanted(); q != nil {
			questions.handle(q)
			continue
		}
		if err := c.handle(m); err != nil {
			return err
		}
	}
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	if err := stream.Err(); err != nil {
		return refused(err)
	}
	return nil
}

// greeted notes that the coordinator follows up on the connection, and how it wants to be treated. It gives how long silence may last.
func (c *Client) greeted(h *pb.Hello) (silence time.Duration) {
	c.stands, c.returnWithin = c.cfg.Now(), time.Duration(h.GetReturnWithinMilliseconds())*time.Millisecond
	s := c.state
	s.Connected, s.Err, s.Rejected, s.Reason = true, nil, false, ""
	c.cfg.Log.Info("connected to the coordinator", "url", s.URL)
	c.setState(s)
	return deadAfter(time.Duration(h.GetKeepAliveSeconds()) * time.Second)
}

// deadAfter is how long silence may last, given the interval of keep-alives.
func deadAfter(keepAlive time.Duration) time.Duration {
	keepAlive = min(max(keepAlive, time.Second), time.Minute)
	return keepAlive * 8 / 3
}

func (c *Client) handle(m *pb.WatchResponse) error {
	if p := m.GetPresence(); p != nil {
		if len(p.GetDeviceKey()) == key.Size {
			c.cfg.OnPresence([key.Size]byte(p.GetDeviceKey()), p.GetOnline())
		}
		return nil
	}
	if c.cfg.Role == pb.Role_ROLE_RELAY {
		return c.blocked.handle(m)
	}
	now := c.cfg.Now()
	r, err := c.core.Handle(now, m)
	switch {
	case err != nil:
		c.core.Restart()
		return fmt.Errorf("the coordinator's message is not to be trusted: %w", err)
	case r.Resnapshot:
		c.core.Restart()
		return errors.New("the map had drifted; fetching it anew")
	}
	if r.Publish {
		c.publish()
	}
	if r.Store {
		c.store()
	}
	if old := c.Map(); m.GetKeepAlive() != nil && old != nil {
		if !old.NextExpiry.IsZero() && !now.Before(old.NextExpiry) {
			c.publish()
		}
	}
	return nil
}

// apply signs one change of the device's own record and sends it.
func (c *Client) apply(ctx context.Context, fill func(*pb.ApplyBody)) error {
	c.applyMu.Lock()
	defer c.applyMu.Unlock()
	l, err := c.place().connect(ctx)
	if err != nil {
		return err
	}
	defer l.close()
	session, err := c.login(ctx, l)
	if err != nil {
		return err
	}
	body := &pb.ApplyBody{
		NetworkId: c.cfg.Network[:], CoordinatorKey: l.signing.Bytes(), DeviceKey: c.cfg.Device.Public().Bytes(),
		Sequence: session.GetLastSequence() + 1, Time: timestamppb.New(c.cfg.Now()),
	}
	fill(body)
	signed, err := record.Sign(c.cfg.Device, record.ContextApply, body)
	if err != nil {
		return err
	}
	if _, err := l.Apply(ctx, connect.NewRequest(&pb.ApplyRequest{Apply: signed})); err != nil {
		return refused(err)
	}
	return nil
}

// Leave removes the device from the network for good. A device that is not a member any more has left.
func (c *Client) Leave(ctx context.Context) error {
	err := c.apply(ctx, func(b *pb.ApplyBody) { b.Change = &pb.ApplyBody_Leave{Leave: &pb.Leave{}} })
	if r := reasonOf(err); r == reason.Removed || r == reason.NotMember {
		return nil
	}
	return err
}

// SetName asks for another name.
func (c *Client) SetName(ctx context.Context, name string) error {
	return c.apply(ctx, func(b *pb.ApplyBody) { b.Change = &pb.ApplyBody_SetName{SetName: &pb.SetName{Name: name}} })
}

// SetNodeKey announces the next node key, or makes the announced one current.
func (c *Client) SetNodeKey(ctx context.Context, k key.NodePublic) error {
	return c.apply(ctx, func(b *pb.ApplyBody) {
		b.Change = &pb.ApplyBody_SetNodeKey{SetNodeKey: &pb.SetNodeKey{NodeKey: k.Bytes()}}
	})
}
