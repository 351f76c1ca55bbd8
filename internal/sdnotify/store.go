package sdnotify

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
)

// Kept is a file that the manager kept while the program was away, or that it opened for it.
type Kept struct {
	// Name is what Keep was told. It is "unknown" where the manager gave no name.
	Name string
	// File is the caller's, who has to close it. It is not inherited by programs that this one starts.
	File *os.File
}

// maxKept is how many files are taken at most; systemd's own bound is lower by default.
const maxKept = 1 << 12

// firstKept is the number of the first file that is passed (SD_LISTEN_FDS_START).
const firstKept = 3

// Inherited gives the files that the manager passed on to this process (sd_listen_fds_with_names(3)), in its order, and removes LISTEN_FDS,
// LISTEN_PID and LISTEN_FDNAMES from the environment. It has to be called before this process opens files or starts programs, and gives nothing
// the second time. What is meant for another process, or makes no sense, gives no files; the latter an error besides.
func Inherited() ([]Kept, error) {
	fds, pid, names := os.Getenv("LISTEN_FDS"), os.Getenv("LISTEN_PID"), os.Getenv("LISTEN_FDNAMES")
	for _, name := range []string{"LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"} {
		os.Unsetenv(name)
	}
	given, err := inheritedNames(fds, pid, names, os.Getpid())
	if err != nil {
		return nil, err
	}
	kept := make([]Kept, 0, len(given))
	var failed error
	for i, name := range given {
		f, err := inherit(firstKept+i, name)
		if err != nil {
			failed = errors.Join(failed, fmt.Errorf("file %d (%s) of LISTEN_FDS=%s: %w", firstKept+i, name, fds, err))
			continue
		}
		kept = append(kept, Kept{Name: name, File: f})
	}
	return kept, failed
}

// inheritedNames gives a name for each file that is passed to the process self.
func inheritedNames(fds, pid, names string, self int) ([]string, error) {
	if fds == "" || pid != strconv.Itoa(self) {
		return nil, nil
	}
	n, err := strconv.Atoi(fds)
	if err != nil || n < 0 || n > maxKept {
		return nil, fmt.Errorf("LISTEN_FDS=%s is not a number from 0 to %d", fds, maxKept)
	}
	given := make([]string, n)
	told := strings.Split(names, ":")
	for i := range given {
		given[i] = "unknown"
		if len(told) == n && told[i] != "" {
			given[i] = told[i]
		}
	}
	return given, nil
}

// checkName tells whether the manager takes a name for a file.
func checkName(name string) error {
	bad := func(r rune) bool { return r < ' ' || r > '~' || r == ':' }
	if name == "" || len(name) > 255 || strings.ContainsFunc(name, bad) {
		return fmt.Errorf("%q cannot name a kept file: 1 to 255 printable ASCII characters without a colon", name)
	}
	return nil
}

// Present tells whether there is a manager that listens. Whether it keeps files too, its unit's FileDescriptorStoreMax= says; nobody tells the
// program.
func (n Notifier) Present() bool { return n.socket != "" }

// Forget has the manager close all files that it keeps by a name.
func (n Notifier) Forget(name string) error {
	if err := checkName(name); err != nil {
		return err
	}
	return n.send("FDSTOREREMOVE=1\nFDNAME=" + name)
}
