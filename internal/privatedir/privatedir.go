// Package privatedir makes the directories that keys are kept in, which none but their owner and the system's administrators may enter. Make is the
// call for that; Restrict does the same to one file on Windows, where a mode is no protection.
package privatedir

// Make makes a directory, and those above it, if it is not there. On Unix only its owner may enter it (0700), and one that is there stays as it is. On
// Windows it gets an access list of the system, the administrators and the user that the process runs as, whether it was there or not; a
// directory of anybody else's is an error: they could have prepared it.
func Make(path string) error { return makeDir(path) }
