// Package booted boots a whole Debian, with systemd or OpenRC as its first process and a package manager of its own, at a site of a lab: for tests of units,
// packages and images as they are installed, and of what pages of docs have other programs do. Base makes the root directory of a kind of Debian, once for all; New lays a machine's own changes over it; Machine.Boot starts it by
// systemd-nspawn; Machine.Command runs a program inside.
//
// A machine has network, process and mount namespaces of its own, and an own tree of control groups without controllers where the host's has those. Its
// kernel is the host's: it loads no modules, and neither its clock nor what is outside of /proc/sys/net can be set from within. The tests need root,
// debootstrap, systemd-nspawn and, for Base, Debian's mirror. "make test-booted" runs them.
package booted
