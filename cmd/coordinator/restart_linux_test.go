package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"warren/nat/stunmsg"
)

// programVariable has the test's own program be warren-coordinator.
const programVariable = "WARREN_TEST_COORDINATOR"

func TestMain(m *testing.M) {
	if os.Getenv(programVariable) != "" {
		os.Unsetenv(programVariable)
		main()
	}
	os.Exit(m.Run())
}

// patience is for machines that have much else to do.
const patience = 60 * time.Second

// manager does with a coordinator what systemd does: it holds the files that it is given, and passes them to the next process.
type manager struct {
	t     *testing.T
	path  string
	ready chan struct{}

	mu   sync.Mutex
	kept []keptFile
	told []string // RELOADING=1 and READY=1
	log  string   // of the last process
}

type keptFile struct {
	name string
	file *os.File
}

func newManager(t *testing.T) *manager {
	m := &manager{t: t, path: filepath.Join(t.TempDir(), "notify"), ready: make(chan struct{}, 8)}
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: m.path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for m.receive(c) {
		}
	}()
	t.Cleanup(func() {
		c.Close()
		<-done
		for _, k := range m.kept {
			k.file.Close()
		}
	})
	return m
}

func (m *manager) receive(c *net.UnixConn) bool {
	b, oob := make([]byte, 4096), make([]byte, 1024)
	n, oobn, _, _, err := c.ReadMsgUnix(b, oob)
	if err != nil {
		return false
	}
	var files []*os.File
	messages, _ := syscall.ParseSocketControlMessage(oob[:oobn])
	for i := range messages {
		fds, _ := syscall.ParseUnixRights(&messages[i])
		for _, fd := range fds {
			syscall.CloseOnExec(fd)
			files = append(files, os.NewFile(uintptr(fd), "kept"))
		}
	}
	m.handle(strings.Split(string(b[:n]), "\n"), files)
	return true
}

func (m *manager) handle(state []string, files []*os.File) {
	m.mu.Lock()
	defer m.mu.Unlock()
	_, name, _ := strings.Cut(state[len(state)-1], "FDNAME=")
	for _, f := range files {
		if state[0] == "FDSTORE=1" && !slices.ContainsFunc(m.kept, func(k keptFile) bool { return same(m.t, k.file, f) }) {
			m.kept = append(m.kept, keptFile{name, f})
		} else {
			f.Close() // of BARRIER=1, or kept already
		}
	}
	switch state[0] {
	case "RELOADING=1":
		m.told = append(m.told, state[0])
	case "FDSTOREREMOVE=1":
		m.kept = slices.DeleteFunc(m.kept, func(k keptFile) bool { return k.name == name && k.file.Close() == nil })
	case "READY=1":
		m.told = append(m.told, state[0])
		m.ready <- struct{}{}
	}
}

func same(t *testing.T, a, b *os.File) bool {
	x, errA := a.Stat()
	y, errB := b.Stat()
	if err := errors.Join(errA, errB); err != nil {
		t.Error(err)
	}
	return os.SameFile(x, y)
}

// names are those of the files that are kept.
func (m *manager) names() (out []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, k := range m.kept {
		out = append(out, k.name)
	}
	slices.Sort(out)
	return out
}

// start runs warren-coordinator, with what is kept, and returns when it is ready. stop sends it a signal and waits until it is gone.
func (m *manager) start(args ...string) (stop func(os.Signal)) {
	m.t.Helper()
	stop, _ = m.run(args...)
	return stop
}

