package warrennet

import (
	"errors"
	"io"
	"os"
	"path/filepath"

	"warren/internal/lab"
)

// nobody is a user and a group without any right.
const nobody = 65534

// Unprivileged makes a host a device of an ordinary user's, without capabilities and ways to get any, in a tunnel without an interface. State and socket
// are where the XDG Base Directory Specification has them, and commands find them by themselves. dir is the user's own, and is made; those above it have to
// let others through.
func (n *Network) Unprivileged(h *lab.Host, dir string) (*Device, error) {
	program := filepath.Join(dir, "warren")
	state, run := filepath.Join(dir, "state"), filepath.Join(dir, "run")
	if err := errors.Join(os.MkdirAll(state, 0o700), os.MkdirAll(run, 0o700), copyProgram(filepath.Join(n.bin, "warren"), program)); err != nil {
		return nil, err
	}
	for _, path := range []string{dir, state, run} {
		if err := os.Chown(path, nobody, nobody); err != nil {
			return nil, err
		}
	}
	d := n.DeviceOn(h)
	d.before = []string{
		"env", "XDG_STATE_HOME=" + state, "XDG_RUNTIME_DIR=" + run,
		"setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--no-new-privs", "--inh-caps=-all", "--bounding-set=-all", program,
	}
	return d, nil
}

// copyProgram is for a program that is where not everybody may look.
func copyProgram(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}
