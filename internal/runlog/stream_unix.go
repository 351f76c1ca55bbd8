//go:build unix

package runlog

import (
	"fmt"
	"io"
	"os"
	"syscall"
)

// connectedToJournal reports whether w is the stream that systemd has connected to the journal: JOURNAL_STREAM is its device and inode, in decimal
// (systemd.exec(5)). A program that was started with its output somewhere else has the variable all the same.
func connectedToJournal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	var dev, inode uint64
	if n, err := fmt.Sscanf(os.Getenv("JOURNAL_STREAM"), "%d:%d", &dev, &inode); n != 2 || err != nil {
		return false
	}
	info, err := f.Stat()
	if err != nil {
		return false
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	return ok && uint64(st.Dev) == dev && st.Ino == inode
}
