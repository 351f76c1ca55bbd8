package warrennet

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"

	"golang.org/x/sys/unix"
)

// StartOnTerminal is StartCommand with a terminal as standard output and error.
func StartOnTerminal(cmd *exec.Cmd) (*Daemon, error) {
	ours, theirs, err := terminal()
	if err != nil {
		return nil, fmt.Errorf("terminal: %w", err)
	}
	d := &Daemon{cmd: cmd, log: &log{changed: make(chan struct{})}, done: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = theirs, theirs
	err = cmd.Start()
	theirs.Close()
	if err != nil {
		ours.Close()
		return nil, err
	}
	go func() {
		defer ours.Close()
		_, _ = io.Copy(lines{d.log}, ours) // ends with EIO when the last program closes its side
		d.wait()
	}()
	return d, nil
}

// terminal opens both sides of a pseudo-terminal (pts(4)).
func terminal() (ours, theirs *os.File, err error) {
	if ours, err = os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0); err != nil {
		return nil, nil, err
	}
	defer func() {
		if err != nil {
			ours.Close()
		}
	}()
	fd := int(ours.Fd())
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		return nil, nil, err
	}
	if err = unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		return nil, nil, err
	}
	theirs, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	return ours, theirs, err
}

// lines undoes what a terminal does to the ends of lines.
type lines struct{ w io.Writer }

func (l lines) Write(b []byte) (int, error) {
	_, err := io.WriteString(l.w, strings.ReplaceAll(string(b), "\r\n", "\n"))
	return len(b), err
}
