package lab

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Host is a machine of the lab: a network and a mount namespace that a holder process keeps.
type Host struct {
	Name string
	// NAT is the kind that Lab.Host was asked for.
	NAT NAT
	// Addr is the host's own IPv4 address, Public the one that the internet sees: its own, or its NAT's. Addr6 is its IPv6 address. All are
	// those of the first uplink, and invalid where it lacks the family.
	Addr, Public, Addr6 netip.Addr
	// Uplinks are the host's ways out.
	Uplinks []*Uplink

	lab    *Lab
	proxy  string // URL of the only way out, or ""
	ports  int    // cables that were plugged in, if it is a box
	holder *exec.Cmd
	stdin  io.Closer
	ns     *os.File // its network namespace
	handle *netlink.Handle
}

// startHost starts the holder.
func startHost(l *Lab, name string) (_ *Host, err error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	h := &Host{Name: name, lab: l}
	h.holder = exec.Command(self)
	h.holder.Env = append(os.Environ(), roleVariable+"="+roleHold)
	h.holder.Stderr = os.Stderr
	h.holder.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS, Setpgid: true}
	stdin, err := h.holder.StdinPipe()
	if err != nil {
		return nil, err
	}
	h.stdin = stdin
	stdout, err := h.holder.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := h.holder.Start(); err != nil {
		return nil, fmt.Errorf("host %s: %w", name, err)
	}
	defer func() {
		if err != nil {
			h.close()
		}
	}()
	if line, err := bufio.NewReader(stdout).ReadString('\n'); err != nil || line != "ready\n" {
		return nil, fmt.Errorf("host %s: its holder said %q: %w", name, line, err)
	}
	if h.ns, err = os.Open(fmt.Sprintf("/proc/%d/ns/net", h.holder.Process.Pid)); err != nil {
		return nil, err
	}
	if h.handle, err = netlink.NewHandleAt(netns.NsHandle(h.ns.Fd())); err != nil {
		return nil, fmt.Errorf("host %s: %w", name, err)
	}
	lo, err := h.handle.LinkByName("lo")
	if err != nil {
		return nil, err
	}
	return h, errors.Join(h.handle.LinkSetUp(lo), h.setIPv6())
}

// setIPv6 has addresses work at once and survive while a link is down, and lets no router tell the host others.
func (h *Host) setIPv6() error {
	for name, value := range map[string]string{"accept_dad": "0", "keep_addr_on_down": "1", "accept_ra": "0"} {
		for _, which := range []string{"all", "default"} {
			if err := h.sysctl("ipv6/conf/"+which+"/"+name, value); err != nil && !errors.Is(err, os.ErrNotExist) {
				return err
			}
		}
	}
	return nil
}

// close lets the holder go, which ends all processes of the host and with them its namespaces.
func (h *Host) close() {
	if h.handle != nil {
		h.handle.Close()
	}
	if h.ns != nil {
		h.ns.Close()
	}
	h.stdin.Close()
	h.holder.Wait()
}

// Command makes a command that runs on the host. Like any exec.Cmd it is not started yet; the holder kills it when the lab's program ends.
// (Not the kernel, by Pdeathsig: that goes by the thread that started it, and threads which Do has used end.) Its environment names the proxy
// if that is the host's only way out.
func (h *Host) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	argv, key, value := h.Line(name, args...)
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Env = append(os.Environ(), key+"="+value)
	if h.proxy != "" {
		cmd.Env = append(cmd.Env, "HTTPS_PROXY="+h.proxy, "HTTP_PROXY="+h.proxy)
	}
	return cmd
}

// Line is for those who start programs by themselves: it gives the command line that runs a program on the host, and the variable that must be
// in its environment.
func (h *Host) Line(name string, args ...string) (argv []string, key, value string) {
	self, err := os.Executable()
	if err != nil {
		self = "/proc/self/exe"
	}
	return append([]string{self, strconv.Itoa(h.holder.Process.Pid), name}, args...), roleVariable, roleEnter
}

// EnterLine is what a person types to get a shell on the host.
func (h *Host) EnterLine() string {
	line := fmt.Sprintf("nsenter --target %d --net --mount", h.holder.Process.Pid)
	if os.Getuid() == 0 && h.lab.inner {
		line = fmt.Sprintf("nsenter --target %d --user --preserve-credentials --net --mount", h.holder.Process.Pid)
	}
	return line
}

