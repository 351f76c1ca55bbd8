// Package tlsbind makes and recognises the TLS identity of Warren's servers. A coordinator or relay needs no domain name: its
// self-made certificate carries, as an extension, the authority's signed word that its key belongs to the network. Servers call
// Certificate, clients ClientConfig. Dates and names of such a certificate do not count, so a wrong clock does no harm.
package tlsbind

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"math/big"
	"time"

	"google.golang.org/protobuf/proto"

	"warren/proto/key"
	"warren/proto/record"
	pb "warren/proto/warrenv1"
)

// ErrWrongCoordinator says that a server is not one that the network's authority vouches for.
var ErrWrongCoordinator = errors.New("the server is not of this network: its key is not certified by the network's authority")

// maxBinding bounds the extension in bytes.
const maxBinding = 4096

// extension identifies the certificate extension that holds a serialized Signed TLSBinding. The arc 2.25 is for identifiers made from a
// UUID (ITU-T X.667), so none had to be registered; components are kept below 2^31.
func extension() asn1.ObjectIdentifier {
	return asn1.ObjectIdentifier{2, 25, 1985967941, 1370822903, 1}
}

// NewKey draws a key for a server's TLS: ECDSA on P-256, which every TLS library knows.
func NewKey() (*ecdsa.PrivateKey, error) { return ecdsa.GenerateKey(elliptic.P256(), rand.Reader) }

// SPKI is the SubjectPublicKeyInfo of a public key, which a TLSBinding covers.
func SPKI(k crypto.PublicKey) ([]byte, error) { return x509.MarshalPKIXPublicKey(k) }

// Certificate makes a self-signed certificate for k that carries binding.
func Certificate(k crypto.Signer, binding *pb.Signed) (tls.Certificate, error) {
	value, err := proto.Marshal(binding)
	if err != nil {
		return tls.Certificate{}, err
	}
	template := &x509.Certificate{
		SerialNumber:    big.NewInt(1),
		Subject:         pkix.Name{CommonName: "warren"},
		NotBefore:       time.Unix(0, 0),
		NotAfter:        time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC), // RFC 5280 section 4.1.2.5: no expiry
		KeyUsage:        x509.KeyUsageDigitalSignature,
		ExtKeyUsage:     []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		ExtraExtensions: []pkix.Extension{{Id: extension(), Value: value}},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, k.Public(), k)
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: k}, nil
}

// ServerConfig serves c with TLS 1.3 only: both sides of every connection are ours.
func ServerConfig(c tls.Certificate) *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{c}}
}

// ClientConfig recognises a server of network n by mode. roles are those that the binding may have, and serverName is used with
// TLS_MODE_PUBLIC. It returns nil for TLS_MODE_OFF. Handshakes with another server fail with an error that wraps ErrWrongCoordinator.
func ClientConfig(authority key.AuthorityPublic, n record.NetworkID, mode pb.TLSMode, serverName string, roles ...pb.TLSRole) (*tls.Config, error) {
	switch mode {
	case pb.TLSMode_TLS_MODE_OFF:
		return nil, nil
	case pb.TLSMode_TLS_MODE_PUBLIC:
		return &tls.Config{MinVersion: tls.VersionTLS12, ServerName: serverName}, nil
	case pb.TLSMode_TLS_MODE_SELF:
		return &tls.Config{
			MinVersion: tls.VersionTLS13,
			ServerName: serverName,
			// The binding is what counts; VerifyConnection checks it, also on resumption.
			InsecureSkipVerify: true,
			VerifyConnection: func(s tls.ConnectionState) error {
				return verify(authority, n, roles, s.PeerCertificates)
			},
		}, nil
	}
	return nil, fmt.Errorf("unknown TLS mode %d", mode)
}

func verify(authority key.AuthorityPublic, n record.NetworkID, roles []pb.TLSRole, chain []*x509.Certificate) error {
	if len(chain) == 0 {
		return fmt.Errorf("%w (no certificate)", ErrWrongCoordinator)
	}
	leaf := chain[0]
	var binding pb.Signed
	found := false
	for _, e := range leaf.Extensions {
		if e.Id.Equal(extension()) && len(e.Value) <= maxBinding {
			found = proto.Unmarshal(e.Value, &binding) == nil
			break
		}
	}
	if !found {
		return fmt.Errorf("%w (its certificate for %q has no such word)", ErrWrongCoordinator, leaf.Subject.CommonName)
	}
	var last error
	for _, role := range roles {
		if last = record.CheckTLS(authority, n, role, leaf.RawSubjectPublicKeyInfo, &binding); last == nil {
			return nil
		}
	}
	return fmt.Errorf("%w (%v)", ErrWrongCoordinator, last)
}
