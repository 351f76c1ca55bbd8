package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// checkout has sources with the numbers, as far as these are looked for.
func checkout(t *testing.T, layout string, migrationNames ...string) string {
	t.Helper()
	top := t.TempDir()
	for path, text := range map[string]string{layoutSource: "package state\n\n" + layout + "\n", migrations + "/.keep": ""} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(top, path)), 0o755); err != nil {
			t.Fatal(err)
		}
		if filepath.Base(path) != ".keep" {
			if err := os.WriteFile(filepath.Join(top, path), []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, name := range migrationNames {
		if err := os.WriteFile(filepath.Join(top, migrations, name), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return top
}

func TestLayouts(t *testing.T) {
	layout, schema, err := layouts(checkout(t, "const Version = 12", "0001_first.sql", "0010_last.sql", "0009_more.sql"))
	if layout != 12 || schema != 10 || err != nil {
		t.Errorf("layout %d, schema %d, %v", layout, schema, err)
	}
	for what, top := range map[string]string{
		"no layout": checkout(t, "const Other = 1", "0001_first.sql"), "no migrations": checkout(t, "const Version = 1"), "README: no migration": checkout(t, "const Version = 1", "README"),
	} {
		if layout, schema, err := layouts(top); err == nil || !strings.Contains(err.Error(), what) {
			t.Errorf("%s: %d, %d, %v", what, layout, schema, err)
		}
	}
	if layout, schema, err := layouts("../.."); err != nil || layout < 2 || schema < 3 {
		t.Errorf("this checkout: layout %d, schema %d, %v", layout, schema, err)
	}
}

// TestStamp: each script gets its number, and none is without.
func TestStamp(t *testing.T) {
	r := release{layout: 7, schema: 8}
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS("../scripts")); err != nil {
		t.Fatal(err)
	}
	if err := r.stamp(dir); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"warren.preinst": "known=7 ", "warren-coordinator.preinst": "known=8 "} {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil || !strings.Contains(string(b), want) || strings.Contains(string(b), "@") {
			t.Errorf("%s: %v: %s", name, err, b)
		}
	}
	if err := r.stamp(dir); err == nil || !strings.Contains(err.Error(), "no @KNOWN@") {
		t.Errorf("stamped again: %v", err)
	}
}
