package router

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"warren/internal/atomicfile"
)

// journal is what was changed on the host, and outlives a process that is killed. It is on the disk before the change is made, so that it may
// name changes that never were: taking those back does nothing.
type journal struct {
	path string

	// Boot and Namespace say where it holds: after a restart of the host, or in another container, nothing of it does.
	Boot      string `json:"boot"`
	Namespace string `json:"namespace"`
	// Interface has the firewall table named after it.
	Interface string `json:"interface"`
	// Sysctls were set, the oldest first.
	Sysctls []setting `json:"sysctls,omitempty"`
	// Accepted says that other firewalls got a rule of ours.
	Accepted bool `json:"accepted,omitempty"`

	onDisk string
}

func newJournal(path, name string) *journal {
	j := &journal{path: path, Interface: name}
	j.Boot, j.Namespace = here()
	return j
}

// here tells this start of the host, and the network namespace, from all others; what cannot be read is empty.
func here() (boot, namespace string) {
	b, _ := os.ReadFile(sysctlRoot + "kernel/random/boot_id")
	namespace, _ = os.Readlink("/proc/thread-self/ns/net")
	return strings.TrimSpace(string(b)), namespace
}

// readJournal returns nil if there is none that holds.
func readJournal(path string) (*journal, error) {
	if path == "" {
		return nil, nil
	}
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("journal of changes to this host: %w", err)
	}
	j := &journal{path: path, onDisk: string(b)}
	if err := json.Unmarshal(b, j); err != nil {
		return nil, fmt.Errorf("journal of changes to this host %s: %w", path, err)
	}
	if boot, namespace := here(); j.Boot != boot || j.Namespace != namespace {
		return nil, j.remove()
	}
	if err := CheckName(j.Interface); err != nil {
		return nil, fmt.Errorf("journal of changes to this host %s: %w", path, err)
	}
	for _, s := range j.Sysctls {
		if err := s.check(); err != nil {
			return nil, fmt.Errorf("journal of changes to this host %s: %w", path, err)
		}
	}
	return j, nil
}

// save writes the journal if it differs from what is on the disk.
func (j *journal) save() error {
	if j.path == "" {
		return nil
	}
	b, err := json.MarshalIndent(j, "", "\t")
	if err != nil {
		return err
	}
	if string(b) == j.onDisk {
		return nil
	}
	if err := atomicfile.Write(j.path, b); err != nil {
		return fmt.Errorf("journal of changes to this host, without which none is made: %w", err)
	}
	j.onDisk = string(b)
	return nil
}

// remove deletes the file.
func (j *journal) remove() error {
	if j.path == "" || j.onDisk == "" {
		return nil
	}
	j.onDisk = ""
	if err := os.Remove(j.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("journal of changes to this host: %w", err)
	}
	return nil
}
