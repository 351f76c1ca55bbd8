package domain

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"warren/proto/record"
)

// DefaultTokenLife is how long a token is good when nothing else was said.
const DefaultTokenLife = 24 * time.Hour

// MaxTokenLife bounds the life of a token.
const MaxTokenLife = 366 * 24 * time.Hour

// Token is a join token as the coordinator keeps it: without its secret.
type Token struct {
	ID        string
	Hash      [32]byte // token.Hash of the public key
	CreatedAt time.Time
	ExpiresAt time.Time
	Reusable  bool
	Uses      uint32
	Owner     string
	Tags      []string
	Ephemeral bool
	Revoked   bool
	Relay     bool
}

// TokenWish is what a person asks of a new token.
type TokenWish struct {
	Life      time.Duration // 0: DefaultTokenLife
	Reusable  bool
	Owner     string
	Tags      []string
	Ephemeral bool
	Relay     bool
}

// NewToken checks the wish and makes a token with a random id.
func NewToken(w TokenWish, hash [32]byte, random io.Reader, now time.Time) (*Token, error) {
	if w.Life == 0 {
		w.Life = DefaultTokenLife
	}
	if w.Life < time.Second || w.Life > MaxTokenLife {
		return nil, fmt.Errorf("a token lives from 1s to %s, not %s", MaxTokenLife, w.Life)
	}
	if len(w.Tags) > record.MaxTags {
		return nil, fmt.Errorf("%d tags, more than %d", len(w.Tags), record.MaxTags)
	}
	for _, tag := range w.Tags {
		if err := record.CheckLabel(tag); err != nil {
			return nil, fmt.Errorf("tag: %w", err)
		}
	}
	if Clip(w.Owner) != w.Owner {
		return nil, fmt.Errorf("user %.150q is too long or holds control characters", w.Owner)
	}
	if w.Relay && (w.Ephemeral || w.Owner != "" || len(w.Tags) > 0) {
		return nil, errors.New("a token for a relay has no user, no tags and is not ephemeral")
	}
	var b [5]byte
	if _, err := io.ReadFull(random, b[:]); err != nil {
		return nil, err
	}
	return &Token{
		ID: fmt.Sprintf("%x", b), Hash: hash, CreatedAt: now, ExpiresAt: now.Add(w.Life),
		Reusable: w.Reusable, Owner: w.Owner, Tags: w.Tags, Ephemeral: w.Ephemeral, Relay: w.Relay,
	}, nil
}

// Use is what is remembered of the enrolments of one device by one token.
type Use struct {
	// Requests are the digests of the enrolment requests that were granted, so that one played again changes nothing.
	Requests [][32]byte
}

// MaxUses bounds how often one device can renew by one token.
const MaxUses = 256

// Repeats reports whether the request was granted before.
func (u *Use) Repeats(request [32]byte) bool { return u != nil && slices.Contains(u.Requests, request) }

// Admit decides whether the token admits a device now. again says that this very device key used it before and is a member still:
// repeating an enrolment whose answer was lost must succeed, even with a one-off token. It is no way back for one that has expired.
func (t *Token) Admit(relay, again bool, now time.Time) error {
	const next = "ask for a new one: \"warren-coordinator token create\""
	switch {
	case t.Revoked:
		return fmt.Errorf("%w; %s", ErrTokenRevoked, next)
	case t.Relay != relay:
		return fmt.Errorf("%w: %s", ErrTokenRole, map[bool]string{true: "it admits a relay, not a device", false: "a relay needs one from \"token create --relay\""}[t.Relay])
	case !now.Before(t.ExpiresAt):
		return fmt.Errorf("%w at %s; %s", ErrTokenExpired, t.ExpiresAt.UTC().Format(time.RFC3339), next)
	case !t.Reusable && t.Uses > 0 && !again:
		return fmt.Errorf("%w: it was for one device; %s", ErrTokenUsed, next)
	}
	return nil
}
