// Package archive writes tar archives that depend on nothing but what goes into them: Tar of files in the order given, all owned by root and of
// one time, and Gzip.
package archive

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"fmt"
	"path"
	"time"
)

// File is one entry. A name that ends with a slash is a directory.
type File struct {
	Name string
	// Mode is 0 for 0644, or 0755 for a directory.
	Mode    int64
	Content []byte
	// Owner is the number of the user and the group.
	Owner int
}

// Tar gives an archive of the files, with the directories that lead to them.
func Tar(files []File, at time.Time) ([]byte, error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	made := map[string]bool{".": true, "/": true}
	for _, f := range files {
		if err := parents(w, f.Name, at, made); err != nil {
			return nil, err
		}
		h := &tar.Header{Name: f.Name, Mode: f.Mode, Size: int64(len(f.Content)), ModTime: at, Uid: f.Owner, Gid: f.Owner, Format: tar.FormatPAX}
		if h.Typeflag = tar.TypeReg; f.Name[len(f.Name)-1] == '/' {
			h.Typeflag = tar.TypeDir
			made[path.Clean(f.Name)] = true
		}
		if h.Mode == 0 {
			h.Mode = 0o644
			if h.Typeflag == tar.TypeDir {
				h.Mode = 0o755
			}
		}
		if err := w.WriteHeader(h); err != nil {
			return nil, fmt.Errorf("%s: %w", f.Name, err)
		}
		if _, err := w.Write(f.Content); err != nil {
			return nil, fmt.Errorf("%s: %w", f.Name, err)
		}
	}
	err := w.Close()
	return b.Bytes(), err
}

func parents(w *tar.Writer, name string, at time.Time, made map[string]bool) error {
	dir := path.Dir(path.Clean(name))
	if made[dir] {
		return nil
	}
	if err := parents(w, dir, at, made); err != nil {
		return err
	}
	made[dir] = true
	return w.WriteHeader(&tar.Header{Name: dir + "/", Typeflag: tar.TypeDir, Mode: 0o755, ModTime: at, Format: tar.FormatPAX})
}

// Gzip compresses b as much as it can be, without a time or a name.
func Gzip(b []byte) ([]byte, error) {
	var out bytes.Buffer
	w, err := gzip.NewWriterLevel(&out, gzip.BestCompression)
	if err != nil {
		return nil, err
	}
	if _, err := w.Write(b); err != nil {
		return nil, err
	}
	err = w.Close()
	return out.Bytes(), err
}
