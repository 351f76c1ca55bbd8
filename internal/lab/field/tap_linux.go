package field

import (
	"fmt"
	"net"
	"os"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"warren/internal/lab"
)

// tap counts large packets that arrive at a host, before any program there sees them: the kernel's count of what passed the filter of a packet
// socket, which nobody reads.
type tap struct{ fd int }

// newTap counts packets of at least so many bytes, at the host's first uplink.
func newTap(h *lab.Host, atLeast int) (*tap, error) {
	t := &tap{fd: -1}
	err := h.Do(func() (err error) {
		// Of no protocol yet, so that nothing is counted before the filter is there.
		if t.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		filter, err := largeIncoming(atLeast)
		if err != nil {
			return err
		}
		program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
		if err := unix.SetsockoptSockFprog(t.fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &program); err != nil {
			return err
		}
		link, err := net.InterfaceByName(h.Uplinks[0].Link)
		if err != nil {
			return err
		}
		const all = unix.ETH_P_ALL<<8&0xff00 | unix.ETH_P_ALL>>8 // in network order
		return unix.Bind(t.fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: link.Index})
	})
	if err != nil {
		t.close()
		return nil, fmt.Errorf("counting packets at %s: %w", h.Name, err)
	}
	return t, nil
}

// largeIncoming lets packets of at least so many bytes pass, unless the host itself sends them.
func largeIncoming(atLeast int) ([]unix.SockFilter, error) {
	raw, err := bpf.Assemble([]bpf.Instruction{
		bpf.LoadExtension{Num: bpf.ExtType},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.PACKET_OUTGOING, SkipTrue: 3},
		bpf.LoadExtension{Num: bpf.ExtLen},
		bpf.JumpIf{Cond: bpf.JumpLessThan, Val: uint32(atLeast), SkipTrue: 1},
		bpf.RetConstant{Val: 1},
		bpf.RetConstant{Val: 0},
	})
	var out []unix.SockFilter
	for _, i := range raw {
		out = append(out, unix.SockFilter{Code: i.Op, Jt: i.Jt, Jf: i.Jf, K: i.K})
	}
	return out, err
}

// count gives how many came since the last call.
func (t *tap) count() (int, error) {
	s, err := unix.GetsockoptTpacketStats(t.fd, unix.SOL_PACKET, unix.PACKET_STATISTICS)
	if err != nil {
		return 0, os.NewSyscallError("PACKET_STATISTICS", err)
	}
	return int(s.Packets), nil
}

func (t *tap) close() {
	if t.fd >= 0 {
		unix.Close(t.fd)
	}
}
