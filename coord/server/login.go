package server

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"connectrpc.com/connect"

	"warren/coord/domain"
	"warren/coord/reason"
	"warren/coord/store"
	"warren/proto/key"
	"warren/proto/record"
	pb "warren/proto/warrenv1"
)

const (
	challengeLife = 2 * time.Minute
	// sessionLife only spans the step from Login to Watch and its repetition; a Watch lasts as long as its stream.
	sessionLife   = 10 * time.Minute
	challengeSize = 8 + 16 + sha256.Size
)

func newSecret() (s [32]byte) {
	rand.Read(s[:])
	return s
}

// seal authenticates b for one purpose with the secret of this run.
func (s *Server) seal(purpose string, b []byte) []byte {
	h := hmac.New(sha256.New, s.secret[:])
	h.Write([]byte(purpose))
	h.Write([]byte{0})
	h.Write(b)
	return h.Sum(nil)
}

// Challenge implements CoordinatorService. Nothing is stored: the challenge carries its own proof, and is good for two minutes.
func (a *agents) Challenge(ctx context.Context, req *connect.Request[pb.ChallengeRequest]) (*connect.Response[pb.ChallengeResponse], error) {
	if err := a.slow(req); err != nil {
		return nil, err
	}
	now := a.cfg.Now()
	b := binary.BigEndian.AppendUint64(nil, uint64(now.UnixNano()))
	var nonce [16]byte
	rand.Read(nonce[:])
	b = append(b, nonce[:]...)
	return connect.NewResponse(&pb.ChallengeResponse{
		Challenge: append(b, a.seal("challenge", b)...), SigningCertificate: a.certificate, ServerTime: timestamp(now),
	}), nil
}

func (s *Server) checkChallenge(c []byte) error {
	if len(c) != challengeSize {
		return fmt.Errorf("challenge has %d bytes, not %d", len(c), challengeSize)
	}
	body, sum := c[:challengeSize-sha256.Size], c[challengeSize-sha256.Size:]
	if !hmac.Equal(sum, s.seal("challenge", body)) {
		return errors.New("challenge is not from this run of the coordinator; log in again")
	}
	at := time.Unix(0, int64(binary.BigEndian.Uint64(body)))
	if age := s.cfg.Now().Sub(at); age > challengeLife || age < -challengeLife {
		return errors.New("challenge is too old; log in again")
	}
	return nil
}

// Login implements CoordinatorService.
func (a *agents) Login(ctx context.Context, req *connect.Request[pb.LoginRequest]) (*connect.Response[pb.LoginResponse], error) {
	if err := a.slow(req); err != nil {
		return nil, err
	}
	m, device, err := a.openLogin(req.Msg)
	if err != nil {
		return nil, a.errMalformed(err)
	}
	now := a.cfg.Now()
	if err := a.checkChallenge(m.GetChallenge()); err != nil {
		return nil, a.refuse(connect.CodeUnauthenticated, whyChallenge, err)
	}
	host := domain.Host{Hostname: m.GetHostname(), OS: m.GetOs(), OSVersion: m.GetOsVersion(), AgentVersion: m.GetAgentVersion()}.Clipped()
	me := instance{id: [16]byte(m.GetInstanceId()), hostname: host.Hostname, remote: remoteOf(req)}
	if refused := a.hub.admit(device, m.GetRole(), me, now); refused != nil {
		return nil, refused
	}
	sequence := uint64(0)
	if m.GetRole() == pb.Role_ROLE_DEVICE {
		if sequence, err = a.useNodeKey(ctx, device, m.GetNodeKey()); err != nil {
			return nil, a.failure("login", err)
		}
		if err := a.noteHost(ctx, device, host); err != nil {
			return nil, a.failure("login", err)
		}
	}
	expires := now.Add(sessionLife)
	return connect.NewResponse(&pb.LoginResponse{
		SessionToken: a.sessionToken(session{device, m.GetRole(), me, host, expires}),
		ExpiresAt:    timestamp(expires), ServerTime: timestamp(now), LastSequence: sequence,
	}), nil
}

// useNodeKey holds the device to the node keys of its record, and ends a rotation when it uses the next one. It gives the highest
// sequence number that the device signed.
func (s *Server) useNodeKey(ctx context.Context, device key.DevicePublic, nodeKey []byte) (sequence uint64, err error) {
	k, err := key.NodePublicFromBytes(nodeKey)
	if err != nil {
		return 0, fmt.Errorf("%w: node key: %w", errForm, err)
	}
	if d := s.hub.device(device); d != nil && k.Equal(d.NodeKey) {
		return d.Sequence, nil
	}
	err = s.commit(ctx, func(b *batch) error {
		d, err := b.device(device)
		if err != nil {
			return err
		}
		if d == nil {
			return s.notMember("device")
		}
		next, err := domain.UseNodeKey(&s.network, d, k)
		if err != nil {
			return err
		}
		sequence = next.Sequence
		return b.put(next)
	})
	return sequence, err
}

