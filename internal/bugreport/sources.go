package bugreport

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// Command is what a program says. One that is not there says so.
func Command(name string, program string, args ...string) Source {
	return Source{Name: name, Collect: func(ctx context.Context) ([]byte, error) { return run(ctx, program, args...) }}
}

// Commands is what programs say, one after the other, each below its command line.
func Commands(name string, lines ...string) Source {
	return Source{Name: name, Collect: func(ctx context.Context) (all []byte, _ error) {
		for _, line := range lines {
			words := strings.Fields(line)
			out, err := run(ctx, words[0], words[1:]...)
			all = fmt.Appendf(all, "# %s\n%s", line, out)
			if err != nil {
				all = fmt.Appendf(all, "could not be had: %v\n", err)
			}
			all = append(all, '\n')
		}
		return all, nil
	}}
}

func run(ctx context.Context, program string, args ...string) ([]byte, error) {
	path, err := exec.LookPath(program)
	if err != nil {
		if path, err = exec.LookPath(filepath.Join("/usr/sbin", program)); err != nil { // a user's PATH may lack it
			return nil, err
		}
	}
	out := &bounded{most: maxRaw}
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Stdout, cmd.Stderr, cmd.WaitDelay = out, out, time.Second
	err = cmd.Run()
	return out.Bytes(), err
}

// bounded keeps the beginning of what is written to it.
type bounded struct {
	bytes.Buffer
	most int
}

func (b *bounded) Write(p []byte) (int, error) {
	b.Buffer.Write(p[:min(len(p), b.most-b.Len())])
	return len(p), nil
}

// File is the beginning of a file, or with newest its end. One that is not there is an empty source with a note.
func File(name, path string, newest bool) Source {
	return Source{Name: name, Newest: newest, Collect: func(context.Context) ([]byte, error) { return readFile(path, newest) }}
}

func readFile(path string, newest bool) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() && info.Size() == 0 && !strings.HasPrefix(path, "/proc/") {
		return nil, fmt.Errorf("%s is no file", path)
	}
	if newest && info.Size() > maxRaw {
		if _, err := f.Seek(-maxRaw, io.SeekEnd); err != nil {
			return nil, err
		}
		b, err := io.ReadAll(io.LimitReader(f, maxRaw))
		_, whole, _ := bytes.Cut(b, []byte("\n"))
		return whole, err
	}
	return io.ReadAll(io.LimitReader(f, maxRaw))
}

// Directory lists the files of a directory, with mode, size and time, and nothing of what is in them.
func Directory(name, path string) Source {
	return Source{Name: name, Collect: func(context.Context) ([]byte, error) {
		var out []byte
		var list func(dir, prefix string, depth int) error
		list = func(dir, prefix string, depth int) error {
			entries, err := os.ReadDir(dir)
			if err != nil {
				return err
			}
			for _, e := range entries[:min(len(entries), 1000)] {
				info, err := e.Info()
				if errors.Is(err, fs.ErrNotExist) {
					continue
				} else if err != nil {
					return err
				}
				out = fmt.Appendf(out, "%s %10d %s %s%s\n", info.Mode(), info.Size(), info.ModTime().UTC().Format(time.RFC3339), prefix, e.Name())
				if e.IsDir() && depth > 0 {
					if err := list(filepath.Join(dir, e.Name()), prefix+e.Name()+"/", depth-1); err != nil {
						return err
					}
				}
			}
			return nil
		}
		info, err := os.Stat(path)
		if err != nil {
			return nil, err
		}
		out = fmt.Appendf(out, "%s %10d %s %s\n", info.Mode(), info.Size(), info.ModTime().UTC().Format(time.RFC3339), path)
		return out, list(path, "", 1)
	}}
}

// Text is a source that is there already.
func Text(name, text string) Source {
	return Source{Name: name, Collect: func(context.Context) ([]byte, error) { return []byte(text), nil }}
}

// LinuxHost are facts about kernel, system and units of systemd.
func LinuxHost(units ...string) []Source {
	of := strings.Join(units, " ")
	return []Source{
		Commands("system.txt", "uname -a", "uptime", "timedatectl", "systemd-detect-virt", "df -h", "df -i", "id"),
		File("os-release.txt", "/etc/os-release", false),
		File("memory.txt", "/proc/meminfo", false),
		File("mounts.txt", "/proc/self/mountinfo", false),
		Commands("units.txt", "systemctl show --no-pager --property=Id,LoadState,ActiveState,SubState,UnitFileState,Result,NRestarts,ExecMainStatus,MemoryCurrent,ActiveEnterTimestamp "+of,
			"systemctl cat --no-pager "+of, "systemctl list-units --no-pager --failed"),
	}
}

// Once has one question answered for several files: ask is called when the first of them is asked for, and adds them by name.
func Once(ask func(ctx context.Context, add func(name string, content []byte)) error) func(ctx context.Context, name string) ([]byte, error) {
	var once sync.Once
	var failed error
	files := map[string][]byte{}
	return func(ctx context.Context, name string) ([]byte, error) {
		once.Do(func() {
			failed = ask(ctx, func(name string, content []byte) { files[name] = content })
		})
		b, ok := files[name]
		if !ok && failed == nil {
			return nil, errors.New("it was not given")
		}
		if ok {
			return b, nil
		}
		return nil, failed
	}
}
