//go:build !linux

package netcheck

import "syscall"

// canWhole: to have datagrams sent whole is not there yet on this system, and so nothing is found of the MTU.
const canWhole = false

func whole(string, syscall.RawConn) error { return nil }

func tooLong(error) bool { return false }

func temporary(error) bool { return false }
