package sqlite

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	"warren/coord/domain"
	"warren/coord/store"
	"warren/proto/key"
	"warren/proto/record"
	pb "warren/proto/warrenv1"
)

// tx implements store.Tx.
type tx struct {
	ctx context.Context
	t   *sql.Tx
}

// one scans a single row.
func (t *tx) one(query string, args []any, into ...any) error {
	err := t.t.QueryRowContext(t.ctx, query, args...).Scan(into...)
	if errors.Is(err, sql.ErrNoRows) {
		return store.ErrNotFound
	}
	return err
}

func (t *tx) exec(query string, args ...any) error {
	_, err := t.t.ExecContext(t.ctx, query, args...)
	return err
}

// each calls f for every row.
func (t *tx) each(f func(*sql.Rows) error, query string, args ...any) error {
	rows, err := t.t.QueryContext(t.ctx, query, args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		if err := f(rows); err != nil {
			return err
		}
	}
	return rows.Err()
}

// every gives what scan makes of all rows, and nothing if one is damaged.
func every[T any](t *tx, scan func(func(...any) error) (*T, error), query string) ([]*T, error) {
	var out []*T
	err := t.each(func(r *sql.Rows) error {
		v, err := scan(r.Scan)
		out = append(out, v)
		return err
	}, query)
	if err != nil {
		return nil, err
	}
	return out, nil
}

func (t *tx) Meta(name string) (value []byte, err error) {
	err = t.one("SELECT value FROM meta WHERE name = ?", []any{name}, &value)
	return value, err
}

func (t *tx) SetMeta(name string, value []byte) error {
	return t.exec("INSERT INTO meta (name, value) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value", name, value)
}

const tokenColumns = "id, hash, created_at, expires_at, reusable, uses, owner, tags, ephemeral, revoked, relay"

func scanToken(scan func(...any) error) (*domain.Token, error) {
	var k domain.Token
	var hash []byte
	var created, expires int64
	var tags string
	if err := scan(&k.ID, &hash, &created, &expires, &k.Reusable, &k.Uses, &k.Owner, &tags, &k.Ephemeral, &k.Revoked, &k.Relay); err != nil {
		return nil, err
	}
	if len(hash) != len(k.Hash) {
		return nil, fmt.Errorf("token %s: hash has %d bytes", k.ID, len(hash))
	}
	k.Hash = [32]byte(hash)
	k.CreatedAt, k.ExpiresAt = fromNano(created), fromNano(expires)
	return &k, json.Unmarshal([]byte(tags), &k.Tags)
}

func (t *tx) token(where string, arg any) (*domain.Token, error) {
	k, err := scanToken(t.t.QueryRowContext(t.ctx, "SELECT "+tokenColumns+" FROM tokens WHERE "+where, arg).Scan)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, store.ErrNotFound
	}
	return k, err
}

func (t *tx) Token(id string) (*domain.Token, error) { return t.token("id = ?", id) }

func (t *tx) TokenByHash(hash [32]byte) (*domain.Token, error) { return t.token("hash = ?", hash[:]) }

func (t *tx) Tokens() ([]*domain.Token, error) {
	return every(t, scanToken, "SELECT "+tokenColumns+" FROM tokens ORDER BY created_at, id")
}

func (t *tx) PutToken(k *domain.Token) error {
	tags, err := json.Marshal(k.Tags)
	if err != nil {
		return err
	}
	return t.exec("INSERT INTO tokens ("+tokenColumns+") VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"+
		" ON CONFLICT (id) DO UPDATE SET uses = excluded.uses, revoked = excluded.revoked, expires_at = excluded.expires_at",
		k.ID, k.Hash[:], toNano(k.CreatedAt), toNano(k.ExpiresAt), k.Reusable, k.Uses, k.Owner, string(tags), k.Ephemeral, k.Revoked, k.Relay)
}

func (t *tx) TokenUse(id string, device key.DevicePublic) (*domain.Use, error) {
	var requests []byte
	if err := t.one("SELECT requests FROM token_uses WHERE token = ? AND device = ?", []any{id, device.Bytes()}, &requests); err != nil {
		return nil, err
	}
	if len(requests)%32 != 0 {
		return nil, fmt.Errorf("token %s: %d bytes of digests", id, len(requests))
	}
	u := new(domain.Use)
	for chunk := range slices.Chunk(requests, 32) {
		u.Requests = append(u.Requests, [32]byte(chunk))
	}
	return u, nil
}

func (t *tx) exists(query string, args ...any) (bool, error) {
	var n int
	err := t.one(query, args, &n)
	if errors.Is(err, store.ErrNotFound) {
		return false, nil
	}
	return err == nil, err
}

func (t *tx) UseToken(id string, device key.DevicePublic, request [32]byte, at time.Time) error {
	again, err := t.exists("SELECT 1 FROM token_uses WHERE token = ? AND device = ?", id, device.Bytes())
	if err != nil {
		return err
	}
	if again {
		return t.exec("UPDATE token_uses SET requests = CAST(requests || ? AS BLOB) WHERE token = ? AND device = ?", request[:], id, device.Bytes())
	}
	if err := t.exec("INSERT INTO token_uses (token, device, at, requests) VALUES (?, ?, ?, ?)", id, device.Bytes(), toNano(at), request[:]); err != nil {
		return err
	}
	return t.exec("UPDATE tokens SET uses = uses + 1 WHERE id = ?", id)
}

const deviceColumns = "payload, signature, removed_at, gone, sequence, hostname, os, os_version, version, last_seen, advertised, rulings"

