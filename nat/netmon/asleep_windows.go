package netmon

import (
	"time"
	"unsafe"

	"golang.org/x/sys/windows"
)

// asleep is the time since the start by which the clock that goes on in sleep is ahead of the one that stands still, to the 16 ms that the former has.
func asleep() time.Duration {
	unbiased := windows.NewLazySystemDLL("kernel32.dll").NewProc("QueryUnbiasedInterruptTime")
	if unbiased.Find() != nil {
		return 0
	}
	var awake uint64 // in 100 ns
	if ok, _, _ := unbiased.Call(uintptr(unsafe.Pointer(&awake))); ok == 0 {
		return 0
	}
	return windows.DurationSinceBoot() - time.Duration(awake)*100
}
