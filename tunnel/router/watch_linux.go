package router

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// Watch calls lost each time that somebody has removed a firewall table of ours, as reloading another firewall may do: Apply puts it back. It
// returns when ctx ends, or with the reason why the kernel cannot be listened to. It may run beside Apply and Close.
func (r *Router) Watch(ctx context.Context, lost func()) error {
	f, err := firewallEvents()
	if err != nil {
		return fmt.Errorf("changes of firewall tables cannot be watched: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { f.Close() })
	defer stop()
	defer f.Close()
	b := make([]byte, 64<<10)
	for {
		n, err := f.Read(b)
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, unix.ENOBUFS): // so much happened that some of it is not told
		case err != nil:
			return fmt.Errorf("changes of firewall tables cannot be watched: %w", err)
		case !removesTable(b[:n]):
			continue
		}
		if r.missesTable() {
			lost()
		}
	}
}

// nftablesGroup is the bit of the netlink group that is told of changes of nftables.
const nftablesGroup = 1 << (unix.NFNLGRP_NFTABLES - 1)

// firewallEvents is a netlink socket of this network namespace that tells of all changes of nftables.
func firewallEvents() (*os.File, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, err
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: nftablesGroup}); err != nil {
		unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), "nftables"), nil
}

// removesTable reports whether netlink messages tell of a table's removal. What cannot be read counts as such.
func removesTable(b []byte) bool {
	messages, err := syscall.ParseNetlinkMessage(b)
	if err != nil {
		return true
	}
	for _, m := range messages {
		if m.Header.Type == unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_DELTABLE {
			return true
		}
	}
	return false
}

// missesTable reports whether a table is not there that we have loaded.
func (r *Router) missesTable() bool {
	for name, loaded := range map[string]bool{tableNameFor(r.name): r.hasFirewall.Load(), killSwitchTable: r.hasKillSwitch.Load()} {
		if loaded {
			if there, err := tableExists(name); err == nil && !there {
				return true
			}
		}
	}
	return false
}
