package cli

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"
	"golang.org/x/term"
	"google.golang.org/protobuf/proto"

	"warren/cmd/agent/internal/local"
	"warren/cmd/internal/cmdline"
	"warren/proto/token"
	pb "warren/proto/warrenv1"
)

// tokenVariable may hold the join token, so that it need not show in a process list.
const tokenVariable = "WARREN_TOKEN"

func (a *app) up() *cobra.Command {
	var tokenFile string
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "up [TOKEN | -]",
		Short: "Join a network, or bring the tunnel up again",
		Long: `Joins a network by a join token, which "warren-coordinator token create" prints, and brings the tunnel up. Without a token
it brings up the tunnel of the network joined before. With - it reads the token from standard input. Without either it
looks into the file named by --token-file and the variable ` + tokenVariable + `.

Settings that are not named keep their value, as with "warren set", also after "warren down" and a restart; an empty value takes a list back.

If no daemon runs, the installed service is started, or else a daemon of its own in the background.`,
		Args: cmdline.Args(cobra.MaximumNArgs(1)),
	}
	cmd.Flags().StringVar(&tokenFile, "token-file", "", "read the join token from `file`")
	cmd.Flags().DurationVar(&timeout, "timeout", time.Minute, "give up after this `time`")
	settings := settingsFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, given []string) error {
		if err := checkTUN(a.tun); err != nil {
			return err
		}
		text, err := a.readToken(given, tokenFile)
		if err != nil {
			return err
		}
		chosen, err := settings(cmd)
		if err != nil {
			return err
		}
		late := fmt.Errorf("not connected after %s; \"warren status\" tells what is missing", timeout)
		ctx, cancel := context.WithTimeoutCause(cmd.Context(), timeout, late)
		defer cancel()
		if err := a.ensureDaemon(ctx); err != nil {
			return err
		}
		err = a.runUp(ctx, &pb.UpRequest{Token: text, Settings: chosen})
		if errors.Is(context.Cause(ctx), late) && err != nil || connect.CodeOf(err) == connect.CodeDeadlineExceeded {
			return late // the daemon may have noticed first
		}
		return err
	}
	return cmd
}

// readToken finds the token and refuses a malformed one before anything is started or changed.
func (a *app) readToken(given []string, file string) (string, error) {
	var text, from string
	switch {
	case len(given) == 1 && file != "":
		return "", cmdline.Usagef("up: a token and --token-file; give one of them")
	case len(given) == 1 && given[0] == "-":
		b, err := io.ReadAll(io.LimitReader(a.in, 1<<16))
		if err != nil {
			return "", fmt.Errorf("standard input: %w", err)
		}
		text, from = string(b), "standard input"
	case len(given) == 1:
		text, from = given[0], "the token given"
	case file != "":
		b, err := os.ReadFile(file)
		if err != nil {
			return "", fmt.Errorf("token file: %w", err)
		}
		text, from = string(b), file
	case os.Getenv(tokenVariable) != "":
		text, from = os.Getenv(tokenVariable), tokenVariable
	default:
		return "", nil
	}
	if _, err := token.Parse(text); err != nil {
		return "", fmt.Errorf("%s: %w", from, err)
	}
	return strings.TrimSpace(text), nil
}

// runUp follows the daemon until it is connected. Progress goes to standard error, the outcome to standard output.
func (a *app) runUp(ctx context.Context, req *pb.UpRequest) error {
	stream, err := a.client().Up(ctx, connect.NewRequest(req))
	if err != nil {
		return err
	}
	defer stream.Close()
	live := a.liveLine()
	for stream.Receive() {
		m := stream.Msg()
		if m.GetWarning() != "" {
			live.clear()
			fmt.Fprintln(a.err, "warning:", m.GetWarning())
		}
		if m.GetProgress() != "" {
			live.show(m.GetProgress())
		}
		if m.GetDone() {
			live.clear()
			return a.printUp(m.GetStatus())
		}
	}
	live.clear()
	return cmp.Or(stream.Err(), errors.New("the daemon ended before it was connected; see its log"))
}

