package client

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net/url"
	"strings"
	"testing"

	"connectrpc.com/connect"

	"warren/proto/tlsbind"
)

// Of a certificate that is not good at this time, the cause may be this machine's clock; of no other fault.
func TestCause(t *testing.T) {
	of := func(err error) error {
		return connect.NewError(connect.CodeUnavailable, &url.Error{Op: "Post", URL: "https://x", Err: &tls.CertificateVerificationError{Err: err}})
	}
	for _, test := range []struct {
		err  error
		want string // at its end
	}{
		{of(x509.CertificateInvalidError{Reason: x509.Expired, Detail: "current time 2000 is before 2026"}), "is before 2026; if that is not the time, set this machine's clock"},
		{of(x509.CertificateInvalidError{Reason: x509.NotAuthorizedToSign}), "not authorized to sign other certificates"},
		{of(x509.UnknownAuthorityError{}), "signed by unknown authority"},
		{of(tlsbind.ErrWrongCoordinator), tlsbind.ErrWrongCoordinator.Error()},
		{connect.NewError(connect.CodeUnavailable, errors.New("refused")), "refused"},
	} {
		if got := cause(t.Context(), test.err).Error(); !strings.HasSuffix(got, test.want) || strings.HasPrefix(got, "unavailable") {
			t.Errorf("%v: %q, want %q at the end", test.err, got, test.want)
		}
	}
}
