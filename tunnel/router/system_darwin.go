package router

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/tun"

	"warren/internal/hostroutes"
	"warren/tunnel/router/onetable"
)

// system is one utun interface and the host's table.
type system struct {
	tableRouter
	name string
}

func newSystem(_ tun.Device, name string) (onetable.System, int, error) {
	i, err := net.InterfaceByName(name)
	if err != nil {
		return nil, 0, err
	}
	return system{name: name}, i.Index, nil
}

// boot tells this start of the system from all others; what cannot be read is empty.
func boot() string {
	id, _ := unix.Sysctl("kern.bootsessionuuid")
	return id
}

// CheckName refuses what is no name of a utun interface; "utun" has the system choose its number.
func CheckName(name string) error {
	number, ok := strings.CutPrefix(name, "utun")
	if ok && number == "" {
		return nil
	}
	if n, err := strconv.ParseUint(number, 10, 16); !ok || err != nil || strconv.FormatUint(n, 10) != number {
		return fmt.Errorf("interface name %q: on macOS it is \"utun\", or that with a number, as in \"utun7\"", name)
	}
	return nil
}

// explain says what a person can do.
func explain(name string, err error) error {
	switch {
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		return fmt.Errorf("%w: %s; run as root", ErrPermission, name)
	case errors.Is(err, unix.EBUSY):
		return fmt.Errorf("%w: %s; choose another with --tun", ErrNameInUse, name)
	}
	return fmt.Errorf("interface %s: %w", name, err)
}

func (s system) Addresses() ([]netip.Prefix, error) {
	list, err := hostroutes.Interfaces()
	for _, i := range list {
		if i.Name == s.name {
			return i.Prefixes, nil
		}
	}
	return nil, errors.Join(err, fmt.Errorf("no interface %s", s.name))
}

func (s system) AddAddress(p netip.Prefix) error {
	if p.Addr().Is4() {
		return request(unix.AF_INET, unix.SIOCAIFADDR, aliasRequest4(s.name, p))
	}
	return request(unix.AF_INET6, siocAIFAddrIn6, aliasRequest6(s.name, p))
}

func (s system) RemoveAddress(p netip.Prefix) error {
	var err error
	if p.Addr().Is4() {
		err = request(unix.AF_INET, unix.SIOCDIFADDR, removeRequest4(s.name, p))
	} else {
		err = request(unix.AF_INET6, siocDIFAddrIn6, removeRequest6(s.name, p))
	}
	if errors.Is(err, unix.EADDRNOTAVAIL) {
		return onetable.ErrGone
	}
	return err
}

func (s system) SetMTU(mtu int) error {
	fd, err := datagramSocket(unix.AF_INET)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	r := unix.IfreqMTU{MTU: int32(mtu)}
	copy(r.Name[:], s.name)
	return unix.IoctlSetIfreqMTU(fd, &r)
}

func request(family int, number uintptr, b []byte) error {
	fd, err := datagramSocket(family)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), number, uintptr(unsafe.Pointer(&b[0]))); errno != 0 {
		return errno
	}
	return nil
}

func datagramSocket(family int) (int, error) {
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	fd, err := unix.Socket(family, unix.SOCK_DGRAM, 0)
	if err == nil {
		unix.CloseOnExec(fd)
	}
	return fd, err
}
