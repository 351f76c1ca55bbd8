// Package netdump reads whole lists from the kernel: Whole repeats a netlink dump that a change has interrupted, which else is told of as an error,
// beside a list with gaps. It exists on Linux only.
package netdump
