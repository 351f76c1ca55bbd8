// Package field runs mesh VPNs in the lab, Warren and others alike, and measures all of them by the same code: a System is started at the
// relay's host, both devices join, and Meter.Measure gives one Sample. Tables puts many samples into tables; Versions tells what was run.
//
// Whether a pair is direct is seen at the lab, never asked of the program: pings whose size no other packet has either arrive at the relay's
// host on their way or do not.
package field
