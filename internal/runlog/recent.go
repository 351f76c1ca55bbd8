package runlog

import (
	"bytes"
	"sync"
)

// Bounds of Recent, in bytes.
const (
	maxRecent = 256 << 10
	maxLine   = 4 << 10
)

// Recent keeps the newest lines that are written to it, 256 KiB at most; of a longer line than 4 KiB the beginning. It may be used by several goroutines.
type Recent struct {
	mu    sync.Mutex
	lines [][]byte
	size  int
}

// Write takes one line. It does not fail.
func (r *Recent) Write(line []byte) (int, error) {
	kept := bytes.Clone(line)
	if len(kept) > maxLine {
		kept = append(kept[:maxLine-len("…\n")], "…\n"...)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lines = append(r.lines, kept)
	for r.size += len(kept); r.size > maxRecent; r.lines = r.lines[1:] {
		r.size -= len(r.lines[0])
		r.lines[0] = nil
	}
	return len(line), nil
}

// Bytes gives the lines, the oldest first.
func (r *Recent) Bytes() []byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	return bytes.Join(r.lines, nil)
}
