package flowsink

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"warren/tunnel/flowlog"
)

// kept is how many earlier files stay, as PATH.1 to PATH.4.
const kept = 4

// file appends JSON lines. It is opened anew each time, so that nobody need be told when it was moved away.
type file struct {
	path string
	most int64
}

func (f *file) Name() string { return "file" }

func (f *file) Close() error { return nil }

// Write starts another file where this one would become too long.
func (f *file) Write(_ context.Context, list []flowlog.Record) error {
	var lines bytes.Buffer
	e := json.NewEncoder(&lines)
	for i := range list {
		if err := e.Encode(&list[i]); err != nil {
			return fmt.Errorf("%w: %w", flowlog.ErrUnwanted, err)
		}
	}
	if info, err := os.Stat(f.path); err == nil && info.Size() > 0 && info.Size()+int64(lines.Len()) > f.most {
		if err := f.rotate(); err != nil {
			return err
		}
	}
	return f.append(lines.Bytes())
}

// append leaves nothing of lines that it cannot write whole.
func (f *file) append(lines []byte) error {
	w, err := os.OpenFile(f.path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer w.Close()
	info, err := w.Stat()
	if err != nil {
		return err
	}
	if _, err := w.Write(lines); err != nil {
		return errors.Join(err, w.Truncate(info.Size()))
	}
	return w.Close()
}

func (f *file) rotate() error {
	for n := kept; n > 0; n-- {
		older := fmt.Sprintf("%s.%d", f.path, n)
		newer := f.path
		if n > 1 {
			newer = fmt.Sprintf("%s.%d", f.path, n-1)
		}
		if err := os.Rename(newer, older); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}
