// Package lab builds networks out of Linux network namespaces: hosts, an internet between them, and NAT boxes of several kinds in
// front of them. It starts real programs inside. Tests, the demo and the benchmarks share it.
//
//	               internet (routes between public addresses)
//	203.0.113.1/30 |              | 203.0.113.5/30        | 203.0.113.9/30
//	203.0.113.2/30 |              | 203.0.113.6/30        | 203.0.113.10/30
//	           server          NAT of laptop           CGNAT of desk
//	          (NAT none)          | 192.168.2.1/24        | 100.64.2.1/24
//	                              |                       | 100.64.2.2/24
//	                              |                    NAT of desk
//	                              |                       | 192.168.3.1/24
//	                              | 192.168.2.2/24        | 192.168.3.2/24
//	                            laptop                   desk
//
// A program that uses the package calls Init first of all in main, or Main in TestMain: the package starts the program again, as the
// holder of a host's namespaces and to enter them, and in a user namespace of its own when it is not run by root. New makes a Lab,
// Lab.Host a host in it behind one of the kinds of NAT that have a name; Lab.Site and Lab.HostAt combine other options, share a site
// among hosts and give a host several uplinks. Host.Command makes a program on the host, Host.Do runs a function there, Lab.Close
// removes everything. Nothing needs to be removed after a crash either: namespaces go with their holder, and the holder with its parent.
//
// Where a site has IPv6, its hosts have global addresses of 2001:db8:N::/48. A router with port mapping has an address of
// 128.66.0.0/16, since the daemon refuses to work with documentation addresses. NATs that the kernel's does not express run the
// simulator's model on a TUN device of the box, with an external address of 192.0.2.0/24 that is routed there. A shaped link is a pair of
// TAP devices with the simulator's model of a link between them. Both run inside the lab's own program, and need /dev/net/tun.
package lab