// run is start, and gives the process too.
func (m *manager) run(args ...string) (stop func(os.Signal), process *os.Process) {
	m.t.Helper()
	// The shell's process becomes the program's, so that LISTEN_PID is right.
	cmd := exec.Command("/bin/sh", append([]string{"-c", `export LISTEN_PID=$$; exec "$0" "$@"`, os.Args[0]}, args...)...)
	var log strings.Builder
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := m.startWithKept(cmd); err != nil {
		m.t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	select {
	case <-m.ready:
	case err := <-ended:
		m.t.Fatalf("it ended: %v\n%s", err, log.String())
	case <-time.After(patience):
		cmd.Process.Kill()
		<-ended
		m.t.Fatalf("not ready\n%s", log.String())
	}
	stop = sync.OnceValue(func() func(os.Signal) {
		return func(s os.Signal) {
			cmd.Process.Signal(s)
			if err := <-ended; err != nil && s != os.Kill {
				m.t.Errorf("it ended: %v\n%s", err, log.String())
			}
			ended <- nil
			m.log = log.String()
		}
	})()
	m.t.Cleanup(func() { stop(os.Kill) })
	return stop, cmd.Process
}

// startWithKept starts it with the files that are kept, which nothing closes meanwhile.
func (m *manager) startWithKept(cmd *exec.Cmd) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	var names []string
	for _, k := range m.kept {
		names = append(names, k.name)
		cmd.ExtraFiles = append(cmd.ExtraFiles, k.file)
	}
	cmd.Env = append(os.Environ(), programVariable+"=1", "NOTIFY_SOCKET="+m.path)
	if len(names) > 0 {
		cmd.Env = append(cmd.Env, fmt.Sprintf("LISTEN_FDS=%d", len(names)), "LISTEN_FDNAMES="+strings.Join(names, ":"))
	}
	return cmd.Start()
}

// freePort is a TCP port that is free with both UDP ports of STUN, and below those that the kernel gives away by itself.
func freePort(t *testing.T) int {
	t.Helper()
	for range 50 {
		port := 10000 + rand.IntN(20000)
		l, errL := net.Listen("tcp", fmt.Sprintf(":%d", port))
		a, errA := net.ListenPacket("udp", fmt.Sprintf(":%d", port))
		b, errB := net.ListenPacket("udp", fmt.Sprintf(":%d", port+1))
		if errL == nil {
			l.Close()
		}
		for _, c := range []net.PacketConn{a, b} {
			if c != nil {
				c.Close()
			}
		}
		if errors.Join(errL, errA, errB) == nil {
			return port
		}
	}
	t.Fatal("no free ports")
	return 0
}

// get asks whether the coordinator is well over a connection of its own.
func get(dial func(context.Context, string, string) (net.Conn, error), port int) error {
	c := &http.Client{Timeout: patience, Transport: &http.Transport{
		DisableKeepAlives: true, DialContext: dial, TLSClientConfig: &tls.Config{InsecureSkipVerify: true},
	}}
	r, err := c.Get(fmt.Sprintf("https://127.0.0.1:%d/healthz", port))
	if err != nil {
		return err
	}
	defer r.Body.Close()
	if b, err := io.ReadAll(r.Body); err != nil || string(b) != "ok\n" {
		return fmt.Errorf("%q %v", b, err)
	}
	return nil
}

// crowd connects all the time until stop, which tells how often it did and what went wrong.
func crowd(port int) (stop func() (int64, []error)) {
	var calls atomic.Int64
	var mu sync.Mutex
	var failed []error
	var group sync.WaitGroup
	end := make(chan struct{})
	for range 4 {
		group.Go(func() {
			for {
				select {
				case <-end:
					return
				default:
				}
				if err := get(new(net.Dialer).DialContext, port); err != nil {
					mu.Lock()
					failed = append(failed, err)
					mu.Unlock()
				}
				calls.Add(1)
			}
		})
	}
	return func() (int64, []error) {
		close(end)
		group.Wait()
		return calls.Load(), failed
	}
}

// TestRestartRefusesNothing: clients that come while the coordinator is replaced wait for the next process, and so does what was sent by UDP.
func TestRestartRefusesNothing(t *testing.T) {
	m, port := newManager(t), freePort(t)
	args := []string{"serve", "--state", t.TempDir(), "--listen", fmt.Sprintf(":%d", port), "--stun", fmt.Sprintf(":%d", port), "--url", "https://127.0.0.1"}
	stop := m.start(args...)
	want := []string{"control", "stun", "stun-second-port"}
	finish := crowd(port)
	for range 2 {
		stop(syscall.SIGTERM)
		if got := m.names(); !slices.Equal(got, want) {
			t.Fatalf("kept are %q, want %q", got, want)
		}
		waiting, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			t.Fatalf("refused while no process runs: %v", err)
		}
		answered := ask(t, port)
		stop = m.start(args...)
		if err := get(func(context.Context, string, string) (net.Conn, error) { return waiting, nil }, port); err != nil {
			t.Errorf("the connection that waited: %v", err)
		}
		if err := answered(); err != nil {
			t.Errorf("the request by UDP that waited: %v", err)
		}
	}
	calls, failed := finish()
	if len(failed) > 0 || calls < 8 {
		t.Errorf("of %d calls %d failed, such as %v", calls, len(failed), slices.Concat(failed, []error{nil})[0])
	}
	stop(os.Kill) // a crash
	if c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port)); err != nil {
		t.Errorf("refused after a crash: %v", err)
	} else {
		c.Close()
	}
	stop = m.start(args...)
	if err := get(new(net.Dialer).DialContext, port); err != nil {
		t.Error(err)
	}
	stop(syscall.SIGTERM)
}

