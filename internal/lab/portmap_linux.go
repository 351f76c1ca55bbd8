package lab

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"

	"github.com/google/nftables"
)

// miniupnpd's table and chains, which it expects to find.
const (
	mapperTable   = "miniupnpd"
	mapperProgram = "miniupnpd"
	mapperReady   = "PCP" // in the line that tells of its last socket
)

// startPortMapper runs miniupnpd on the router: PCP and NAT-PMP at its inside address, UPnP IGD by SSDP on its LAN.
func (s *Site) startPortMapper() error {
	program, err := exec.LookPath(mapperProgram)
	if err != nil {
		program, err = exec.LookPath("/usr/sbin/" + mapperProgram) // not on every user's PATH
	}
	if err != nil {
		return fmt.Errorf("a router that maps ports runs %s, which is missing (make deps): %w", mapperProgram, err)
	}
	if err := s.router.mapperChains(); err != nil {
		return err
	}
	config := strings.Join([]string{
		"ext_ifname=" + wanName, "listening_ip=" + lanName, "ipv6_disable=yes",
		"enable_natpmp=yes", "enable_upnp=yes", "secure_mode=yes", "system_uptime=no", "min_lifetime=1", "max_lifetime=86400",
		"upnp_table_name=" + mapperTable, "upnp_nat_table_name=" + mapperTable,
		"upnp_forward_chain=forward", "upnp_nat_chain=prerouting", "upnp_nat_postrouting_chain=postrouting",
		"lease_file=/run/miniupnpd.leases", "uuid=00000000-0000-4000-8000-000000000000",
		fmt.Sprintf("allow 1024-65535 %s 1024-65535", s.inside.v4), "deny 0-65535 0.0.0.0/0 0-65535", "",
	}, "\n")
	const path = "/run/miniupnpd.conf"
	if err := os.WriteFile(s.router.path(path), []byte(config), 0o644); err != nil {
		return err
	}
	return s.router.startServer(mapperReady, program, "-d", "-f", path, "-P", "/run/miniupnpd.pid")
}

// path is how the lab's own program finds a file of the host's mount namespace.
func (h *Host) path(name string) string {
	return fmt.Sprintf("/proc/%d/root%s", h.holder.Process.Pid, name)
}

// mapperChains makes the chains that miniupnpd fills and has the kernel go through them before the box's own.
func (h *Host) mapperChains() error {
	c, err := nftables.New(nftables.WithNetNSFd(int(h.ns.Fd())))
	if err != nil {
		return err
	}
	table := c.AddTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: mapperTable})
	for _, chain := range []nftables.Chain{
		{Name: "forward", Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookForward, Priority: nftables.ChainPriorityRef(-1)},
		{Name: "prerouting", Type: nftables.ChainTypeNAT, Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityRef(-101)},
		{Name: "postrouting", Type: nftables.ChainTypeNAT, Hooknum: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityRef(99)},
	} {
		chain.Table = table
		c.AddChain(&chain)
	}
	if err := c.Flush(); err != nil {
		return fmt.Errorf("%s: nftables: %w", h.Name, err)
	}
	return nil
}

// startServer starts a program on the host and waits until it has said a word. It ends with the lab.
func (h *Host) startServer(ready, program string, args ...string) error {
	ctx, cancel := context.WithCancel(context.Background())
	cmd := h.Command(ctx, program, args...)
	r, w, err := os.Pipe()
	if err != nil {
		cancel()
		return err
	}
	cmd.Stdout, cmd.Stderr = w, w
	err = cmd.Start()
	w.Close()
	if err != nil {
		cancel()
		r.Close()
		return err
	}
	h.lab.stops = append(h.lab.stops, func() {
		cancel()
		_ = cmd.Wait() // killed
		r.Close()
	})
	in, said := bufio.NewReader(r), strings.Builder{}
	for {
		line, err := in.ReadString('\n')
		said.WriteString(line)
		if strings.Contains(line, ready) {
			go io.Copy(io.Discard, in)
			return nil
		}
		if err != nil {
			return errors.Join(fmt.Errorf("%s on %s ended before it was ready: %s", program, h.Name, said.String()), cmd.Wait())
		}
	}
}
