package runlog

import (
	"context"
	"io"
	"log/slog"
)

// priority is syslog's for a level, as the journal wants it before a line.
func priority(l slog.Level) string {
	switch {
	case l < slog.LevelInfo:
		return "<7>"
	case l < slog.LevelWarn:
		return "<6>"
	case l < slog.LevelError:
		return "<4>"
	}
	return "<3>"
}

// prefixed begins each write with a prefix. A handler of slog writes a whole line at once, and quotes line ends in it.
type prefixed struct {
	w      io.Writer
	prefix string
}

func (p prefixed) Write(line []byte) (int, error) {
	if _, err := p.w.Write(append([]byte(p.prefix), line...)); err != nil {
		return 0, err
	}
	return len(line), nil
}

// priorities is a slog.Handler that has another one for each priority.
type priorities struct{ debug, info, warn, error slog.Handler }

func newPriorities(w io.Writer, o *slog.HandlerOptions) priorities {
	o = &slog.HandlerOptions{Level: o.Level, ReplaceAttr: timeless}
	of := func(l slog.Level) slog.Handler { return slog.NewTextHandler(prefixed{w, priority(l)}, o) }
	return priorities{of(slog.LevelDebug), of(slog.LevelInfo), of(slog.LevelWarn), of(slog.LevelError)}
}

func (p priorities) at(l slog.Level) slog.Handler {
	switch {
	case l < slog.LevelInfo:
		return p.debug
	case l < slog.LevelWarn:
		return p.info
	case l < slog.LevelError:
		return p.warn
	}
	return p.error
}

func (p priorities) each(f func(slog.Handler) slog.Handler) priorities {
	return priorities{f(p.debug), f(p.info), f(p.warn), f(p.error)}
}

// Enabled implements slog.Handler.
func (p priorities) Enabled(ctx context.Context, l slog.Level) bool { return p.at(l).Enabled(ctx, l) }

// Handle implements slog.Handler.
func (p priorities) Handle(ctx context.Context, r slog.Record) error {
	return p.at(r.Level).Handle(ctx, r)
}

// WithAttrs implements slog.Handler.
func (p priorities) WithAttrs(attrs []slog.Attr) slog.Handler {
	return p.each(func(h slog.Handler) slog.Handler { return h.WithAttrs(attrs) })
}

// WithGroup implements slog.Handler.
func (p priorities) WithGroup(name string) slog.Handler {
	return p.each(func(h slog.Handler) slog.Handler { return h.WithGroup(name) })
}
