package router

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"unicode/utf16"

	"golang.org/x/sys/windows"
	"golang.zx2c4.com/wireguard/tun"
	"golang.zx2c4.com/wireguard/windows/tunnel/winipcfg"

	"warren/tunnel/router/onetable"
)

// maxName is the longest name of an adapter, in UTF-16 units (wintun.h).
const maxName = 127

// system is one Wintun adapter and the host's table.
type system struct {
	tableRouter
	tun  *tun.NativeTun
	luid winipcfg.LUID
}

func newSystem(t tun.Device, name string) (onetable.System, int, error) {
	native, ok := t.(*tun.NativeTun)
	if !ok {
		return nil, 0, fmt.Errorf("%s is no Wintun adapter", name)
	}
	s := system{tun: native, luid: winipcfg.LUID(native.LUID())}
	row, err := s.luid.Interface()
	if err != nil {
		return nil, 0, err
	}
	mtu, err := native.MTU()
	if err == nil {
		err = s.SetMTU(mtu)
	}
	return s, int(row.InterfaceIndex), err
}

// boot is empty: routes that are set as ours are do not outlive a restart, and those that are gone are no error.
func boot() string { return "" }

// CheckName refuses what Windows takes for no name of an adapter.
func CheckName(name string) error {
	units := len(utf16.Encode([]rune(name)))
	if units == 0 || units > maxName || strings.ContainsFunc(name, func(c rune) bool { return c < ' ' || c > '~' || strings.ContainsRune(`\/:*?"<>|`, c) }) {
		return fmt.Errorf(`interface name %q: a name has 1 to %d ASCII characters, none of \/:*?"<>|`, name, maxName)
	}
	return nil
}

// explain says what a person can do.
func explain(name string, err error) error {
	switch {
	case !hasWintun():
		return fmt.Errorf("%w: wintun.dll is missing; get it from https://www.wintun.net and put the one for this processor beside the program (%v)", ErrNoTUN, err)
	case errors.Is(err, windows.ERROR_ACCESS_DENIED):
		return fmt.Errorf("%w: %s; run as an administrator, or as a service", ErrPermission, name)
	}
	return fmt.Errorf("interface %s: %w", name, err)
}

// hasWintun looks where the library is loaded from.
func hasWintun() bool {
	var dirs []string
	if program, err := os.Executable(); err == nil {
		dirs = append(dirs, filepath.Dir(program))
	}
	if dir, err := windows.GetSystemDirectory(); err == nil {
		dirs = append(dirs, dir)
	}
	return slices.ContainsFunc(dirs, func(dir string) bool {
		_, err := os.Stat(filepath.Join(dir, "wintun.dll"))
		return err == nil
	})
}

func (s system) Addresses() ([]netip.Prefix, error) {
	rows, err := winipcfg.GetUnicastIPAddressTable(windows.AF_UNSPEC)
	if err != nil {
		return nil, err
	}
	var out []netip.Prefix
	for i := range rows {
		if rows[i].InterfaceLUID == s.luid {
			out = append(out, netip.PrefixFrom(rows[i].Address.Addr().WithZone(""), int(rows[i].OnLinkPrefixLength)))
		}
	}
	return out, nil
}

func (s system) AddAddress(p netip.Prefix) error { return s.luid.AddIPAddress(p) }

func (s system) RemoveAddress(p netip.Prefix) error {
	err := s.luid.DeleteIPAddress(p)
	if errors.Is(err, windows.ERROR_NOT_FOUND) {
		return onetable.ErrGone
	}
	return err
}

// SetMTU also sets what else the tunnel's interface has of its own for each family: the least cost, and no duplicate address detection, which makes
// no sense on a tunnel. A family that the host has switched off is left out.
func (s system) SetMTU(mtu int) error {
	for _, family := range []winipcfg.AddressFamily{windows.AF_INET, windows.AF_INET6} {
		row, err := s.luid.IPInterface(family)
		if errors.Is(err, windows.ERROR_NOT_FOUND) {
			continue
		}
		if err != nil {
			return err
		}
		row.NLMTU, row.UseAutomaticMetric, row.Metric, row.DadTransmits = uint32(mtu), false, 0, 0
		row.RouterDiscoveryBehavior = winipcfg.RouterDiscoveryDisabled
		if family == windows.AF_INET {
			row.SitePrefixLength = 0 // reading gives what writing refuses
		}
		if err := row.Set(); err != nil {
			return err
		}
	}
	s.tun.ForceMTU(mtu)
	return nil
}