// Do runs f on a thread inside the host's network namespace and waits for it. Sockets that f opens stay there. f must not start goroutines
// that open others.
func (h *Host) Do(f func() error) error {
	return Within(h.ns, f)
}

// Within is Host.Do for any network namespace, such as one of /proc/PID/ns/net.
func Within(ns *os.File, f func() error) error {
	done := make(chan error, 1)
	go onThread(ns, f, done)
	return <-done
}

// onThread does the work of Within. The first thread of a process does not end with its goroutine, and its namespace counts as the process's own,
// so that one is kept busy while another does it.
func onThread(ns *os.File, f func() error, done chan<- error) {
	runtime.LockOSThread()
	if unix.Gettid() == unix.Getpid() {
		done <- Within(ns, f)
		runtime.UnlockOSThread()
		return
	}
	// Never unlocked: the thread ends with the goroutine.
	if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
		done <- fmt.Errorf("entering %s: %w", ns.Name(), err)
		return
	}
	done <- f()
}

// Listen opens a TCP listener on the host.
func (h *Host) Listen(address string) (l net.Listener, err error) {
	err = h.Do(func() (err error) {
		l, err = net.Listen("tcp", address)
		return err
	})
	return l, err
}

// ListenUDP opens a UDP socket on the host.
func (h *Host) ListenUDP(address string) (c *net.UDPConn, err error) {
	err = h.Do(func() error {
		a, err := net.ResolveUDPAddr("udp", address)
		if err != nil {
			return err
		}
		c, err = net.ListenUDP("udp", a)
		return err
	})
	return c, err
}

// Dial connects from the host, to an IP address: the resolver does not run there.
func (h *Host) Dial(ctx context.Context, network, address string) (c net.Conn, err error) {
	a, err := netip.ParseAddrPort(address)
	if err != nil {
		return nil, err
	}
	err = h.Do(func() (err error) {
		if strings.HasPrefix(network, "udp") {
			c, err = net.DialUDP(network, nil, net.UDPAddrFromAddrPort(a))
			return err
		}
		// A context would move the connection to other goroutines, and so to other namespaces; a deadline does not.
		d := net.Dialer{FallbackDelay: -1}
		if t, ok := ctx.Deadline(); ok {
			d.Deadline = t
		}
		c, err = d.Dial(network, a.String())
		return err
	})
	return c, err
}

// Links lists the names of the host's interfaces.
func (h *Host) Links() ([]string, error) {
	links, err := h.handle.LinkList()
	var names []string
	for _, l := range links {
		names = append(names, l.Attrs().Name)
	}
	return names, err
}

// Routes lists the host's routes, as text.
func (h *Host) Routes() ([]string, error) {
	routes, err := h.handle.RouteList(nil, netlink.FAMILY_ALL)
	var out []string
	for _, r := range routes {
		out = append(out, r.String())
	}
	return out, err
}

// Rules lists the host's routing rules, as text.
func (h *Host) Rules() ([]string, error) {
	rules, err := h.handle.RuleList(netlink.FAMILY_ALL)
	var out []string
	for _, r := range rules {
		out = append(out, r.String())
	}
	return out, err
}

// Configure brings an interface of the host up with an address and a host route, such as that of a tunnel which is not Warren's.
func (h *Host) Configure(link, addr, to string, mtu int) error {
	l, err := h.handle.LinkByName(link)
	if err != nil {
		return err
	}
	own, err := netlink.ParseIPNet(addr + "/32")
	if err != nil {
		return err
	}
	far, err := netlink.ParseIPNet(to + "/32")
	if err != nil {
		return err
	}
	return errors.Join(
		h.handle.LinkSetMTU(l, mtu),
		h.handle.AddrAdd(l, &netlink.Addr{IPNet: own}),
		h.handle.LinkSetUp(l),
		h.handle.RouteAdd(&netlink.Route{LinkIndex: l.Attrs().Index, Dst: far, Scope: netlink.SCOPE_LINK}),
	)
}

// sysctl sets a value below /proc/sys/net.
func (h *Host) sysctl(name, value string) error {
	return h.Do(func() error { return os.WriteFile("/proc/sys/net/"+name, []byte(value), 0o644) })
}
