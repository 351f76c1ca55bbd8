package portmap

import "time"

// epoch follows a server's clock of how long it has kept its table.
type epoch struct {
	known  bool
	server uint32
	at     time.Time
}

// restarted takes the server's time and tells whether its table was lost since the last one: RFC 6887 section 8.5, which allows for drift by
// 1/16 and two seconds of jitter. RFC 6886 section 3.6 is content with less.
func (e *epoch) restarted(now time.Time, server uint32) bool {
	old := *e
	*e = epoch{true, server, now}
	if !old.known {
		return false
	}
	if int64(server)+1 < int64(old.server) {
		return true
	}
	const jitter = 2 * time.Second
	client := now.Sub(old.at)
	told := time.Duration(max(0, int64(server)-int64(old.server))) * time.Second
	return client+jitter < told-told/16 || told+jitter < client-client/16
}
