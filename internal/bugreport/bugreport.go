// Package bugreport makes one file of what somebody who is to help has to know about a program and its host: Write collects Sources, each within
// bounds of time and size, has a Redactor take out what is secret, and packs the rest. Process is the source that a running program is for itself.
//
//	bugreport.go  Write
//	redact.go     what is secret, and what names are replaced by
//	sources.go    programs and files as sources
//	process.go    the running program: its log, metrics and goroutines
package bugreport

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"time"

	"golang.org/x/sync/errgroup"
)

// Bounds of a report.
const (
	// MaxFile is the size of one of its files, in bytes.
	MaxFile = 1 << 20
	// maxRaw is how much a source may give, of which MaxFile are kept after redaction.
	maxRaw = MaxFile + 64<<10
	// patience is how long a source may take that names no time of its own.
	patience = 10 * time.Second
	atOnce   = 4
)

// Source is one file of a report.
type Source struct {
	// Name is the file's.
	Name string
	// Collect gives its content. What it gave is kept also beside an error.
	Collect func(context.Context) ([]byte, error)
	// Newest says that of too much the end counts, as in a log, and not the beginning.
	Newest bool
	// Patience is how long it may take; 0: ten seconds.
	Patience time.Duration
}

// Write packs the sources, in their order, as a tar archive through gzip. A source that fails has its error for content; only an error of w is one.
func Write(ctx context.Context, w io.Writer, r *Redactor, now time.Time, sources []Source) error {
	contents := make([][]byte, len(sources))
	var group errgroup.Group
	group.SetLimit(atOnce)
	for i, s := range sources {
		group.Go(func() error {
			contents[i] = s.collect(ctx)
			return nil
		})
	}
	_ = group.Wait()
	zip := gzip.NewWriter(w)
	archive := tar.NewWriter(zip)
	for i, s := range sources {
		b := cut(r.Clean(contents[i]), MaxFile, s.Newest)
		h := &tar.Header{Name: "report/" + s.Name, Mode: 0o600, Size: int64(len(b)), ModTime: now.Truncate(time.Second)}
		if err := archive.WriteHeader(h); err != nil {
			return err
		}
		if _, err := archive.Write(b); err != nil {
			return err
		}
	}
	return errors.Join(archive.Close(), zip.Close())
}

// Create makes the file of a report, which nobody else may read. One that is there already is an error, and after an error nothing is left.
func Create(ctx context.Context, path string, r *Redactor, now time.Time, sources []Source) (err error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("report: %w; name another file with --output", err)
	}
	defer func() {
		err = errors.Join(err, f.Close())
		if err != nil {
			err = fmt.Errorf("report: %w", errors.Join(err, os.Remove(path)))
		}
	}()
	if err := Write(ctx, f, r, now, sources); err != nil {
		return err
	}
	return ctx.Err()
}

// collect waits for the source no longer than it may take, whether it heeds its context or not.
func (s Source) collect(ctx context.Context) []byte {
	limit := s.Patience
	if limit == 0 {
		limit = patience
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	done := make(chan []byte, 1)
	go func() {
		defer func() {
			if p := recover(); p != nil {
				done <- fmt.Appendf(nil, "could not be had: %v\n%s", p, debug.Stack())
			}
		}()
		b, err := s.Collect(ctx)
		b = cut(b, maxRaw, s.Newest)
		if err != nil {
			b = fmt.Appendf(bytes.Clone(b), "could not be had: %v\n", err)
		}
		done <- b
	}()
	select {
	case b := <-done:
		return b
	case <-ctx.Done():
		return fmt.Appendf(nil, "could not be had: no answer within %s\n", limit)
	}
}

// cut leaves at most so many bytes, of whole lines where there are any, and says so.
func cut(b []byte, most int, newest bool) []byte {
	const note = "[cut here]\n"
	if len(b) <= most {
		return b
	}
	if newest {
		b = b[len(b)-most+len(note):]
		if i := bytes.IndexByte(b, '\n'); i >= 0 {
			b = b[i+1:]
		}
		return append([]byte(note), b...)
	}
	b = b[:most-len(note)-1]
	if i := bytes.LastIndexByte(b, '\n'); i >= 0 {
		b = b[:i]
	}
	return append(append(bytes.Clone(b), '\n'), note...)
}
