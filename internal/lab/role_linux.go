package lab

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// roleVariable tells the program, started again, what it is.
const roleVariable = "WARREN_LAB_ROLE"

// openMark is there, on the host, while programs may enter.
const openMark = "/run/.lab-open"

const (
	roleHold  = "hold"  // keep a host's namespaces
	roleEnter = "enter" // enter them and become another program
	roleInner = "inner" // the program itself, inside a user namespace
)

// Main is TestMain for packages that use the lab.
func Main(m *testing.M) {
	Init()
	os.Exit(m.Run())
}

// Init must be the first call of a program that uses the lab. In the roles that the package gives the program it does not return.
func Init() {
	role := os.Getenv(roleVariable)
	os.Unsetenv(roleVariable)
	switch role {
	case roleHold:
		exit(hold())
	case roleEnter:
		exit(enter(os.Args[1:]))
	case roleInner:
		return
	}
	if os.Geteuid() != 0 {
		exit(againInUserNamespace())
	}
}

func exit(err error) {
	var ended *exec.ExitError
	switch {
	case err == nil:
		os.Exit(0)
	case errors.As(err, &ended) && ended.ExitCode() >= 0:
		os.Exit(ended.ExitCode())
	}
	fmt.Fprintln(os.Stderr, "lab:", err)
	os.Exit(1)
}

// againInUserNamespace runs the program as root of a user namespace of its own, where it may make the others.
func againInUserNamespace() error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.Command(self, os.Args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), roleVariable+"="+roleInner)
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET | syscall.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}},
	}
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("as user %d the lab needs user namespaces, which this system may forbid: %w", os.Geteuid(), err)
	}
	return nil
}

// hold prepares the mount namespace of a host, says so, and waits for its parent to let go. Then it ends every process of the host.
func hold() error {
	if err := prepareMounts(); err != nil {
		return err
	}
	fmt.Println("ready")
	if _, err := io.Copy(io.Discard, os.Stdin); err != nil {
		return err
	}
	// Who enters from now on sees that the mark is gone; who saw it has entered, and is found.
	if err := os.Remove(openMark); err != nil {
		return err
	}
	return killNeighbours()
}

// prepareMounts gives the host its own /run and /etc/resolv.conf.
func prepareMounts() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("mount namespace: %w", err)
	}
	dirs := []string{"/run"}
	if target, err := filepath.EvalSymlinks("/var/run"); err == nil && target != "/run" {
		dirs = append(dirs, "/var/run")
	}
	for _, dir := range dirs {
		if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0755"); err != nil {
			return fmt.Errorf("tmpfs on %s: %w", dir, err)
		}
	}
	const own = "/run/resolv.conf"
	if err := os.WriteFile(own, nil, 0o644); err != nil {
		return err
	}
	if err := os.WriteFile(openMark, nil, 0o644); err != nil {
		return err
	}
	if err := unix.Mount(own, "/etc/resolv.conf", "", unix.MS_BIND, ""); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("resolv.conf: %w", err)
	}
	return nil
}

// killNeighbours ends all processes in the holder's network namespace but itself, daemons that have detached themselves among them. It looks
// again until there are none, since one may have started another meanwhile.
func killNeighbours() error {
	own, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		return err
	}
	for range 100 {
		entries, err := os.ReadDir("/proc")
		if err != nil {
			return err
		}
		found := false
		for _, e := range entries {
			pid, err := strconv.Atoi(e.Name())
			if err != nil || pid == os.Getpid() {
				continue
			}
			if inNamespace(pid, own) {
				found = true
				unix.Kill(pid, unix.SIGKILL)
			}
		}
		if !found {
			return nil
		}
		runtime.Gosched()
	}
	return nil
}

// inNamespace reports whether a thread of the process is in the network namespace; one that enters may not be the first.
func inNamespace(pid int, own string) bool {
	links, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/ns/net", pid))
	if err != nil {
		return false
	}
	return slices.ContainsFunc(links, func(link string) bool {
		// That of one that has ended, and waits to be waited for, cannot be read.
		ns, err := os.Readlink(link)
		return err == nil && ns == own
	})
}

// enter joins the namespaces of the holder args[0] and becomes the program args[1:], in the same directory.
func enter(args []string) error {
	if len(args) < 2 {
		return errors.New("enter: want HOLDER PROGRAM [ARGUMENT ...]")
	}
	dir, err := os.Getwd()
	if err != nil {
		return err
	}
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_FS); err != nil { // a thread that shares its root with others may not change it
		return err
	}
	for _, ns := range []struct {
		name string
		flag int
	}{{"net", unix.CLONE_NEWNET}, {"mnt", unix.CLONE_NEWNS}} {
		f, err := os.Open("/proc/" + args[0] + "/ns/" + ns.name)
		if err != nil {
			return err
		}
		if err := unix.Setns(int(f.Fd()), ns.flag); err != nil {
			return fmt.Errorf("entering %s: %w", f.Name(), err)
		}
		f.Close()
	}
	if err := unix.Chdir(dir); err != nil { // joining a mount namespace leads to its root
		return fmt.Errorf("directory %s: %w", dir, err)
	}
	if _, err := os.Stat(openMark); err != nil {
		return fmt.Errorf("the host is being removed: %w", err)
	}
	program := args[1]
	if !strings.Contains(program, "/") {
		path, err := exec.LookPath(program)
		if err != nil {
			return err
		}
		program = path
	}
	return unix.Exec(program, args[1:], os.Environ())
}
