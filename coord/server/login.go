package server

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"time"

	"connectrpc.com/connect"

	"warren/coord/domain"
	"warren/coord/reason"
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
	if err := a.limits.allow(remoteOf(req)); err != nil {
		return nil, a.refuse(connect.CodeResourceExhausted, "rate", err)
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
	remote := remoteOf(req)
	if err := a.limits.allow(remote); err != nil {
		return nil, a.refuse(connect.CodeResourceExhausted, "rate", err)
	}
	m, device, err := a.openLogin(req.Msg)
	if err != nil {
		return nil, a.errMalformed(err)
	}
	me := instance{id: [16]byte(m.GetInstanceId()), hostname: domain.Clip(m.GetHostname()), remote: remote, at: a.cfg.Now()}
	sequence, refused := a.member(m.GetRole(), device, m.GetNodeKey())
	if refused != nil {
		return nil, refused
	}
	if other, ok := a.hub.admit(device, me); !ok {
		a.log.Warn("one device key on two machines", "key", device.Short(), "in_use_by", other, "refused", me)
		return nil, a.refuse(connect.CodeFailedPrecondition, reason.Duplicate, fmt.Errorf(
			"this device's key is in use on another machine, %s; a copied state directory makes two machines one device: run \"warren leave --force\" here and join again", other))
	}
	expires := a.cfg.Now().Add(sessionLife)
	return connect.NewResponse(&pb.LoginResponse{
		SessionToken: a.sessionToken(session{device, m.GetRole(), me, expires, domain.Clip(m.GetOs()), domain.Clip(m.GetAgentVersion())}),
		ExpiresAt:    timestamp(expires), ServerTime: timestamp(a.cfg.Now()), LastSequence: sequence,
	}), nil
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
	return m, device, s.checkChallenge(m.GetChallenge())
}

func (s *Server) checkAudience(network, coordinator []byte) error {
	if n, err := record.NetworkIDFromBytes(network); err != nil || n != s.network.ID {
		return fmt.Errorf("signed for network %x, and this is %s", network, s.network.ID)
	}
	own, err := key.SigningPublicFromBytes(coordinator)
	if err != nil || !own.Equal(s.id.signing.Public()) {
		return errors.New("signed for another coordinator")
	}
	return nil
}

// member decides whether the key may take part now, and gives its last sequence number.
func (s *Server) member(role pb.Role, k key.DevicePublic, nodeKey []byte) (sequence uint64, refused *connect.Error) {
	if role == pb.Role_ROLE_RELAY {
		switch r := s.hub.relay(k); {
		case r == nil:
			return 0, s.notMember("relay")
		case r.Removed:
			return 0, s.refuse(connect.CodePermissionDenied, reason.Removed, errRemoved())
		}
		return 0, nil
	}
	d := s.hub.device(k)
	switch {
	case d == nil:
		return 0, s.notMember("device")
	case d.Removed:
		return 0, s.refuse(connect.CodePermissionDenied, reason.Removed, errRemoved())
	case d.Expired(s.cfg.Now()):
		return 0, s.refuse(connect.CodePermissionDenied, reason.Expired, errExpired(d.ExpiresAt))
	case !bytes.Equal(nodeKey, d.NodeKey.Bytes()) && (d.NextNodeKey.IsZero() || !bytes.Equal(nodeKey, d.NextNodeKey.Bytes())):
		return 0, s.refuse(connect.CodeFailedPrecondition, reason.NodeKey,
			errors.New("the node key is not the one of this device's record; join again with \"warren up TOKEN\""))
	}
	return d.Sequence, nil
}

func (s *Server) notMember(what string) *connect.Error {
	return s.refuse(connect.CodePermissionDenied, reason.NotMember, fmt.Errorf(
		"the coordinator does not know this %s; if it was restored from a backup, join again with a new token", what))
}

// session is what a session token says. The token is its own proof, so nothing is stored, and none survives a restart.
type session struct {
	device      key.DevicePublic
	role        pb.Role
	me          instance
	expires     time.Time
	os, version string
}

func (s *Server) sessionToken(v session) string {
	raw := v.device.Raw()
	b := append([]byte(nil), raw[:]...)
	b = append(b, byte(v.role))
	b = append(b, v.me.id[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(v.expires.UnixNano()))
	for _, text := range []string{v.me.hostname, v.os, v.version} {
		b = append(b, byte(len(text)))
		b = append(b, text...)
	}
	return base64.RawURLEncoding.EncodeToString(append(b, s.seal("session", b)...))
}

var errSession = errors.New("session token is not valid any more; log in again")

func (s *Server) openSession(text string) (v session, err error) {
	b, err := base64.RawURLEncoding.DecodeString(text)
	const fixed = key.Size + 1 + 16 + 8
	if err != nil || len(b) < fixed+3+sha256.Size {
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
	for _, into := range []*string{&v.me.hostname, &v.os, &v.version} {
		n := int(rest[0]) // our own seal vouches for the lengths
		*into, rest = string(rest[1:1+n]), rest[1+n:]
	}
	return v, nil
}

// remoteOf is the address that a request came from, without its port.
func remoteOf(req connect.AnyRequest) string {
	host, _, err := net.SplitHostPort(req.Peer().Addr)
	if err != nil {
		return req.Peer().Addr
	}
	return host
}

func errRemoved() error {
	return errors.New("this device was removed from the network; to come back run \"warren leave --force\", then \"warren up\" with a new token")
}

func errExpired(at time.Time) error {
	return fmt.Errorf("this device's membership expired at %s; renew it by \"warren up\" with a new token", at.UTC().Format(time.RFC3339))
}

func errSuperseded(by instance) error {
	return fmt.Errorf("a newer start of this device took over: %s", by)
}
