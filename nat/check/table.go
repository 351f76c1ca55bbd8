package check

import "warren/proto/key"

// ID names a peer: its device key, raw.
type ID = [key.Size]byte

// Entry is what a USERNAME stands for.
type Entry struct {
	Peer ID
	Keys *Keys
}

// Table finds keys by the USERNAME of a request. A peer has one set of keys for each pair of current and next node keys. It is not safe
// for concurrent use.
type Table struct {
	byName map[string]Entry
	byPeer map[ID][]*Keys
}

// NewTable makes an empty table.
func NewTable() *Table { return &Table{byName: map[string]Entry{}, byPeer: map[ID][]*Keys{}} }

// Set makes keys the peer's; the first are those for what we send. Without keys the peer is removed.
func (t *Table) Set(peer ID, keys ...*Keys) {
	for _, k := range t.byPeer[peer] {
		if t.byName[string(k.Username())].Peer == peer {
			delete(t.byName, string(k.Username()))
		}
	}
	delete(t.byPeer, peer)
	if len(keys) == 0 {
		return
	}
	t.byPeer[peer] = keys
	for _, k := range keys {
		t.byName[string(k.Username())] = Entry{Peer: peer, Keys: k}
	}
}

// Lookup finds whose username is.
func (t *Table) Lookup(username []byte) (Entry, bool) {
	e, ok := t.byName[string(username)]
	return e, ok
}

// Keys gives the peer's keys as Set got them; nil if there are none.
func (t *Table) Keys(peer ID) []*Keys { return t.byPeer[peer] }

// Len is how many peers the table holds.
func (t *Table) Len() int { return len(t.byPeer) }
