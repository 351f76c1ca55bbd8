package handover

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// seals keep everybody from changing the file, whoever else has it.
const seals = unix.F_SEAL_WRITE | unix.F_SEAL_GROW | unix.F_SEAL_SHRINK | unix.F_SEAL_SEAL

// Now is the time.
func Now() (Moment, error) {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &t); err != nil {
		return Moment{}, err
	}
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return Moment{Boot: strings.TrimSpace(string(boot)), At: time.Duration(t.Nano())}, err
}

// Seal gives a file with b that is on no disk, and that nobody can change.
func Seal(b []byte) (*os.File, error) {
	fd, err := unix.MemfdCreate(Known, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, fmt.Errorf("file for what the next process is told: %w", err)
	}
	f := os.NewFile(uintptr(fd), Known)
	_, err = f.Write(b)
	if err == nil {
		err = control(f, func(fd uintptr) error {
			_, err := unix.FcntlInt(fd, unix.F_ADD_SEALS, seals)
			return err
		})
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("file for what the next process is told: %w", err)
	}
	return f, nil
}

// Open reads a file that Seal has made.
func Open(f *os.File) ([]byte, error) {
	err := control(f, func(fd uintptr) error {
		has, err := unix.FcntlInt(fd, unix.F_GET_SEALS, 0)
		if err == nil && has&seals != seals {
			err = errors.New("it is not sealed")
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("what the process before told: %w: %w", ErrDamaged, err)
	}
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if info.Size() > maxSize {
		return nil, fmt.Errorf("what the process before told: %d bytes, more than %d: %w", info.Size(), maxSize, ErrDamaged)
	}
	b := make([]byte, info.Size())
	if _, err := f.ReadAt(b, 0); err != nil && len(b) > 0 {
		return nil, fmt.Errorf("what the process before told: %w", err)
	}
	return b, nil
}
