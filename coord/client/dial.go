package client

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"connectrpc.com/connect"

	"warren/proto/key"
	"warren/proto/record"
	"warren/proto/tlsbind"
	"warren/proto/token"
	pb "warren/proto/warrenv1"
	"warren/proto/warrenv1/warrenv1connect"
)

// ErrUnreachable says that no address of the coordinator answered.
var ErrUnreachable = errors.New("the coordinator is not reachable")

var errNoAnswer = fmt.Errorf("no answer within %s", dialTimeout)

const (
	// stagger is the head start that an endpoint has before the next one is tried too, as in RFC 8305.
	stagger = 250 * time.Millisecond
	// dialTimeout bounds one endpoint.
	dialTimeout = 10 * time.Second
	// idlePing makes HTTP/2 notice a connection that has died silently.
	idlePing = 10 * time.Second
	pingDead = 5 * time.Second
)

// link is a coordinator that answered.
type link struct {
	warrenv1connect.CoordinatorServiceClient
	endpoint  token.Endpoint
	transport *http.Transport
	challenge *pb.ChallengeResponse
	signing   key.SigningPublic
	skew      time.Duration
}

func (l *link) close() { l.transport.CloseIdleConnections() }

// place is where a coordinator is looked for, and how it is recognised.
type place struct {
	network   record.NetworkID
	authority key.AuthorityPublic
	endpoints []token.Endpoint
	dial      DialFunc
	now       func() time.Time
}

// connect tries the endpoints, each a little later than the one before, and gives the first that proves to be the coordinator.
func (p place) connect(ctx context.Context) (*link, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type result struct {
		l   *link
		err error
	}
	results := make(chan result, len(p.endpoints))
	for i, e := range p.endpoints {
		go func() {
			timer := time.NewTimer(time.Duration(i) * stagger)
			defer timer.Stop()
			select {
			case <-ctx.Done():
				results <- result{nil, ctx.Err()}
				return
			case <-timer.C:
			}
			l, err := p.try(ctx, e)
			results <- result{l, err}
		}()
	}
	var errs []error
	for range p.endpoints {
		r := <-results
		if r.err == nil {
			cancel()
			go drop(results, len(p.endpoints)-len(errs)-1, func(r result) *link { return r.l })
			return r.l, nil
		}
		errs = append(errs, r.err)
	}
	return nil, explain(errs)
}

// drop closes the links of those who came too late.
func drop[R any](late <-chan R, n int, of func(R) *link) {
	for range n {
		if l := of(<-late); l != nil {
			l.close()
		}
	}
}

// explain makes one sentence of why no endpoint would do. A server that is not ours is the more telling reason.
func explain(errs []error) error {
	var texts []string
	for _, err := range errs {
		if errors.Is(err, tlsbind.ErrWrongCoordinator) {
			return fmt.Errorf("%w; check that the address still leads to the coordinator that made the token", err)
		}
		texts = append(texts, err.Error())
	}
	return fmt.Errorf("%w: %s", ErrUnreachable, strings.Join(texts, "; "))
}

func (p place) transport(e token.Endpoint) (*http.Transport, error) {
	u, err := url.Parse(e.URL)
	if err != nil {
		return nil, err
	}
	config, err := tlsbind.ClientConfig(p.authority, p.network, e.Mode, u.Hostname(), pb.TLSRole_TLS_ROLE_COORDINATOR)
	if err != nil {
		return nil, err
	}
	return &http.Transport{
		DialContext: p.dial, TLSClientConfig: config, ForceAttemptHTTP2: true, TLSHandshakeTimeout: dialTimeout,
		HTTP2: &http.HTTP2Config{SendPingTimeout: idlePing, PingTimeout: pingDead},
	}, nil
}

// try connects to one endpoint and fetches a challenge, which shows that a coordinator of the network is there.
func (p place) try(ctx context.Context, e token.Endpoint) (*link, error) {
	t, err := p.transport(e)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", e.URL, err)
	}
	l := &link{endpoint: e, transport: t}
	l.CoordinatorServiceClient = warrenv1connect.NewCoordinatorServiceClient(
		&http.Client{Transport: t}, strings.TrimSuffix(e.URL, "/"), connect.WithReadMaxBytes(4*record.MaxPayload))
	ctx, cancel := context.WithTimeoutCause(ctx, dialTimeout, errNoAnswer)
	defer cancel()
	sent := p.now()
	r, err := l.Challenge(ctx, connect.NewRequest(&pb.ChallengeRequest{}))
	if err != nil {
		l.close()
		return nil, fmt.Errorf("%s: %w", e.URL, cause(ctx, err))
	}
	if l.signing, err = record.OpenCertificate(p.authority, p.network, r.Msg.GetSigningCertificate()); err != nil {
		l.close()
		return nil, fmt.Errorf("%s: %w (%v)", e.URL, tlsbind.ErrWrongCoordinator, err)
	}
	l.challenge = r.Msg
	if at := r.Msg.GetServerTime(); at.IsValid() && at != nil {
		l.skew = sent.Sub(at.AsTime())
	}
	return l, nil
}

// cause prefers what was wrong with the connection to what connect made of it.
func cause(ctx context.Context, err error) error {
	if errors.Is(err, tlsbind.ErrWrongCoordinator) {
		return tlsbind.ErrWrongCoordinator
	}
	if ctx.Err() != nil { // the caller may have had less patience
		return context.Cause(ctx)
	}
	var e *connect.Error
	if errors.As(err, &e) && e.Unwrap() != nil {
		err = e.Unwrap()
	}
	var certificate x509.CertificateInvalidError
	if errors.As(err, &certificate) && certificate.Reason == x509.Expired { // or not good yet
		return fmt.Errorf("%w; if that is not the time, set this machine's clock", err)
	}
	return err
}
