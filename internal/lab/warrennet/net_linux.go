package warrennet

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"warren/internal/filelock"
	"warren/internal/lab"
)

// Build makes both programs in dir, unless the variable WARREN_BIN names a directory that has them.
func Build(ctx context.Context, dir string) (string, error) {
	if made := os.Getenv("WARREN_BIN"); made != "" {
		return filepath.Abs(made)
	}
	for name, pkg := range map[string]string{"warren": "warren/cmd/agent", "warren-coordinator": "warren/cmd/coordinator"} {
		cmd := exec.CommandContext(ctx, "go", "build", "-o", filepath.Join(dir, name), pkg)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return "", fmt.Errorf("building %s: %w\n%s", name, err, out)
		}
	}
	return dir, nil
}

// Network is a coordinator in a lab and the devices that were added.
type Network struct {
	Lab         *lab.Lab
	Coordinator *lab.Host
	bin, dir    string
	serving     *Daemon
	args        []string
	mu          sync.Mutex
	devices     []*Device
}

// Daemon is a program that was started and is stopped in the end.
type Daemon struct {
	cmd  *exec.Cmd
	log  *log
	done chan struct{}
	err  error
}

// log keeps what a program says and lets others wait for a line of it.
type log struct {
	mu      sync.Mutex
	b       bytes.Buffer
	changed chan struct{}
}

func (l *log) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	close(l.changed)
	l.changed = make(chan struct{})
	return l.b.Write(b)
}

func (l *log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func (l *log) wait(ctx context.Context, text string, ended <-chan struct{}) error {
	for {
		l.mu.Lock()
		found, changed := strings.Contains(l.b.String(), text), l.changed
		l.mu.Unlock()
		if found {
			return nil
		}
		select {
		case <-changed:
		case <-ended:
			return fmt.Errorf("the program ended before it said %q:\n%s", text, l)
		case <-ctx.Done():
			return fmt.Errorf("the program did not say %q: %w\n%s", text, context.Cause(ctx), l)
		}
	}
}

// Start starts a program on a host.
func Start(h *lab.Host, program string, args ...string) (*Daemon, error) {
	return StartCommand(h.Command(context.Background(), program, args...))
}

// StartCommand starts a command and keeps what it says.
func StartCommand(cmd *exec.Cmd) (*Daemon, error) {
	d := &Daemon{cmd: cmd, log: &log{changed: make(chan struct{})}, done: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = d.log, d.log
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	go d.wait()
	return d, nil
}

func (d *Daemon) wait() {
	d.err = d.cmd.Wait()
	close(d.done)
}

// Signal sends a signal and waits until the program has ended.
func (d *Daemon) Signal(sig os.Signal) error {
	if err := d.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	<-d.done
	return d.err
}

// Ended tells whether the program has ended.
func (d *Daemon) Ended() bool {
	select {
	case <-d.done:
		return true
	default:
		return false
	}
}

// PID is the program's process.
func (d *Daemon) PID() int { return d.cmd.Process.Pid }

// Log is what the program said so far.
func (d *Daemon) Log() string { return d.log.String() }

// AwaitLog waits until the program has said text.
func (d *Daemon) AwaitLog(ctx context.Context, text string) error {
	return d.log.wait(ctx, text, d.done)
}

// New makes a lab with a running coordinator. args are added to serve.
func New(ctx context.Context, bin, dir string, args ...string) (*Network, error) {
	l, err := lab.New()
	if err != nil {
		return nil, err
	}
	site, err := l.Site("coordinator", lab.Access{IPv6: lab.OpenIPv6})
	var h *lab.Host
	if err == nil {
		h, err = site.Host("coordinator")
	}
	if err != nil {
		l.Close()
		return nil, err
	}
	return On(ctx, l, h, bin, dir, args...)
}

// On is New in a lab that is there, with the coordinator on one of its hosts. The lab is closed if that fails.
func On(ctx context.Context, l *lab.Lab, h *lab.Host, bin, dir string, args ...string) (*Network, error) {
	n := &Network{Lab: l, Coordinator: h, bin: bin, dir: dir, args: args}
	if err := n.Serve(ctx); err != nil {
		n.Close()
		return nil, err
	}
	return n, nil
}

// CoordinatorDir is the coordinator's state directory.
func (n *Network) CoordinatorDir() string { return filepath.Join(n.dir, "coordinator") }

// Serve starts the coordinator, as it was the first time.
func (n *Network) Serve(ctx context.Context) (err error) {
	args := append([]string{"serve", "--state", n.CoordinatorDir()}, n.args...)
	if n.serving, err = Start(n.Coordinator, filepath.Join(n.bin, "warren-coordinator"), args...); err != nil {
		return err
	}
	return n.serving.AwaitLog(ctx, "msg=serving")
}

// Serving is the coordinator's program.
func (n *Network) Serving() *Daemon { return n.serving }

// Admin runs a command of warren-coordinator and decodes its JSON into out, unless that is nil.
func (n *Network) Admin(ctx context.Context, out any, args ...string) error {
	args = append(args, "--state", n.CoordinatorDir())
	if out != nil {
		args = append(args, "--json")
	}
	return run(n.Coordinator.Command(ctx, filepath.Join(n.bin, "warren-coordinator"), args...), out)
}

// Token makes a join token; args are added to "token create".
func (n *Network) Token(ctx context.Context, args ...string) (string, error) {
	var t struct{ Token string }
	err := n.Admin(ctx, &t, append([]string{"token", "create"}, args...)...)
	return t.Token, err
}

func run(cmd *exec.Cmd, out any) error {
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w: %s", strings.Join(cmd.Args[2:], " "), err, strings.TrimSpace(stderr.String()))
	}
	if out == nil {
		return nil
	}
	return json.Unmarshal(stdout.Bytes(), out)
}

// Close ends everything.
func (n *Network) Close() {
	n.mu.Lock()
	devices := n.devices
	n.mu.Unlock()
	for _, d := range devices {
		if d.daemon != nil {
			d.daemon.Signal(syscall.SIGTERM)
		}
	}
	if n.serving != nil {
		n.serving.Signal(syscall.SIGTERM)
	}
	n.Lab.Close()
}

// Device is a device on a host of its own.
type Device struct {
	*lab.Host
	n      *Network
	daemon *Daemon
	before []string // what starts warren: its path, and what is in front of it; see Unprivileged
	flags  []string // of every command, in place of those for state, socket and interface
}

// program gives a command line of warren.
func (d *Device) program(args ...string) (name string, rest []string) {
	if d.before == nil {
		return filepath.Join(d.n.bin, "warren"), args
	}
	return d.before[0], slices.Concat(d.before[1:], args)
}

// Device adds a device behind a NAT, with its daemon running, not yet enrolled.
func (n *Network) Device(ctx context.Context, name string, nat lab.NAT) (*Device, error) {
	h, err := n.Lab.Host(name, nat)
	if err != nil {
		return nil, err
	}
	d := n.DeviceOn(h)
	return d, d.StartDaemon(ctx)
}

// DeviceOn makes a host a device, without starting its daemon.
func (n *Network) DeviceOn(h *lab.Host) *Device {
	d := &Device{Host: h, n: n}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.devices = append(n.devices, d)
	return d
}

// StartRelay runs a separate relay on a host and waits until it serves. args are added.
func (n *Network) StartRelay(ctx context.Context, h *lab.Host, token string, args ...string) (*Daemon, error) {
	args = append([]string{"relay", "--name", h.Name, "--token", token, "--state", filepath.Join(n.dir, h.Name)}, args...)
	d, err := Start(h, filepath.Join(n.bin, "warren-coordinator"), args...)
	if err != nil {
		return nil, err
	}
	return d, d.AwaitLog(ctx, "relay serving")
}

// Dir is the device's state directory.
func (d *Device) Dir() string { return filepath.Join(d.n.dir, d.Name) }

func (d *Device) common() []string {
	if d.before != nil {
		return d.flags
	}
	return []string{"--state", d.Dir(), "--socket", filepath.Join(d.Dir(), "sock"), "--tun", "warren0"}
}

// StartDaemon starts "warren daemon" and waits until it serves. flags are added to it.
func (d *Device) StartDaemon(ctx context.Context, flags ...string) error {
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	args := append([]string{"daemon", "--ready-fd", "3", "--log-level", "debug"}, append(d.common(), flags...)...)
	p := &Daemon{log: &log{changed: make(chan struct{})}, done: make(chan struct{})}
	name, args := d.program(args...)
	p.cmd = d.Host.Command(context.Background(), name, args...)
	p.cmd.Stdout, p.cmd.Stderr, p.cmd.ExtraFiles = p.log, p.log, []*os.File{w}
	err = p.cmd.Start()
	w.Close()
	if err != nil {
		return err
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.done)
	}()
	d.daemon = p
	stop := context.AfterFunc(ctx, func() { r.SetReadDeadline(time.Now()) })
	defer stop()
	b, err := io.ReadAll(r)
	if err == nil && string(b) != "ready\n" {
		err = errors.New("not that it is ready")
	}
	if err != nil {
		return fmt.Errorf("daemon of %s said %q: %w; its log:\n%s", d.Name, b, err, p.log)
	}
	return nil
}

