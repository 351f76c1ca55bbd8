// Package record signs and opens the messages that devices, relays and the coordinator must be able to trust whoever carried
// them. Sign makes a Signed from a message; Open and its siblings for each kind verify it, parse it and check its form. A
// signature covers the context string, a zero byte and the exact payload bytes, so that one made for one purpose can never
// serve another, and nothing is ever re-encoded.
//
// The kinds with a form worth checking have their own types: Device, Statement, Ticket. They are what the rest of the code holds.
package record

import (
	"errors"
	"fmt"

	"google.golang.org/protobuf/proto"

	pb "warren/proto/warrenv1"
)

// Context names what a signature is for.
type Context string

// The contexts in use. A changed meaning needs a new one.
const (
	ContextDevice      Context = "warren device record v1"
	ContextSigningKey  Context = "warren signing certificate v1"
	ContextTLS         Context = "warren tls binding v1"
	ContextStatement   Context = "warren map statement v1"
	ContextTicket      Context = "warren relay ticket v1"
	ContextEnrolToken  Context = "warren enrolment by token v1"
	ContextEnrolDevice Context = "warren enrolment by device v1"
	ContextLogin       Context = "warren login v1"
	ContextApply       Context = "warren apply v1"
	ContextRelay       Context = "warren relay proof v1"
	ContextFlows       Context = "warren refused flows v1"
)

// MaxPayload bounds a signed payload in bytes; a longer one is refused before it is verified.
const MaxPayload = 1 << 20

// Bounds on what a device reports of the flows that it refused.
const (
	MaxFlows      = 1000
	MaxFlowReport = 256 << 10 // bytes of the payload
)

// QuestionSize is how long the coordinator's question for such flows is, in bytes.
const QuestionSize = 16

// ErrSignature says that a signature is not the expected key's over the payload in this context.
var ErrSignature = errors.New("signature does not verify")

// Signer is a private key of any signing role.
type Signer interface{ Sign(message []byte) []byte }

// Verifier is a public key of any signing role.
type Verifier interface {
	Verify(message, signature []byte) bool
}

// Message is what is signed: context, zero byte, payload.
func Message(c Context, payload []byte) []byte {
	m := make([]byte, 0, len(c)+1+len(payload))
	m = append(m, c...)
	m = append(m, 0)
	return append(m, payload...)
}

// Sign encodes m and signs it.
func Sign(by Signer, c Context, m proto.Message) (*pb.Signed, error) {
	payload, err := proto.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", c, err)
	}
	return &pb.Signed{Payload: payload, Signature: by.Sign(Message(c, payload))}, nil
}

// Verify checks a signature over payload.
func Verify(by Verifier, c Context, payload, signature []byte) error {
	if len(payload) > MaxPayload {
		return fmt.Errorf("%s: %d bytes, more than %d", c, len(payload), MaxPayload)
	}
	if !by.Verify(Message(c, payload), signature) {
		return fmt.Errorf("%s: %w", c, ErrSignature)
	}
	return nil
}

// Open verifies s and parses its payload into m.
func Open(by Verifier, c Context, s *pb.Signed, m proto.Message) error {
	if s == nil {
		return fmt.Errorf("%s: missing", c)
	}
	if err := Verify(by, c, s.GetPayload(), s.GetSignature()); err != nil {
		return err
	}
	return Parse(c, s.GetPayload(), m)
}

// Parse reads a payload whose signer must first be learnt from the payload itself; the caller verifies next.
func Parse(c Context, payload []byte, m proto.Message) error {
	if len(payload) > MaxPayload {
		return fmt.Errorf("%s: %d bytes, more than %d", c, len(payload), MaxPayload)
	}
	if err := proto.Unmarshal(payload, m); err != nil {
		return fmt.Errorf("%s: %w", c, err)
	}
	return nil
}
