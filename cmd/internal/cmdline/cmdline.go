// Package cmdline is what the command lines of both programs share: exit statuses, the errors that count as wrong usage, and the commands that differ by a
// few words only (LogLevel, BugReport). Args and Group make commands whose mistakes are told alike.
package cmdline

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
)

// Exit statuses; they are an interface that stays stable.
const (
	ExitDone   = 0
	ExitFailed = 1
	ExitUsage  = 2
)

// UsageError is a mistake in how a command was called.
type UsageError struct{ Err error }

func (u UsageError) Error() string { return u.Err.Error() }
func (u UsageError) Unwrap() error { return u.Err }

// Usagef makes one.
func Usagef(format string, args ...any) error { return UsageError{fmt.Errorf(format, args...)} }

// Args wraps a validator so that its errors count as wrong usage.
func Args(v cobra.PositionalArgs) cobra.PositionalArgs {
	return func(cmd *cobra.Command, given []string) error {
		if err := v(cmd, given); err != nil {
			return UsageError{fmt.Errorf("%s: %w", strings.TrimPrefix(cmd.CommandPath(), cmd.Root().Name()+" "), err)}
		}
		return nil
	}
}

// Group makes a command that only holds others.
func Group(use, short string, commands ...*cobra.Command) *cobra.Command {
	g := &cobra.Command{
		Use: use, Short: short, Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, given []string) error {
			if len(given) > 0 {
				return Usagef("%s: unknown command %q", cmd.CommandPath(), given[0])
			}
			return cmd.Help()
		},
	}
	g.AddCommand(commands...)
	return g
}

// PrintJSON is what --json prints.
func PrintJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(v)
}
