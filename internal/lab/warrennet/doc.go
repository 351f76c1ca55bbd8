// Package warrennet runs a Warren network in the lab from the real programs: Build makes the binaries, New a lab with a coordinator,
// Network.Device adds a device and Device.Up enrols it. Tests, the demo and the benchmarks share it; tests call Main in TestMain, and ForTest.
package warrennet
