package netdump

import (
	"errors"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func TestWhole(t *testing.T) {
	for fails, want := range map[int]error{0: nil, tries - 1: nil, tries: netlink.ErrDumpInterrupted} {
		calls := 0
		got, err := Whole(func() ([]int, error) {
			if calls++; calls <= fails {
				return []int{9}, netlink.ErrDumpInterrupted
			}
			return []int{1}, nil
		})
		if !errors.Is(err, want) || calls != min(fails+1, tries) || len(got) != 1 || (want == nil) != (got[0] == 1) {
			t.Errorf("%d interruptions: %v, %v after %d calls", fails, got, err, calls)
		}
	}
	calls := 0
	if _, err := Whole(func() ([]int, error) { calls++; return nil, unix.EIO }); !errors.Is(err, unix.EIO) || calls != 1 {
		t.Errorf("another error: %v after %d calls", err, calls)
	}
}
