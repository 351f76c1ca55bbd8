package ocilayout

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"warren/packaging/archive"
)

// reader follows descriptors as an engine does, and checks each.
type reader struct {
	t     *testing.T
	files map[string][]byte
	read  map[string]bool
}

func (r reader) blob(d descriptor) []byte {
	r.t.Helper()
	name := "blobs/sha256/" + strings.TrimPrefix(d.Digest, "sha256:")
	b, ok := r.files[name]
	if !ok || len(b) != d.Size || digest(b) != d.Digest {
		r.t.Fatalf("%+v: there %t, %d bytes of digest %s", d, ok, len(b), digest(b))
	}
	r.read[name] = true
	return b
}

func (r reader) json(b []byte, v any) {
	r.t.Helper()
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil {
		r.t.Fatalf("%s: %v", b, err)
	}
}

func TestFiles(t *testing.T) {
	im := Image{
		Name: "tool:1.2.3", User: "65532", Entrypoint: []string{"/usr/bin/tool"}, Command: []string{"serve"}, Ports: []string{"443/tcp"}, Volumes: []string{"/var/lib/tool"},
		Labels: map[string]string{"a": "b"}, Env: []string{"HOME=/x"}, Created: time.Unix(1_700_000_000, 0),
	}
	variants := []Variant{
		{"amd64", []archive.File{{Name: "usr/bin/tool", Mode: 0o755, Content: []byte("amd64's")}}},
		{"arm64", []archive.File{{Name: "usr/bin/tool", Mode: 0o755, Content: []byte("arm64's")}}},
	}
	list, err := Files(im, variants)
	if err != nil {
		t.Fatal(err)
	}
	again, err := Files(im, variants)
	if diff := cmp.Diff(list, again); diff != "" || err != nil {
		t.Errorf("made again: %v %s", err, diff)
	}
	r := reader{t, map[string][]byte{}, map[string]bool{"oci-layout": true, "index.json": true}}
	for _, f := range list {
		r.files[f.Name] = f.Content
	}
	var top, all index
	r.json(r.files["index.json"], &top)
	if len(top.Manifests) != 1 || top.Manifests[0].Annotations[nameKey] != "tool:1.2.3" {
		t.Fatalf("index %+v", top)
	}
	r.json(r.blob(top.Manifests[0]), &all)
	if len(all.Manifests) != len(variants) {
		t.Fatalf("%d manifests", len(all.Manifests))
	}
	for i, d := range all.Manifests {
		if d.Platform == nil || d.Platform.Architecture != variants[i].Arch || d.Platform.OS != "linux" {
			t.Errorf("platform %+v", d.Platform)
		}
		r.checkImage(d, im, variants[i])
	}
	for name := range r.files {
		if !r.read[name] {
			t.Errorf("nothing leads to %s", name)
		}
	}
}

func (r reader) checkImage(d descriptor, im Image, v Variant) {
	var m manifest
	r.json(r.blob(d), &m)
	var c config
	r.json(r.blob(m.Config), &c)
	if c.Architecture != v.Arch || c.Config.User != im.User || cmp.Diff(c.Config.Entrypoint, im.Entrypoint) != "" || cmp.Diff(c.Config.Cmd, im.Command) != "" {
		r.t.Errorf("configuration %+v", c)
	}
	if _, ok := c.Config.ExposedPorts["443/tcp"]; !ok || c.Created != "2023-11-14T22:13:20Z" {
		r.t.Errorf("configuration %+v", c)
	}
	if diff := cmp.Diff([]string{"PATH=/usr/bin", "HOME=/x"}, c.Config.Env); diff != "" {
		r.t.Error(diff)
	}
	z, err := gzip.NewReader(bytes.NewReader(r.blob(m.Layers[0])))
	if err != nil {
		r.t.Fatal(err)
	}
	layer, err := io.ReadAll(z)
	if err != nil {
		r.t.Fatal(err)
	}
	if diff := cmp.Diff([]string{digest(layer)}, c.RootFS.DiffIDs); diff != "" {
		r.t.Error(diff)
	}
	found := false
	for tr := tar.NewReader(bytes.NewReader(layer)); ; {
		h, err := tr.Next()
		if err != nil {
			break
		}
		if h.Name == "usr/bin/tool" {
			b, err := io.ReadAll(tr)
			found = err == nil && string(b) == v.Arch+"'s"
		}
	}
	if !found {
		r.t.Errorf("%s: the program is not there, or another's", v.Arch)
	}
}
