package osversion

import "golang.org/x/sys/unix"

// Get gives the product's version.
func Get() string {
	v, err := unix.Sysctl("kern.osproductversion")
	if err != nil {
		return ""
	}
	return v
}
