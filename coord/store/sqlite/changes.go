package sqlite

import (
	"database/sql"
	"encoding/binary"
	"errors"
	"time"

	"warren/coord/store"
	"warren/proto/key"
	pb "warren/proto/warrenv1"
)

// floorName is the meta value that holds the floor of the change log.
const floorName = "changes floor"

func (t *tx) Append(c store.Change) (uint64, error) {
	audience := []byte{}
	if !c.Audience.IsZero() {
		audience = c.Audience.Bytes()
	}
	id := c.ID
	if id == nil {
		id = []byte{}
	}
	err := t.exec("DELETE FROM changes WHERE audience = ? AND kind = ? AND id = ?", audience, c.Kind, id)
	if c.Kind == store.KindResnapshot {
		err = t.exec("DELETE FROM changes WHERE audience = ?", audience)
	}
	if err != nil {
		return 0, err
	}
	var payload, signature any
	if c.Body != nil {
		payload, signature = c.Body.GetPayload(), c.Body.GetSignature()
	}
	r, err := t.t.ExecContext(t.ctx, "INSERT INTO changes (kind, audience, id, payload, signature) VALUES (?, ?, ?, ?, ?)",
		c.Kind, audience, id, payload, signature)
	if err != nil {
		return 0, err
	}
	n, err := r.LastInsertId()
	return uint64(n), err
}

// Changes reads each audience by the index changes_audience, so that rows for others cost nothing.
func (t *tx) Changes(after uint64, audience key.DevicePublic, limit int) (out []store.Change, err error) {
	own := []byte{}
	if !audience.IsZero() {
		own = audience.Bytes()
	}
	err = t.each(func(r *sql.Rows) error {
		var c store.Change
		var audience, payload, signature []byte
		if err := r.Scan(&c.Revision, &c.Kind, &audience, &c.ID, &payload, &signature); err != nil {
			return err
		}
		if len(audience) > 0 {
			if c.Audience, err = key.DevicePublicFromBytes(audience); err != nil {
				return err
			}
		}
		if payload != nil {
			c.Body = &pb.Signed{Payload: payload, Signature: signature}
		}
		out = append(out, c)
		return nil
	}, "SELECT revision, kind, audience, id, payload, signature FROM changes WHERE audience IN (x'', ?) AND revision > ? ORDER BY revision LIMIT ?",
		own, int64(after), limit)
	return out, err
}

func (t *tx) OwnChanges(audience key.DevicePublic) (n int, err error) {
	err = t.one("SELECT count(*) FROM changes WHERE audience = ?", []any{audience.Bytes()}, &n)
	return n, err
}

// Revision reads the sequence, not the rows, so that dropping rows never takes it back.
func (t *tx) Revision() (uint64, error) {
	var n int64
	err := t.one("SELECT seq FROM sqlite_sequence WHERE name = 'changes'", nil, &n)
	if errors.Is(err, store.ErrNotFound) {
		return 0, nil
	}
	return uint64(n), err
}

func (t *tx) Floor() (uint64, error) {
	b, err := t.Meta(floorName)
	if errors.Is(err, store.ErrNotFound) {
		return 0, nil
	}
	if err != nil || len(b) != 8 {
		return 0, errors.Join(err, errors.New("floor of the change log is damaged"))
	}
	return binary.BigEndian.Uint64(b), nil
}

func (t *tx) Prune(before time.Time) (gone []key.DevicePublic, err error) {
	if err := t.exec("DELETE FROM tokens WHERE expires_at < ?", toNano(before)); err != nil {
		return nil, err
	}
	err = t.each(func(r *sql.Rows) error {
		var b []byte
		if err := r.Scan(&b); err != nil {
			return err
		}
		k, err := key.DevicePublicFromBytes(b)
		gone = append(gone, k)
		return err
	}, "SELECT key FROM devices WHERE removed_at > 0 AND removed_at < ? ORDER BY key", toNano(before))
	if err != nil || len(gone) == 0 {
		return nil, err
	}
	floor, err := t.Floor()
	if err != nil {
		return nil, err
	}
	for _, k := range gone {
		var newest sql.NullInt64
		if err := t.one("SELECT max(revision) FROM changes WHERE kind = ? AND id = ?", []any{pb.Kind_KIND_DEVICE, k.Bytes()}, &newest); err != nil {
			return nil, err
		}
		floor = max(floor, uint64(newest.Int64))
		err := errors.Join(
			t.exec("DELETE FROM changes WHERE kind = ? AND id = ?", pb.Kind_KIND_DEVICE, k.Bytes()),
			t.exec("DELETE FROM devices WHERE key = ?", k.Bytes()))
		if err != nil {
			return nil, err
		}
	}
	return gone, t.SetMeta(floorName, binary.BigEndian.AppendUint64(nil, floor))
}
