package backup

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"warren/coord/statedir"
)

// Format is the newest format of backups that this program knows.
const Format = 1

// manifestName is the first entry of the archive.
const manifestName = "manifest.json"

// Bounds of what is read, in bytes.
const (
	maxManifest = 64 << 10
	maxSmall    = 4 << 10 // of a file that is not the database
	maxDatabase = 1 << 38
)

// Manifest says what a backup holds.
type Manifest struct {
	Format int `json:"format"`
	// Network is its id, Authority its public key, by which the devices know it.
	Network   string `json:"network"`
	Authority string `json:"authority"`
	// Generation is the restore generation of its records.
	Generation uint64 `json:"generation"`
	// Layout is of the state directory, Schema of the database.
	Layout int `json:"layout"`
	Schema int `json:"schema"`
	// Version is that of the program that made the backup.
	Version string    `json:"version"`
	At      time.Time `json:"at"`
	Files   []File    `json:"files"`
}

// File is one file of a backup.
type File struct {
	Name   string `json:"name"`
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"`
}

// ErrNoBackup says that a file is something else.
var ErrNoBackup = errors.New("this is no backup of a coordinator")

// describe reads size and checksum of a file.
func describe(name, path string) (File, error) {
	f, err := os.Open(path)
	if err != nil {
		return File{}, err
	}
	defer f.Close()
	h := sha256.New()
	n, err := io.Copy(h, f)
	return File{name, n, hex.EncodeToString(h.Sum(nil))}, err
}

// pack writes the manifest and the files in dir that it names.
func pack(w io.Writer, m Manifest, paths map[string]string) error {
	text, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return err
	}
	z := gzip.NewWriter(w)
	t := tar.NewWriter(z)
	head := func(name string, size int64) *tar.Header {
		return &tar.Header{Name: name, Size: size, Mode: 0o600, ModTime: m.At, Format: tar.FormatPAX, Typeflag: tar.TypeReg}
	}
	if err := t.WriteHeader(head(manifestName, int64(len(text)))); err != nil {
		return err
	}
	if _, err := t.Write(text); err != nil {
		return err
	}
	for _, f := range m.Files {
		if err := t.WriteHeader(head(f.Name, f.Size)); err != nil {
			return err
		}
		if err := appendFile(t, paths[f.Name]); err != nil {
			return err
		}
	}
	return errors.Join(t.Close(), z.Close())
}

func appendFile(w io.Writer, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.Copy(w, f)
	return err
}

// reader reads a backup that may be anything.
type reader struct {
	t *tar.Reader
	z *gzip.Reader
}

// openArchive reads as far as the manifest, and checks that.
func openArchive(r io.Reader) (*reader, Manifest, error) {
	var m Manifest
	z, err := gzip.NewReader(r)
	if err != nil {
		return nil, m, fmt.Errorf("%w: %w", ErrNoBackup, err)
	}
	t := tar.NewReader(z)
	h, err := t.Next()
	if err != nil {
		return nil, m, fmt.Errorf("%w: %w", ErrNoBackup, err)
	}
	if h.Name != manifestName || h.Size > maxManifest {
		return nil, m, fmt.Errorf("%w: it begins with %.40q", ErrNoBackup, h.Name)
	}
	text, err := io.ReadAll(t)
	if err != nil {
		return nil, m, fmt.Errorf("the backup is damaged: %w", err)
	}
	if err := json.Unmarshal(text, &m); err != nil {
		return nil, m, fmt.Errorf("the backup's manifest is damaged: %w", err)
	}
	return &reader{t, z}, m, m.check()
}

// check finds a manifest that this program cannot use.
func (m *Manifest) check() error {
	if m.Format > Format {
		return fmt.Errorf("the backup was made by a newer warren-coordinator, %.40q (format %d, this one knows %d); restore it with that version", m.Version, m.Format, Format)
	}
	if m.Format < 1 || len(m.Files) != len(statedir.Files()) {
		return fmt.Errorf("the backup's manifest is damaged: format %d with %d files", m.Format, len(m.Files))
	}
	for i, f := range m.Files {
		most := int64(maxSmall)
		if f.Name == statedir.Database {
			most = maxDatabase
		}
		if f.Name != statedir.Files()[i] || f.Size < 1 || f.Size > most {
			return fmt.Errorf("the backup's manifest is damaged: file %.40q of %d bytes", f.Name, f.Size)
		}
	}
	return nil
}

// unpack writes the files into dir, and holds them against the manifest.
func (r *reader) unpack(m Manifest, dir string) error {
	for _, want := range m.Files {
		h, err := r.t.Next()
		if err != nil {
			return fmt.Errorf("the backup is damaged before file %s: %w", want.Name, noEOF(err))
		}
		if h.Name != want.Name || h.Size != want.Size || h.Typeflag != tar.TypeReg {
			return fmt.Errorf("the backup is damaged: %.40q of %d bytes where %s of %d ought to be", h.Name, h.Size, want.Name, want.Size)
		}
		sum, err := extract(r.t, filepath.Join(dir, want.Name))
		if err != nil {
			return fmt.Errorf("file %s of the backup: %w", want.Name, noEOF(err))
		}
		if wanted, err := hex.DecodeString(want.SHA256); err != nil || !bytes.Equal(sum, wanted) {
			return fmt.Errorf("the backup is damaged: file %s has checksum %x, not %.64s", want.Name, sum, want.SHA256)
		}
	}
	if _, err := r.t.Next(); !errors.Is(err, io.EOF) {
		return fmt.Errorf("the backup is damaged: something follows its last file (%v)", err)
	}
	if _, err := io.Copy(io.Discard, r.z); err != nil { // the checksum of the whole comes last
		return fmt.Errorf("the backup is damaged at its end: %w", noEOF(err))
	}
	return nil
}

// noEOF is for an end that comes too early.
func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

func extract(from io.Reader, path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	h := sha256.New()
	_, err = io.Copy(io.MultiWriter(f, h), from)
	return h.Sum(nil), errors.Join(err, f.Close())
}

// isBackup reports whether the file begins as a backup does.
func isBackup(path string) bool {
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	_, _, err = openArchive(f)
	return !errors.Is(err, ErrNoBackup)
}
