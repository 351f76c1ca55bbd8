package field

import (
	"debug/buildinfo"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"warren/internal/buildversion"
)

// programs of the systems, below the directory of built programs.
var programs = []struct{ system, file string }{
	{NameWarren, "warren"},
	{NameStock, "wireguard-go"},
	{NameTailscale, "field/tailscaled"},
	{NameTailscale, "field/headscale"},
	{NameNebula, "field/nebula"},
}

// Versions tells which versions the programs of systems in a directory were built from, in words.
func Versions(bin string, systems []string) (string, error) {
	var out []string
	for _, p := range programs {
		if !slices.Contains(systems, p.system) {
			continue
		}
		info, err := buildinfo.ReadFile(filepath.Join(bin, p.file))
		if err != nil {
			return "", fmt.Errorf("%w; make bench-field builds it", err)
		}
		out = append(out, filepath.Base(p.file)+" "+buildversion.Of(info))
	}
	return strings.Join(out, ", "), nil
}

// Machine tells what the machine is that figures come from, in words.
func Machine() (string, error) {
	cpus, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return "", err
	}
	kernel, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		return "", err
	}
	return describeMachine(string(cpus), string(kernel)), nil
}

func describeMachine(cpuinfo, kernel string) string {
	cores, model := 0, "unknown processor"
	for line := range strings.Lines(cpuinfo) {
		key, value, _ := strings.Cut(line, ":")
		switch strings.TrimSpace(key) {
		case "processor":
			cores++
		case "model name":
			model = strings.TrimSpace(value)
		}
	}
	return fmt.Sprintf("%d cores of %s, Linux %s", cores, model, strings.TrimSpace(kernel))
}
