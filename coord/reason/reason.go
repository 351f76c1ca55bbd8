// Package reason lists why the coordinator refuses an agent, in a form that programs tell apart. The server sets Header on the error's
// metadata, the client reads it; the error's text is for people.
package reason

// Header is the name of the metadata.
const Header = "Warren-Reason"

// The reasons. Their text is part of the protocol.
const (
	TokenUnknown = "token-unknown"
	TokenExpired = "token-expired"
	TokenUsed    = "token-used"
	TokenRevoked = "token-revoked"
	TokenRole    = "token-role"
	Name         = "name"
	Removed      = "removed"
	Expired      = "expired"
	// NotMember says that the coordinator knows no such device; it may have been restored from an old backup.
	NotMember = "not-member"
	// Superseded says that a newer start of the same device has taken over this Watch.
	Superseded = "superseded"
	// Duplicate says that one device key is in use on two machines.
	Duplicate = "duplicate"
	// NodeKey says that the node key is not the one of the device's record.
	NodeKey = "node-key"
	// Sequence says that a change was signed with an old sequence number.
	Sequence = "sequence"
	// Behind says that a Watch was too slow and has to come again.
	Behind = "behind"
	// Stopping says that the coordinator is shutting down.
	Stopping = "stopping"
)

// NoSuchChange is in the text of the refusal of a change that the coordinator is too old for. It has no Header of its own.
const NoSuchChange = "no change that this coordinator knows"
