//go:build !unix

package tundev

import "os"

// readable is for interfaces that are files, of which there are none here.
func readable(*os.File) bool { return true }
