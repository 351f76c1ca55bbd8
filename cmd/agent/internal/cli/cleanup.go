package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/spf13/cobra"

	"warren/cmd/agent/internal/state"
	"warren/cmd/internal/cmdline"
	"warren/tunnel/router"
)

func (a *app) cleanUp() *cobra.Command {
	var lift bool
	cmd := &cobra.Command{
		Use:   "cleanup",
		Short: "Take back what a daemon that was killed has left on this host",
		Long: `Takes back what a daemon that was killed has left on this host: routing rules, firewall tables and kernel settings. The next daemon does the same when
it starts; this is for hosts on which none will. The kill switch stays, unless --kill-switch is given. While a daemon runs it does nothing.`,
		Args: cmdline.Args(cobra.NoArgs),
		RunE: func(*cobra.Command, []string) error { return a.runCleanUp(lift) },
	}
	cmd.Flags().BoolVar(&lift, "kill-switch", false, "lift the kill switch, too")
	return cmd
}

func (a *app) runCleanUp(lift bool) error {
	done := []string{}
	if _, err := os.Stat(a.state); err == nil {
		dir, err := state.Open(a.state)
		if err != nil {
			return fmt.Errorf("%w; \"warren down\" has a running daemon take everything back", err)
		}
		defer dir.Close()
		if lift {
			if err := forgetKillSwitch(dir); err != nil {
				return err
			}
			if err := os.Remove(state.KillSwitchFile(a.state)); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	notes, err := router.CleanUp(state.JournalFile(a.state))
	done = append(done, notes...)
	if lift {
		on, onErr := router.KillSwitchOn()
		err = errors.Join(err, onErr, router.LiftKillSwitch())
		if on {
			done = append(done, "the kill switch is lifted")
		}
	}
	return errors.Join(a.printDone(done), err) // what was done is worth knowing all the more if something could not be
}

func (a *app) printDone(done []string) error {
	if a.json {
		return a.printJSON(map[string][]string{"done": done})
	}
	for _, n := range done {
		fmt.Fprintln(a.out, n)
	}
	return nil
}

// forgetKillSwitch has the next daemon not set it again.
func forgetKillSwitch(dir *state.Dir) error {
	s, err := dir.Load()
	if err != nil || !s.Routing.KillSwitch {
		return err
	}
	s.Routing.KillSwitch = false
	return dir.Save(s)
}
