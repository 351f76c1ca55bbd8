package osversion

import (
	"fmt"

	"golang.org/x/sys/windows"
)

// Get gives the version with the build.
func Get() string {
	v := windows.RtlGetVersion()
	return fmt.Sprintf("%d.%d.%d", v.MajorVersion, v.MinorVersion, v.BuildNumber)
}
