package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"warren/cmd/internal/cmdline"
	"warren/coord/backup"
	"warren/coord/inspect"
	"warren/internal/buildversion"
)

func (a *app) backup() *cobra.Command {
	return &cobra.Command{
		Use:   "backup FILE|-",
		Short: "Write keys and database into one file",
		Long: `Writes what makes this coordinator what it is, keys and database, into one file, or to standard output; also while it runs. An earlier backup
of the same name is replaced in one step. Who has the file owns the network: it holds the authority's key. Configuration and certificate files are
not in it.`,
		Args: cmdline.Args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, given []string) error {
			m, err := a.writeBackup(cmd.Context(), given[0])
			if err != nil {
				return err
			}
			told := a.out
			if given[0] == "-" {
				told = a.err
			} else if a.json {
				return a.printJSON(m)
			}
			_, err = fmt.Fprintf(told, "backup of network %s, schema %d, generation %d\n", m.Network, m.Schema, m.Generation)
			return err
		},
	}
}

func (a *app) writeBackup(ctx context.Context, to string) (backup.Manifest, error) {
	from := backup.Source{StateDir: a.state, Version: buildversion.Get(), Now: time.Now()}
	if to != "-" {
		return backup.CreateFile(ctx, from, to)
	}
	if terminal(a.out) {
		return backup.Manifest{}, cmdline.Usagef("backup -: standard output is a terminal; send it into a file or a pipe")
	}
	return backup.Create(ctx, from, a.out)
}

// restoredJSON is the form of a restore for scripts.
type restoredJSON struct {
	Network    string    `json:"network"`
	Schema     int       `json:"schema"`
	Generation uint64    `json:"generation"`
	Of         time.Time `json:"of"`
	Devices    int       `json:"devices"`
	Revoked    int       `json:"tokens_revoked"`
	Replaced   bool      `json:"replaced"`
	Again      []string  `json:"removed_since"`
	Lost       []string  `json:"enrolled_since"`
}

func (a *app) restore() *cobra.Command {
	var replace bool
	cmd := &cobra.Command{
		Use:   "restore FILE|-",
		Short: "Put a backup into the state directory",
		Long: `Checks a backup and puts it into the state directory; no coordinator may be running on it. All records get a new generation, so that devices
follow that have seen newer ones. Join tokens for one device that were open are revoked, since nobody knows whether they were used. A database
alone, such as warren.db.before-N of before an upgrade, is put beside the keys that are there.`,
		Args: cmdline.Args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, given []string) error {
			r, err := a.readBackup(cmd.Context(), given[0], replace)
			if err != nil {
				return err
			}
			if a.json {
				return a.printJSON(restoredJSON{
					r.Manifest.Network, r.Manifest.Schema, r.Generation, r.Manifest.At, r.Devices, r.Revoked, r.Replaced,
					append([]string{}, r.Again...), append([]string{}, r.Lost...),
				})
			}
			return a.tellRestored(r)
		},
	}
	cmd.Flags().BoolVar(&replace, "replace", false, "replace the state that is in the directory; it is kept in its subdirectory replaced")
	return cmd
}

func (a *app) readBackup(ctx context.Context, from string, replace bool) (backup.Result, error) {
	var in io.Reader = os.Stdin
	if from != "-" {
		f, err := os.Open(from)
		if err != nil {
			return backup.Result{}, fmt.Errorf("backup: %w", err)
		}
		defer f.Close()
		in = f
	}
	r, err := backup.Restore(ctx, in, backup.Target{StateDir: a.state, Replace: replace, Now: time.Now})
	if errors.Is(err, backup.ErrNoBackup) {
		err = fmt.Errorf("%s: %w", from, err)
	}
	return r, err
}

// tellRestored says what is there now, and what a person has to do about it.
func (a *app) tellRestored(r backup.Result) error {
	of := ""
	if !r.Manifest.At.IsZero() {
		of = " as of " + r.Manifest.At.Local().Format(time.DateTime)
	}
	fmt.Fprintf(a.out, "restored network %s%s: %d devices, generation %d\n", r.Manifest.Network, of, r.Devices, r.Generation)
	if r.Replaced {
		fmt.Fprintf(a.out, "what was there before is in %s/replaced\n", a.state)
	}
	if r.Revoked > 0 {
		fmt.Fprintf(a.out, "open join tokens for one device were revoked: %d; make new ones\n", r.Revoked)
	}
	if len(r.Again) > 0 {
		fmt.Fprintf(a.out, "removed since the backup, and members again; remove them once more: %s\n", strings.Join(r.Again, ", "))
	}
	if len(r.Lost) > 0 {
		fmt.Fprintf(a.out, "enrolled since the backup, and not known any more; let them join by new tokens: %s\n", strings.Join(r.Lost, ", "))
	}
	if !r.Replaced {
		fmt.Fprintln(a.out, "devices removed since the backup are members again: remove them once more; devices enrolled since join by new tokens")
	}
	_, err := fmt.Fprintln(a.out, "start the coordinator now; all devices follow when they reach it")
	return err
}

// errUnsound says that check has told what is wrong.
var errUnsound = errors.New("something is wrong, see above")

func (a *app) check() *cobra.Command {
	return &cobra.Command{
		Use:   "check",
		Short: "Check keys, database, policy, permissions and free space",
		Long:  "Checks the state directory and changes nothing; a coordinator may be running on it. Ends with status 1 if something is wrong.",
		Args:  cmdline.Args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			r, err := inspect.Directory(cmd.Context(), inspect.Options{Dir: a.state, Now: time.Now()})
			if err != nil {
				return err
			}
			if a.json {
				err = a.printJSON(map[string]any{"ok": r.OK(), "state": a.state, "checks": r.Findings})
			} else {
				err = a.printFindings(r.Findings)
			}
			if err == nil && !r.OK() {
				err = errUnsound
			}
			return err
		},
	}
}

func (a *app) printFindings(all []inspect.Finding) error {
	w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
	for _, f := range all {
		fmt.Fprintf(w, "%s\t%s\t%s\n", f.Check, map[bool]string{true: "ok", false: "WRONG"}[f.OK], strings.ReplaceAll(f.Detail, "\n", "; "))
	}
	return w.Flush()
}
