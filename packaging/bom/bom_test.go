package bom

import (
	"runtime/debug"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const want = `{
  "bomFormat": "CycloneDX",
  "specVersion": "1.5",
  "version": 1,
  "metadata": {
    "timestamp": "2026-11-26T02:21:49Z",
    "component": {
      "bom-ref": "tool",
      "type": "application",
      "name": "tool",
      "version": "1.2.3",
      "hashes": [
        {
          "alg": "SHA-256",
          "content": "abcd"
        }
      ],
      "properties": [
        {
          "name": "go:GOARCH",
          "value": "arm64"
        }
      ]
    }
  },
  "components": [
    {
      "bom-ref": "pkg:golang/std@1.26.8",
      "type": "library",
      "name": "std",
      "version": "1.26.8",
      "purl": "pkg:golang/std@1.26.8"
    },
    {
      "bom-ref": "pkg:golang/example.com/a@v1.0.0%2Bincompatible",
      "type": "library",
      "name": "example.com/a",
      "version": "v1.0.0+incompatible",
      "purl": "pkg:golang/example.com/a@v1.0.0%2Bincompatible",
      "properties": [
        {
          "name": "go:sum",
          "value": "h1:x="
        }
      ]
    },
    {
      "bom-ref": "pkg:golang/example.com/fork@v2.0.0",
      "type": "library",
      "name": "example.com/fork",
      "version": "v2.0.0",
      "purl": "pkg:golang/example.com/fork@v2.0.0"
    }
  ]
}`

func TestMake(t *testing.T) {
	info := &debug.BuildInfo{
		GoVersion: "go1.26.8",
		Settings:  []debug.BuildSetting{{Key: "GOARCH", Value: "arm64"}, {Key: "-ldflags", Value: "-X secret=1"}},
		Deps: []*debug.Module{
			{Path: "example.com/a", Version: "v1.0.0+incompatible", Sum: "h1:x="},
			{Path: "example.com/b", Version: "v1.0.0", Replace: &debug.Module{Path: "example.com/fork", Version: "v2.0.0"}},
		},
	}
	got, err := Make(info, "tool", "1.2.3", "abcd", time.Date(2026, 11, 26, 3, 21, 49, 0, time.FixedZone("", 3600)))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Error(diff)
	}
}
