// Package netnstest has a test run in a network namespace of its own, where it may change interfaces, addresses and routes as it likes. Most
// call Run; a test that has its own goroutine for it calls Enter there. It needs root, and exists on Linux only.
package netnstest
