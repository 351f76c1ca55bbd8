package client

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"warren/proto/key"
	"warren/proto/record"
	"warren/proto/token"
	pb "warren/proto/warrenv1"
)

// EnrolConfig is what a device or relay enrols with.
type EnrolConfig struct {
	Token  *token.Token
	Device key.DevicePrivate
	// Node is the node key of a device; zero for a relay.
	Node key.NodePublic
	// Name is the wished name; empty: made from Hostname.
	Name                             string
	Hostname, OS, OSVersion, Version string
	Dial                             DialFunc
	Now                              func() time.Time
	// Relay makes this the enrolment of a relay; RelaySPKI is the SHA-256 of its TLS key's SubjectPublicKeyInfo, if that is self-made.
	Relay     *pb.Relay
	RelaySPKI []byte
}

// Enrolled is a membership.
type Enrolled struct {
	// Record is the device's own record, Signed as the authority signed it; nil for a relay.
	Record *record.Device
	Signed *pb.Signed
	// TLSBinding is the authority's word for a relay's TLS key.
	TLSBinding *pb.Signed
	Endpoint   token.Endpoint
	// Renewed says that the device was a member before.
	Renewed bool
	// ClockSkew is how far this machine's clock is ahead of the coordinator's.
	ClockSkew time.Duration
}

// ErrRefused says that the coordinator refused; its sentence follows.
var ErrRefused = errors.New("the coordinator refused")

// Enrol makes the device a member, or renews it. Repeating it with the same keys is harmless.
func Enrol(ctx context.Context, cfg EnrolConfig) (*Enrolled, error) {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Dial == nil {
		cfg.Dial = new(net.Dialer).DialContext
	}
	req, err := enrolRequest(cfg)
	if err != nil {
		return nil, err
	}
	t := cfg.Token
	l, err := place{t.Network, t.Authority, t.Endpoints, cfg.Dial, cfg.Now}.connect(ctx)
	if err != nil {
		return nil, err
	}
	defer l.close()
	r, err := l.Enrol(ctx, connect.NewRequest(req))
	if err != nil {
		return nil, refused(err)
	}
	e := &Enrolled{Endpoint: l.endpoint, Renewed: r.Msg.GetRenewed(), ClockSkew: l.skew, TLSBinding: r.Msg.GetTlsBinding(), Signed: r.Msg.GetRecord()}
	if _, err := record.OpenCertificate(t.Authority, t.Network, r.Msg.GetSigningCertificate()); err != nil {
		return nil, err
	}
	if cfg.Relay != nil {
		return e, nil
	}
	if e.Record, err = record.OpenDevice(t.Authority, t.Network, e.Signed); err != nil {
		return nil, err
	}
	if !e.Record.Key.Equal(cfg.Device.Public()) || !e.Record.NodeKey.Equal(cfg.Node) || e.Record.Removed {
		return nil, errors.New("the coordinator answered with another device's record")
	}
	return e, nil
}

// enrolRequest signs the same bytes twice: by the token and by the device.
func enrolRequest(cfg EnrolConfig) (*pb.EnrolRequest, error) {
	by, err := cfg.Token.Secret.Key()
	if err != nil {
		return nil, err
	}
	body := &pb.EnrolBody{
		NetworkId: cfg.Token.Network[:], TokenKey: by.Public().Bytes(), DeviceKey: cfg.Device.Public().Bytes(), Role: pb.Role_ROLE_DEVICE,
		Name: cfg.Name, Hostname: cfg.Hostname, Os: cfg.OS, OsVersion: cfg.OSVersion, AgentVersion: cfg.Version, Time: timestamppb.New(cfg.Now()),
	}
	if cfg.Relay != nil {
		body.Role, body.Relay, body.RelaySpkiSha256 = pb.Role_ROLE_RELAY, cfg.Relay, cfg.RelaySPKI
	} else {
		body.NodeKey = cfg.Node.Bytes()
	}
	payload, err := proto.Marshal(body)
	if err != nil {
		return nil, err
	}
	return &pb.EnrolRequest{
		Payload:         payload,
		TokenSignature:  by.Sign(record.Message(record.ContextEnrolToken, payload)),
		DeviceSignature: cfg.Device.Sign(record.Message(record.ContextEnrolDevice, payload)),
	}, nil
}

// refused gives the coordinator's own sentence.
func refused(err error) error {
	var e *connect.Error
	if !errors.As(err, &e) {
		return err
	}
	if e.Meta().Get(reasonHeader) != "" {
		return fmt.Errorf("%w: %w", ErrRefused, &refusal{e})
	}
	return fmt.Errorf("%w: %s", ErrUnreachable, e.Message())
}

// refusal prints without connect's code, and keeps the reason within reach.
type refusal struct{ err *connect.Error }

func (r *refusal) Error() string { return r.err.Message() }
func (r *refusal) Unwrap() error { return r.err }

// Reason gives the reason of coord/reason for which the coordinator refused, or the empty string.
func Reason(err error) string { return reasonOf(err) }
