// Package cmdline is what the command lines of both programs share: exit statuses, the errors that count as wrong usage, and the commands that differ by a
// few words only (LogLevel, BugReport). Args, Group and FlagError have mistakes told alike.
package cmdline

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
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

// FlagError is what is done about flags that make no sense: it tells what is allowed, in words.
func FlagError(_ *cobra.Command, err error) error {
	var invalid *pflag.InvalidValueError
	if errors.As(err, &invalid) {
		f := invalid.GetFlag()
		if want := wanted[f.Value.Type()]; want != "" {
			return Usagef("--%s %.60q: want %s", f.Name, invalid.GetValue(), want)
		}
	}
	return UsageError{err}
}

// wanted are the words for types of flags.
var wanted = map[string]string{
	"bool": "true or false", "int": "a whole number", "uint32": "a whole number from 0 on", "uint64": "a whole number from 0 on",
	"uint16": "a whole number, from 0 to 65535", "duration": "a time, such as 90s or 24h",
}

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

// CheckListen finds what is no address to listen at.
func CheckListen(a string) error {
	_, port, err := net.SplitHostPort(a)
	if err != nil {
		return fmt.Errorf("%.200q is not of the form [HOST]:PORT", a)
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return fmt.Errorf("%.200q: want a port from 0 to 65535", a)
	}
	return nil
}

// PrintJSON is what --json prints.
func PrintJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(v)
}
