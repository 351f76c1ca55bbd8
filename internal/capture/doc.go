// Package capture records what passes a network link, below any firewall, for tests that say what may and what must not leave a host. Open
// begins; Since gives what came.
package capture