// Common are the flags that every command of the device has.
func (d *Device) Common() []string { return d.common() }

// Use has the device's daemon be one that was started otherwise.
func (d *Device) Use(daemon *Daemon) { d.daemon = daemon }

// AwaitUnlocked waits until nobody holds the device's state directory: the last thread of a daemon that was killed lets go of it.
func (d *Device) AwaitUnlocked(ctx context.Context) error {
	file := filepath.Join(d.Dir(), "lock")
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		release, err := filelock.Take(file)
		if err == nil {
			return release()
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: %w", file, err)
		case <-tick.C:
		}
	}
}

// Daemon is the device's running program.
func (d *Device) Daemon() *Daemon { return d.daemon }

// Warren runs a command of warren on the device and decodes its JSON into out, unless that is nil.
func (d *Device) Warren(ctx context.Context, out any, args ...string) error {
	args = append(args, d.common()...)
	if out != nil {
		args = append(args, "--json")
	}
	name, args := d.program(args...)
	return run(d.Host.Command(ctx, name, args...), out)
}

// Text is Warren for people: it gives what the command printed.
func (d *Device) Text(ctx context.Context, args ...string) (string, error) {
	name, args := d.program(append(args, d.common()...)...)
	out, err := d.Host.Command(ctx, name, args...).CombinedOutput()
	return string(out), err
}

// Up enrols the device, or brings it up again with an empty token.
func (d *Device) Up(ctx context.Context, token string) error {
	args := []string{"up", "--name", d.Name}
	if token != "" {
		args = append(args, token)
	}
	return d.Warren(ctx, nil, args...)
}
