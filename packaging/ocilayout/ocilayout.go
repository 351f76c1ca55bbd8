// Package ocilayout makes container images without an engine: Files gives the files of an OCI image layout
// (https://github.com/opencontainers/image-spec/blob/v1.1.0/image-layout.md) of one image for several architectures, each of one layer.
package ocilayout

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"slices"
	"strings"
	"time"

	"warren/packaging/archive"
)

// Image is what all architectures share.
type Image struct {
	// Name is the image's reference name, such as tool:1.2.3.
	Name string
	// User is the number of the user, or empty for root.
	User       string
	Entrypoint []string
	Command    []string
	// Env has variables, written NAME=VALUE, besides PATH.
	Env []string
	// Ports are written 443/tcp.
	Ports   []string
	Volumes []string
	Labels  map[string]string
	Created time.Time
}

// Variant is the root file system for one architecture, as Go names it.
type Variant struct {
	Arch string
	Root []archive.File
}

const (
	typeIndex    = "application/vnd.oci.image.index.v1+json"
	typeManifest = "application/vnd.oci.image.manifest.v1+json"
	typeConfig   = "application/vnd.oci.image.config.v1+json"
	typeLayer    = "application/vnd.oci.image.layer.v1.tar+gzip"
	nameKey      = "org.opencontainers.image.ref.name"
)

type descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"`
	Size        int               `json:"size"`
	Platform    *platform         `json:"platform,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

type platform struct {
	Architecture string `json:"architecture"`
	OS           string `json:"os"`
}

type index struct {
	SchemaVersion int          `json:"schemaVersion"`
	MediaType     string       `json:"mediaType"`
	Manifests     []descriptor `json:"manifests"`
}

type manifest struct {
	SchemaVersion int          `json:"schemaVersion"`
	MediaType     string       `json:"mediaType"`
	Config        descriptor   `json:"config"`
	Layers        []descriptor `json:"layers"`
}

type config struct {
	Created string `json:"created"`
	platform
	Config struct {
		User         string              `json:"User,omitempty"`
		ExposedPorts map[string]struct{} `json:"ExposedPorts,omitempty"`
		Env          []string            `json:"Env"`
		Entrypoint   []string            `json:"Entrypoint"`
		Cmd          []string            `json:"Cmd,omitempty"`
		Volumes      map[string]struct{} `json:"Volumes,omitempty"`
		Labels       map[string]string   `json:"Labels,omitempty"`
	} `json:"config"`
	RootFS struct {
		Type    string   `json:"type"`
		DiffIDs []string `json:"diff_ids"`
	} `json:"rootfs"`
}

// blobs collects contents by their digests.
type blobs struct{ files []archive.File }

func digest(b []byte) string {
	sum := sha256.Sum256(b)
	return "sha256:" + hex.EncodeToString(sum[:])
}

func (s *blobs) add(mediaType string, content []byte) descriptor {
	d := descriptor{MediaType: mediaType, Digest: digest(content), Size: len(content)}
	s.files = append(s.files, archive.File{Name: "blobs/sha256/" + strings.TrimPrefix(d.Digest, "sha256:"), Content: content})
	return d
}

func (s *blobs) addJSON(mediaType string, v any) (descriptor, error) {
	b, err := json.Marshal(v)
	return s.add(mediaType, b), err
}

// Files are those of the layout's directory.
func Files(im Image, variants []Variant) ([]archive.File, error) {
	var s blobs
	all := index{SchemaVersion: 2, MediaType: typeIndex}
	for _, v := range variants {
		d, err := s.variant(im, v)
		if err != nil {
			return nil, err
		}
		all.Manifests = append(all.Manifests, d)
	}
	whole, err := s.addJSON(typeIndex, all)
	if err != nil {
		return nil, err
	}
	whole.Annotations = map[string]string{nameKey: im.Name}
	top, err := json.Marshal(index{SchemaVersion: 2, MediaType: typeIndex, Manifests: []descriptor{whole}})
	slices.SortFunc(s.files, func(a, b archive.File) int { return strings.Compare(a.Name, b.Name) })
	s.files = slices.CompactFunc(s.files, func(a, b archive.File) bool { return a.Name == b.Name })
	return append([]archive.File{{Name: "oci-layout", Content: []byte(`{"imageLayoutVersion":"1.0.0"}`)}, {Name: "index.json", Content: top}}, s.files...), err
}

func (s *blobs) variant(im Image, v Variant) (descriptor, error) {
	layer, err := archive.Tar(v.Root, im.Created)
	if err != nil {
		return descriptor{}, err
	}
	packed, err := archive.Gzip(layer)
	if err != nil {
		return descriptor{}, err
	}
	c := config{Created: im.Created.UTC().Format(time.RFC3339), platform: platform{v.Arch, "linux"}}
	c.Config.User, c.Config.Entrypoint, c.Config.Cmd, c.Config.Labels = im.User, im.Entrypoint, im.Command, im.Labels
	c.Config.Env = append([]string{"PATH=/usr/bin"}, im.Env...)
	c.Config.ExposedPorts, c.Config.Volumes = set(im.Ports), set(im.Volumes)
	c.RootFS.Type, c.RootFS.DiffIDs = "layers", []string{digest(layer)}
	m := manifest{SchemaVersion: 2, MediaType: typeManifest, Layers: []descriptor{s.add(typeLayer, packed)}}
	if m.Config, err = s.addJSON(typeConfig, c); err != nil {
		return descriptor{}, err
	}
	d, err := s.addJSON(typeManifest, m)
	d.Platform = &platform{v.Arch, "linux"}
	return d, err
}

func set(names []string) map[string]struct{} {
	if len(names) == 0 {
		return nil
	}
	m := map[string]struct{}{}
	for _, n := range names {
		m[n] = struct{}{}
	}
	return m
}