func (a *app) printUp(s *pb.StatusResponse) error {
	if a.json {
		return a.printJSON(statusView(s))
	}
	fmt.Fprintf(a.out, "%s is up: %s\n", s.GetSelf().GetName(), strings.Join(s.GetSelf().GetAddresses(), ", "))
	for _, note := range s.GetHostChanges() {
		fmt.Fprintln(a.out, "on this host:", note)
	}
	return waiting(a.out, s)
}

func (a *app) set() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "set",
		Short: "Change settings; those not named keep their value",
		Args:  cmdline.Args(cobra.NoArgs),
	}
	settings := settingsFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		s, err := settings(cmd)
		if err != nil {
			return err
		}
		if proto.Equal(s, new(pb.Settings)) {
			return cmdline.Usagef("set: nothing to set; name what to set, such as --name; see --help")
		}
		r, err := a.client().Set(cmd.Context(), connect.NewRequest(&pb.SetRequest{Settings: s}))
		if err != nil {
			return err
		}
		if a.json {
			return a.printJSON(statusView(r.Msg.GetStatus()))
		}
		return nil
	}
	return cmd
}

func (a *app) down() *cobra.Command {
	var yes bool
	cmd := &cobra.Command{
		Use:   "down",
		Short: "Take the tunnel down; this device stays a member",
		Long: `Takes the tunnel down; this device stays a member. While the kill switch is on it asks first, since it has to be lifted: without the
tunnel nothing would leave this host.`,
		Args: cmdline.Args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := a.client().Status(cmd.Context(), connect.NewRequest(&pb.StatusRequest{}))
			if err != nil {
				return err
			}
			lift := s.Msg.GetKillSwitch()
			if lift && !yes {
				if err := a.ask("The kill switch is on. Lift it, and let traffic leave this host outside the tunnel?"); err != nil {
					return err
				}
			}
			_, err = a.client().Down(cmd.Context(), connect.NewRequest(&pb.DownRequest{LiftKillSwitch: lift}))
			return err
		},
	}
	cmd.Flags().BoolVar(&yes, "yes", false, "lift the kill switch without asking")
	return cmd
}

// ask puts a question to a person; anything but yes is an error, also where there is nobody to ask.
func (a *app) ask(question string) error {
	f, ok := a.in.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return errors.New("the kill switch is on and would be lifted; nothing was changed; say --yes to do it without a question")
	}
	fmt.Fprintf(a.err, "%s [y/N] ", question)
	answer, err := bufio.NewReader(io.LimitReader(f, 64)).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("standard input: %w", err)
	}
	if answer = strings.ToLower(strings.TrimSpace(answer)); answer != "y" && answer != "yes" {
		return errors.New("nothing was changed")
	}
	return nil
}

func (a *app) leave() *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:   "leave",
		Short: "Leave the network and forget this device's keys",
		Args:  cmdline.Args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			r, err := a.client().Leave(cmd.Context(), connect.NewRequest(&pb.LeaveRequest{Force: force}))
			if err != nil {
				return err
			}
			if w := r.Msg.GetWarning(); w != "" {
				fmt.Fprintln(a.err, "warning:", w)
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&force, "force", false, "forget the keys even if the coordinator cannot be told")
	return cmd
}

// liveLine shows progress: rewritten in place on a terminal, one line each elsewhere.
type liveLine struct {
	w        io.Writer
	terminal bool
}

func (a *app) liveLine() *liveLine {
	f, ok := a.err.(*os.File)
	return &liveLine{a.err, ok && term.IsTerminal(int(f.Fd()))}
}

const eraseLine = "\r\x1b[K"

func (l *liveLine) show(text string) {
	if l.terminal {
		fmt.Fprint(l.w, eraseLine, text, " …")
		return
	}
	fmt.Fprintln(l.w, text)
}

func (l *liveLine) clear() {
	if l.terminal {
		fmt.Fprint(l.w, eraseLine)
	}
}

// noDaemon reports whether nobody answers on the socket.
func (a *app) noDaemon(ctx context.Context) (bool, error) {
	_, err := a.client().Status(ctx, connect.NewRequest(&pb.StatusRequest{}))
	if err == nil {
		return false, nil
	}
	if explained := local.Explain(a.socket, err); errors.Is(explained, local.ErrNoDaemon) {
		return true, nil
	}
	return false, err
}
