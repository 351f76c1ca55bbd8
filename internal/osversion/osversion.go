// Package osversion tells which version the running system has. Get gives it as the system writes it: the kernel's release on Linux, such as
// 6.1.0-18-amd64, the product's version on macOS, such as 14.4.1, and the build on Windows, such as 10.0.22631; empty where it is not known.
package osversion