func scanDevice(scan func(...any) error) (*store.Device, error) {
	var d store.Device
	var s pb.Signed
	var removed, seen int64
	var adverts, rulings string
	err := scan(&s.Payload, &s.Signature, &removed, &d.Gone, &d.Sequence, &d.Hostname, &d.OS, &d.OSVersion, &d.AgentVersion, &seen, &adverts, &rulings)
	if err != nil {
		return nil, err
	}
	parsed, err := record.ParseDevice(&s)
	if err != nil {
		return nil, err
	}
	d.Device.Device, d.Signed = *parsed, &s
	d.RemovedAt, d.LastSeen = fromNano(removed), fromNano(seen)
	return &d, decodeRoutes(&d.Device, adverts, rulings)
}

func (t *tx) Device(k key.DevicePublic) (*store.Device, error) {
	d, err := scanDevice(t.t.QueryRowContext(t.ctx, "SELECT "+deviceColumns+" FROM devices WHERE key = ?", k.Bytes()).Scan)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, store.ErrNotFound
	}
	return d, err
}

func (t *tx) Devices() ([]*store.Device, error) {
	return every(t, scanDevice, "SELECT "+deviceColumns+" FROM devices ORDER BY key")
}

func (t *tx) PutDevice(d *store.Device) error {
	var name any
	if !d.Removed {
		name = d.Name
	}
	adverts, rulings, err := encodeRoutes(&d.Device)
	if err != nil {
		return err
	}
	err = t.exec("INSERT INTO devices (key, name, "+deviceColumns+") VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"+
		" ON CONFLICT (key) DO UPDATE SET name = excluded.name, payload = excluded.payload, signature = excluded.signature,"+
		" removed_at = excluded.removed_at, gone = excluded.gone, sequence = excluded.sequence, hostname = excluded.hostname,"+
		" os = excluded.os, os_version = excluded.os_version, version = excluded.version, last_seen = excluded.last_seen,"+
		" advertised = excluded.advertised, rulings = excluded.rulings",
		d.Key.Bytes(), name, d.Signed.GetPayload(), d.Signed.GetSignature(), toNano(d.RemovedAt), d.Gone, int64(d.Sequence),
		d.Hostname, d.OS, d.OSVersion, d.AgentVersion, toNano(d.LastSeen), adverts, rulings)
	if err != nil {
		return err
	}
	return t.claim(d)
}

// claim makes the device's addresses and node keys its own; the tables' primary keys refuse what another device has.
func (t *tx) claim(d *store.Device) error {
	err := errors.Join(
		t.exec("DELETE FROM addresses WHERE device = ?", d.Key.Bytes()),
		t.exec("DELETE FROM node_keys WHERE device = ?", d.Key.Bytes()))
	if err == nil && d.Removed {
		return t.exec("DELETE FROM changes WHERE audience = ?", d.Key.Bytes())
	}
	if err != nil {
		return err
	}
	for _, a := range d.Addresses {
		if err := t.exec("INSERT INTO addresses (address, device) VALUES (?, ?)", a.AsSlice(), d.Key.Bytes()); err != nil {
			return fmt.Errorf("address %s: %w", a, err)
		}
	}
	for _, k := range []key.NodePublic{d.NodeKey, d.NextNodeKey} {
		if k.IsZero() {
			continue
		}
		if err := t.exec("INSERT INTO node_keys (node_key, device) VALUES (?, ?)", k.Bytes(), d.Key.Bytes()); err != nil {
			return fmt.Errorf("node key %s: %w", k.Short(), err)
		}
	}
	return nil
}

func (t *tx) Seen(k key.DevicePublic, s store.Sighting) error {
	return t.exec("UPDATE devices SET last_seen = ?, hostname = ?, os = ?, os_version = ?, version = ? WHERE key = ?",
		toNano(s.At), s.Hostname, s.OS, s.OSVersion, s.AgentVersion, k.Bytes())
}

func (t *tx) NameTaken(name string) (bool, error) {
	return t.exists("SELECT 1 FROM devices WHERE name = ?", name)
}

func (t *tx) AddressTaken(a netip.Addr) (bool, error) {
	return t.exists("SELECT 1 FROM addresses WHERE address = ?", a.AsSlice())
}

func (t *tx) NodeKeyTaken(k key.NodePublic) (bool, error) {
	return t.exists("SELECT 1 FROM node_keys WHERE node_key = ?", k.Bytes())
}

func (t *tx) Relays() (out []*store.Relay, err error) {
	err = t.each(func(r *sql.Rows) error {
		var k, desc []byte
		var created, seen int64
		relay := &store.Relay{Desc: new(pb.Relay)}
		if err := r.Scan(&k, &desc, &relay.Removed, &created, &seen); err != nil {
			return err
		}
		if relay.Key, err = key.DevicePublicFromBytes(k); err != nil {
			return err
		}
		relay.CreatedAt, relay.LastSeen = fromNano(created), fromNano(seen)
		out = append(out, relay)
		return proto.Unmarshal(desc, relay.Desc)
	}, "SELECT key, description, removed, created_at, last_seen FROM relays ORDER BY key")
	return out, err
}

func (t *tx) PutRelay(r *store.Relay) error {
	desc, err := proto.Marshal(r.Desc)
	if err != nil {
		return err
	}
	return t.exec("INSERT INTO relays (key, description, removed, created_at, last_seen) VALUES (?, ?, ?, ?, ?)"+
		" ON CONFLICT (key) DO UPDATE SET description = excluded.description, removed = excluded.removed, last_seen = excluded.last_seen",
		r.Key.Bytes(), desc, r.Removed, toNano(r.CreatedAt), toNano(r.LastSeen))
}
