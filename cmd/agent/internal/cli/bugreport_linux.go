package cli

import "warren/internal/bugreport"

// hostSources are what the host's own programs and files say.
func hostSources() []bugreport.Source {
	journal := bugreport.Command("journal.txt", "journalctl", "--unit=warren", "--unit=warren-killswitch", "--lines=5000", "--no-pager", "--output=short-iso")
	journal.Newest = true
	return append(bugreport.LinuxHost("warren.service", "warren-killswitch.service"), journal,
		bugreport.Commands("links.txt", "ip -details -statistics link", "ip address", "ip neighbour"),
		bugreport.Commands("routes.txt", "ip rule", "ip -6 rule", "ip route show table all", "ip -6 route show table all"),
		bugreport.Commands("firewall.txt", "nft list ruleset", "iptables-legacy-save", "ip6tables-legacy-save"),
		bugreport.Commands("sysctls.txt", "sysctl -a -r ^net\\.ipv[46]\\.(ip_forward|conf\\..*\\.(forwarding|rp_filter|src_valid_mark|accept_ra|disable_ipv6))|^net\\.core\\.[rw]mem"),
		bugreport.Commands("sockets.txt", "ss -ntuap"),
		bugreport.Commands("wireguard.txt", "wg show"),
	)
}
