package router

import (
	"errors"
	"fmt"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/tun"
)

// tunFlags are those of an interface as tun.CreateTUN makes it.
const tunFlags = unix.IFF_TUN | unix.IFF_NO_PI | unix.IFF_VNET_HDR

func closeFile(f *os.File) {
	if f != nil {
		f.Close()
	}
}

// succeed takes over the interface and the journal of the process before.
func succeed(cfg Config) (*Router, error) {
	defer cfg.TUN.Close()
	file, err := ours(cfg.TUN, cfg.Name)
	if err != nil {
		return nil, fmt.Errorf("interface %s: %w: %w", cfg.Name, ErrUnfit, err)
	}
	link, err := netlink.LinkByName(cfg.Name)
	if err == nil && link.Type() != "tuntap" && link.Type() != "tun" {
		err = fmt.Errorf("it is of the kind %s", link.Type())
	}
	if err != nil {
		file.Close()
		return nil, fmt.Errorf("interface %s: %w: %w", cfg.Name, ErrUnfit, err)
	}
	t, err := tun.CreateTUNFromFile(file, link.Attrs().MTU)
	if err != nil {
		file.Close()
		return nil, fmt.Errorf("interface %s: %w: %w", cfg.Name, ErrUnfit, err)
	}
	r := &Router{cfg: cfg, tun: t, name: cfg.Name}
	r.canMark, r.link = tryMark, link
	if err := netlink.LinkSetUp(link); err != nil {
		t.Close()
		return nil, explain(cfg.Name, err)
	}
	r.journal = r.inherit()
	return r, nil
}

// inherit is the journal of the process before, so that what it has changed is taken back when that is due.
func (r *Router) inherit() *journal {
	j, err := readJournal(r.cfg.Journal)
	if err == nil && j != nil && j.Interface == r.name {
		return j
	}
	if err != nil || j != nil { // it can be of no use to this interface
		r.cfg.Log.Warn("the journal of the process before is of no use; what it says is taken back", "err", err)
		if _, err := CleanUp(r.cfg.Journal); err != nil {
			r.cfg.Log.Warn("not all that a process before had left on this host could be taken back", "err", err)
		}
	}
	return newJournal(r.cfg.Journal, r.name)
}

// ours gives a copy of the file, ready to be read from, if it is the interface of that name in this network namespace.
func ours(f *os.File, name string) (*os.File, error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return nil, err
	}
	copied, unfit := -1, error(nil)
	if err := raw.Control(func(fd uintptr) {
		if unfit = checkTUN(int(fd), name); unfit == nil {
			copied, unfit = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0)
		}
	}); err != nil || unfit != nil {
		return nil, errors.Join(err, unfit)
	}
	if err := unix.SetNonblock(copied, true); err != nil {
		unix.Close(copied)
		return nil, err
	}
	return os.NewFile(uintptr(copied), TUNFile), nil
}

func checkTUN(fd int, name string) error {
	ifr, err := unix.NewIfreq("")
	if err == nil {
		err = unix.IoctlIfreq(fd, unix.TUNGETIFF, ifr)
	}
	if err != nil {
		return fmt.Errorf("it has no interface: %w", err)
	}
	if ifr.Name() != name {
		return fmt.Errorf("it is called %s", ifr.Name())
	}
	if flags := int(ifr.Uint16()); flags&(unix.IFF_TUN|unix.IFF_TAP|unix.IFF_NO_PI|unix.IFF_VNET_HDR) != tunFlags {
		return fmt.Errorf("it has the flags %#x", flags)
	}
	ns, err := unix.IoctlRetInt(fd, unix.TUNGETDEVNETNS) // Linux 5.2
	if err != nil {
		return nil // the name has to do
	}
	defer unix.Close(ns)
	var its, here unix.Stat_t
	if err := errors.Join(unix.Fstat(ns, &its), unix.Stat("/proc/thread-self/ns/net", &here)); err != nil {
		return err
	}
	if its.Dev != here.Dev || its.Ino != here.Ino {
		return errors.New("it is in another network namespace")
	}
	return nil
}

// removeLink removes the interface though somebody else may have it open, such as the service manager, which keeps it over a restart.
func (r *Router) removeLink() error {
	err := netlink.LinkDel(r.link)
	if err == nil || errors.Is(err, unix.ENODEV) || errors.As(err, new(netlink.LinkNotFoundError)) {
		return nil
	}
	return fmt.Errorf("interface %s cannot be removed: %w", r.name, err)
}