// ask sends a STUN request, and gives what waits for the answer.
func ask(t *testing.T, port int) (answered func() error) {
	t.Helper()
	c, err := net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), uint16(port))))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	tx := stunmsg.NewTxID()
	if _, err := c.Write(stunmsg.NewRequest(tx, nil, nil)); err != nil {
		t.Fatal(err)
	}
	return func() error {
		if err := c.SetReadDeadline(time.Now().Add(patience)); err != nil {
			return err
		}
		b := make([]byte, 1500)
		n, err := c.Read(b)
		if err != nil {
			return err
		}
		if answer, err := stunmsg.Parse(b[:n]); err != nil || answer.Tx != tx {
			return fmt.Errorf("answered by %+v, %v", answer, err)
		}
		return nil
	}
}

// TestRestartWithOtherAddresses: what is not wanted any more is closed, by the manager too, and the new addresses are served.
func TestRestartWithOtherAddresses(t *testing.T) {
	m, state, first, second := newManager(t), t.TempDir(), freePort(t), freePort(t)
	for second == first {
		second = freePort(t)
	}
	args := func(listen, stun, metrics string) []string {
		return []string{"serve", "--state", state, "--listen", listen, "--stun", stun, "--metrics", metrics, "--url", "https://127.0.0.1"}
	}
	stop := m.start(args(fmt.Sprintf("127.0.0.1:%d", first), fmt.Sprintf("127.0.0.1:%d", first), fmt.Sprintf("127.0.0.1:%d", second))...)
	if got, want := m.names(), []string{"control", "metrics", "stun", "stun-second-port"}; !slices.Equal(got, want) {
		t.Errorf("kept are %q, want %q", got, want)
	}
	stop(syscall.SIGTERM)
	stop = m.start(args(fmt.Sprintf(":%d", second), "off", "")...) // the port that metrics had
	if err := get(new(net.Dialer).DialContext, second); err != nil {
		t.Error(err)
	}
	if c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", first)); err == nil {
		c.Close()
		t.Error("the old address is still served")
	} else if !errors.Is(err, syscall.ECONNREFUSED) {
		t.Error(err)
	}
	if got, want := m.names(), []string{"control"}; !slices.Equal(got, want) {
		t.Errorf("kept are %q, want %q", got, want)
	}
	stop(syscall.SIGTERM)
}

// TestReload: SIGHUP has the file read again, systemd told, and the process go on.
func TestReload(t *testing.T) {
	m, port, file := newManager(t), freePort(t), filepath.Join(t.TempDir(), "coordinator.toml")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	common := fmt.Sprintf("listen = \"127.0.0.1:%d\"\nstun = \"off\"\n", port)
	write(common)
	stop, process := m.run("serve", "--state", t.TempDir(), "--config", file)
	for _, text := range []string{common + "log-level = \"debug\"\nregion = \"here\"\n", common + "metrics = 7\n"} {
		write(text)
		if err := process.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		select {
		case <-m.ready:
		case <-time.After(patience):
			t.Fatal("never ready again")
		}
	}
	if err := get(new(net.Dialer).DialContext, port); err != nil {
		t.Error(err)
	}
	stop(syscall.SIGTERM)
	if want := []string{"READY=1", "RELOADING=1", "READY=1", "RELOADING=1", "READY=1"}; !slices.Equal(m.told, want) {
		t.Errorf("the manager was told %q, want %q", m.told, want)
	}
	for _, want := range []string{"log level changed", "setting=region", "needs a restart", "nothing was changed", file + ":3: metrics: want an address"} {
		if !strings.Contains(m.log, want) {
			t.Errorf("the log does not say %q:\n%s", want, m.log)
		}
	}
}