// noteHost has policies know what a device says of itself, if that is new: a posture may ask for it.
func (s *Server) noteHost(ctx context.Context, device key.DevicePublic, host domain.Host) error {
	if d := s.hub.device(device); d == nil || d.Host == host {
		return nil
	}
	return s.commit(ctx, func(b *batch) error {
		d, err := b.device(device)
		if err != nil || d == nil {
			return err
		}
		next := *d
		next.Host, next.LastSeen = host, s.cfg.Now()
		return b.put(&next)
	})
}

// openLogin verifies that the device signed this login for this coordinator and one of its challenges.
func (s *Server) openLogin(r *pb.LoginRequest) (*pb.LoginBody, key.DevicePublic, error) {
	m := new(pb.LoginBody)
	if err := record.Parse(record.ContextLogin, r.GetLogin().GetPayload(), m); err != nil {
		return nil, key.DevicePublic{}, err
	}
	device, err := key.DevicePublicFromBytes(m.GetDeviceKey())
	if err != nil {
		return nil, device, fmt.Errorf("device key: %w", err)
	}
	if err := record.Verify(device, record.ContextLogin, r.GetLogin().GetPayload(), r.GetLogin().GetSignature()); err != nil {
		return nil, device, err
	}
	if err := s.checkAudience(m.GetNetworkId(), m.GetCoordinatorKey()); err != nil {
		return nil, device, err
	}
	if len(m.GetInstanceId()) != 16 {
		return nil, device, fmt.Errorf("instance id has %d bytes, not 16", len(m.GetInstanceId()))
	}
	if r := m.GetRole(); r != pb.Role_ROLE_DEVICE && r != pb.Role_ROLE_RELAY {
		return nil, device, fmt.Errorf("unknown role %d", r)
	}
	return m, device, nil
}

func (s *Server) checkAudience(network, coordinator []byte) error {
	if n, err := record.NetworkIDFromBytes(network); err != nil || n != s.network.ID {
		return fmt.Errorf("signed for network %x, and this is %s", network, s.network.ID)
	}
	own, err := key.SigningPublicFromBytes(coordinator)
	if err != nil || !own.Equal(s.id.Signing.Public()) {
		return errors.New("signed for another coordinator")
	}
	return nil
}

func (s *Server) notMember(what string) *connect.Error {
	return s.refuse(connect.CodePermissionDenied, reason.NotMember, fmt.Errorf(
		"the coordinator does not know this %s; if it was restored from a backup, join again with a new token", what))
}

// session is what a session token says. The token is its own proof, so nothing is stored, and none survives a restart.
type session struct {
	device  key.DevicePublic
	role    pb.Role
	me      instance
	host    domain.Host
	expires time.Time
}

func (s *Server) sessionToken(v session) string {
	raw := v.device.Raw()
	b := append([]byte(nil), raw[:]...)
	b = append(b, byte(v.role))
	b = append(b, v.me.id[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(v.expires.UnixNano()))
	for _, text := range []string{v.host.Hostname, v.host.OS, v.host.OSVersion, v.host.AgentVersion} {
		b = append(b, byte(len(text)))
		b = append(b, text...)
	}
	return base64.RawURLEncoding.EncodeToString(append(b, s.seal("session", b)...))
}

var errSession = errors.New("session token is not valid any more; log in again")

func (s *Server) openSession(text string) (v session, err error) {
	b, err := base64.RawURLEncoding.DecodeString(text)
	const fixed = key.Size + 1 + 16 + 8
	if err != nil || len(b) < fixed+4+sha256.Size {
		return v, errSession
	}
	b, sum := b[:len(b)-sha256.Size], b[len(b)-sha256.Size:]
	if !hmac.Equal(sum, s.seal("session", b)) {
		return v, errSession
	}
	if v.device, err = key.DevicePublicFromBytes(b[:key.Size]); err != nil {
		return v, errSession
	}
	v.role = pb.Role(b[key.Size])
	v.me.id = [16]byte(b[key.Size+1:])
	v.expires = time.Unix(0, int64(binary.BigEndian.Uint64(b[fixed-8:])))
	if !s.cfg.Now().Before(v.expires) {
		return v, errSession
	}
	rest := b[fixed:]
	for _, into := range []*string{&v.host.Hostname, &v.host.OS, &v.host.OSVersion, &v.host.AgentVersion} {
		n := int(rest[0]) // our own seal vouches for the lengths
		*into, rest = string(rest[1:1+n]), rest[1+n:]
	}
	v.me.hostname = v.host.Hostname
	return v, nil
}

// notAdmitted is the refusal of a device that is removed or has expired.
func (s *Server) notAdmitted(d *store.Device) *connect.Error {
	if d.Removed {
		return s.refuse(connect.CodePermissionDenied, reason.Removed, errRemoved())
	}
	return s.refuse(connect.CodePermissionDenied, reason.Expired, errExpired(d.ExpiresAt))
}

func errRemoved() error {
	return errors.New("this device was removed from the network; to come back run \"warren leave --force\", then \"warren up\" with a new token")
}

func errExpired(at time.Time) error {
	return fmt.Errorf("this device's membership expired at %s; renew it by \"warren up\" with a new token", at.UTC().Format(time.RFC3339))
}
