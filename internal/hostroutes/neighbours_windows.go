package hostroutes

import (
	"fmt"
	"net/netip"
	"unsafe"

	"golang.org/x/sys/windows"
	"golang.zx2c4.com/wireguard/windows/tunnel/winipcfg"
)

// neighbourRow is MIB_IPNET_ROW2 (netioapi.h).
type neighbourRow struct {
	Address         winipcfg.RawSockaddrInet
	InterfaceIndex  uint32
	InterfaceLUID   winipcfg.LUID
	PhysicalAddress [32]byte
	PhysicalLength  uint32
	State           uint32
	Flags           uint8
	ReachableTime   uint32
}

// neighbourTable is MIB_IPNET_TABLE2.
type neighbourTable struct {
	Entries uint32
	_       uint32
	First   neighbourRow
}

// neighbourProbed is the least NL_NEIGHBOR_STATE in which there is a link-layer address: those before are unreachable and incomplete. Permanent, the
// last, are those that the system makes up for groups and broadcast.
const neighbourProbed, neighbourPermanent = 2, 6

// Neighbours gives the hosts on this host's links of which it knows the link-layer address, with the interface's index.
func Neighbours() (map[netip.Addr]int, error) {
	library := windows.NewLazySystemDLL("iphlpapi.dll")
	get, free := library.NewProc("GetIpNetTable2"), library.NewProc("FreeMibTable")
	if err := get.Find(); err != nil {
		return nil, fmt.Errorf("neighbours of this host: %w", err)
	}
	var table *neighbourTable
	if status, _, _ := get.Call(windows.AF_UNSPEC, uintptr(unsafe.Pointer(&table))); status != 0 {
		return nil, fmt.Errorf("neighbours of this host: %w", windows.Errno(status))
	}
	defer func() { _, _, _ = free.Call(uintptr(unsafe.Pointer(table))) }()
	out := map[netip.Addr]int{}
	for _, row := range unsafe.Slice(&table.First, table.Entries) {
		a := row.Address.Addr()
		if a.IsValid() && row.State >= neighbourProbed && row.State < neighbourPermanent && row.PhysicalLength > 0 {
			out[a.WithZone("")] = int(row.InterfaceIndex)
		}
	}
	return out, nil
}
