package handover

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Inherited gives the files that the process had when it was another program. It is to be called before the process opens others.
func Inherited() (Files, error) {
	text, ok := os.LookupEnv(variable)
	if !ok {
		return nil, nil
	}
	os.Unsetenv(variable)
	numbers, err := parse(text)
	if err != nil {
		return nil, err
	}
	out := Files{}
	var errs []error
	for name, n := range numbers {
		if _, err := unix.FcntlInt(uintptr(n), unix.F_SETFD, unix.FD_CLOEXEC); err != nil {
			errs = append(errs, fmt.Errorf("%s=%.80q: %s: %w", variable, text, name, err))
			continue
		}
		out[name] = os.NewFile(uintptr(n), name)
	}
	return out, errors.Join(errs...)
}

// Replace has the process become another program, which keeps the files, and has this environment besides. It returns only if that failed; then the files
// are as they were.
func Replace(program string, args, env []string, files Files) error {
	numbers := map[string]int{}
	stay := func(flags int) (errs error) {
		for name, f := range files {
			errs = errors.Join(errs, control(f, func(fd uintptr) error {
				numbers[name] = int(fd)
				_, err := unix.FcntlInt(fd, unix.F_SETFD, flags)
				return err
			}))
		}
		return errs
	}
	err := stay(0)
	if err == nil {
		env = slices.DeleteFunc(slices.Clone(env), func(v string) bool { return strings.HasPrefix(v, variable+"=") })
		if len(numbers) > 0 {
			env = append(env, variable+"="+format(numbers))
		}
		err = syscall.Exec(program, args, env)
	}
	return fmt.Errorf("starting %s in place of this process: %w", program, errors.Join(err, stay(unix.FD_CLOEXEC)))
}

// Duplicate gives another open file of what c has open.
func Duplicate(name string, c syscall.Conn) (*os.File, error) {
	copied := -1
	err := control(c, func(fd uintptr) (err error) {
		copied, err = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 3)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return os.NewFile(uintptr(copied), name), nil
}

// control calls do with the number of a file, which stays as it is: File.Fd would make it block.
func control(c syscall.Conn, do func(fd uintptr) error) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var done error
	return errors.Join(raw.Control(func(fd uintptr) { done = do(fd) }), done)
}
