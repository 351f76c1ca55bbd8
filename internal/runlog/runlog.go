// Package runlog is the log of a program that runs for long: Open gives a logger whose level may change at any time, which speaks the journal's
// language where the journal listens, and which remembers its newest lines for whoever asks later.
package runlog

import (
	"fmt"
	"io"
	"log/slog"
	"strings"
)

// Log is a program's log. Whoever needs only a logger is given Logger.
type Log struct {
	*slog.Logger
	// Level is that of the least lines which are written. It may be set from any goroutine.
	Level *slog.LevelVar
	// Recent has the newest lines.
	Recent *Recent
}

// Open gives a log that writes to w, in slog's text form. Where w is connected to the systemd journal, lines have the priority of their level
// (sd-daemon(3)) and no time, which the journal notes itself.
func Open(w io.Writer, level slog.Level) *Log {
	return open(w, level, connectedToJournal(w))
}

func open(w io.Writer, level slog.Level, journal bool) *Log {
	l := &Log{Level: new(slog.LevelVar), Recent: new(Recent)}
	l.Level.Set(level)
	o := &slog.HandlerOptions{Level: l.Level}
	if !journal {
		l.Logger = slog.New(slog.NewTextHandler(io.MultiWriter(l.Recent, w), o))
		return l
	}
	l.Logger = slog.New(slog.NewMultiHandler(newPriorities(w, o), slog.NewTextHandler(l.Recent, o)))
	return l
}

// Fatal writes, for a person, why the program ends. To the journal it is an error, which a plain line would not be.
func Fatal(w io.Writer, format string, args ...any) {
	if connectedToJournal(w) {
		w = prefixed{w, priority(slog.LevelError)}
	}
	fmt.Fprintf(w, format, args...)
}

// Levels are the words of levels, the most talkative first.
func Levels() []string { return []string{"debug", "info", "warn", "error"} }

// ParseLevel reads one of Levels.
func ParseLevel(text string) (slog.Level, error) {
	switch text {
	case "debug":
		return slog.LevelDebug, nil
	case "info":
		return slog.LevelInfo, nil
	case "warn":
		return slog.LevelWarn, nil
	case "error":
		return slog.LevelError, nil
	}
	return 0, fmt.Errorf("%.40q is no log level; want %s", text, strings.Join(Levels(), ", "))
}

// LevelName is the word for a level.
func LevelName(l slog.Level) string {
	switch {
	case l < slog.LevelInfo:
		return "debug"
	case l < slog.LevelWarn:
		return "info"
	case l < slog.LevelError:
		return "warn"
	}
	return "error"
}

// Change sets v to the level that text names, and says so at either level. Empty text changes nothing. It gives the name of the level that holds then.
func Change(v *slog.LevelVar, log *slog.Logger, text string) (string, error) {
	if text == "" {
		return LevelName(v.Level()), nil
	}
	next, err := ParseLevel(text)
	if err != nil {
		return "", err
	}
	before := v.Level()
	if next != before {
		v.Set(min(next, before, slog.LevelInfo)) // that the log becomes silent must stand in it
		log.Info("log level changed", "from", LevelName(before), "to", text)
		v.Set(next)
	}
	return text, nil
}

// timeless takes the time out of a line.
func timeless(groups []string, a slog.Attr) slog.Attr {
	if len(groups) == 0 && a.Key == slog.TimeKey && a.Value.Kind() == slog.KindTime {
		return slog.Attr{}
	}
	return a
}
