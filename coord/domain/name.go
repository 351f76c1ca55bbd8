package domain

import (
	"encoding/binary"
	"fmt"
	"io"
	"strings"

	"warren/proto/record"
)

const (
	// orderly is up to which number suffixes are given in order; after that they are drawn, for searching would cost more with every
	// device of the same name.
	orderly = 100
	drawn   = 64
)

// PickName checks the wished name, or makes one from hostname: its first label in lower case, made unique by -2, -3 … random is not
// read for a wished name.
func PickName(wish, hostname string, taken func(string) bool, random io.Reader) (string, error) {
	if wish != "" {
		if err := record.CheckLabel(wish); err != nil {
			return "", fmt.Errorf("%w: %w", ErrName, err)
		}
		if taken(wish) {
			return "", fmt.Errorf("%w: another device is called %q already; choose another with --name", ErrNameTaken, wish)
		}
		return wish, nil
	}
	base := labelFrom(hostname)
	if !taken(base) {
		return base, nil
	}
	for i := uint32(2); i <= orderly; i++ {
		if name := withSuffix(base, i); !taken(name) {
			return name, nil
		}
	}
	for range drawn {
		var b [4]byte
		if _, err := io.ReadFull(random, b[:]); err != nil {
			return "", err
		}
		if name := withSuffix(base, orderly+1+binary.BigEndian.Uint32(b[:])%10_000_000); !taken(name) {
			return name, nil
		}
	}
	return "", fmt.Errorf("%w: too many devices are called %q; choose another with --name", ErrNameTaken, base)
}

func withSuffix(base string, i uint32) string {
	suffix := fmt.Sprintf("-%d", i)
	return strings.TrimRight(base[:min(len(base), record.MaxLabel-len(suffix))], "-") + suffix
}

func labelFrom(hostname string) string {
	host, _, _ := strings.Cut(strings.ToLower(hostname), ".")
	host = strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9':
			return r
		case r == '-', r == '_', r == ' ':
			return '-'
		}
		return -1
	}, host)
	host = strings.TrimLeft(host, "-")
	host = strings.TrimRight(host[:min(len(host), record.MaxLabel)], "-")
	if host == "" || host == "localhost" {
		return "device"
	}
	return host
}
