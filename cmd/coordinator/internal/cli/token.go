package cli

import (
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"warren/cmd/internal/cmdline"
	pb "warren/proto/warrenv1"
)

// tokenJSON is what --json prints of a token; its names are an interface that stays stable.
type tokenJSON struct {
	ID        string     `json:"id"`
	Token     string     `json:"token,omitempty"`
	CreatedAt *time.Time `json:"created_at"`
	ExpiresAt *time.Time `json:"expires_at"`
	Reusable  bool       `json:"reusable"`
	Uses      uint32     `json:"uses"`
	User      string     `json:"user"`
	Tags      []string   `json:"tags"`
	Ephemeral bool       `json:"ephemeral"`
	Revoked   bool       `json:"revoked"`
	Relay     bool       `json:"relay"`
	Usable    bool       `json:"usable"`
}

func moment(t *timestamppb.Timestamp) *time.Time {
	if t == nil {
		return nil
	}
	at := t.AsTime()
	return &at
}

func tokenView(t *pb.Token, text string) tokenJSON {
	usable := !t.GetRevoked() && time.Now().Before(t.GetExpiresAt().AsTime()) && (t.GetReusable() || t.GetUses() == 0)
	return tokenJSON{
		ID: t.GetId(), Token: text, CreatedAt: moment(t.GetCreatedAt()), ExpiresAt: moment(t.GetExpiresAt()), Reusable: t.GetReusable(),
		Uses: t.GetUses(), User: t.GetOwner(), Tags: append([]string{}, t.GetTags()...), Ephemeral: t.GetEphemeral(), Revoked: t.GetRevoked(),
		Relay: t.GetRelay(), Usable: usable,
	}
}

func (a *app) token() *cobra.Command {
	return cmdline.Group("token", "Make, list and revoke join tokens", a.tokenCreate(), a.tokenList(), a.tokenRevoke())
}

func (a *app) tokenCreate() *cobra.Command {
	var req pb.CreateTokenRequest
	var life time.Duration
	cmd := &cobra.Command{
		Use:   "create",
		Short: "Make a join token, for one device unless --reusable",
		Long: `Makes a join token and prints it. It is shown this once: the coordinator keeps no more than a hash. A token admits one device
unless --reusable is given.`,
		Args: cmdline.Args(cobra.NoArgs),
	}
	f := cmd.Flags()
	f.BoolVar(&req.Reusable, "reusable", false, "admit any number of devices")
	f.DurationVar(&life, "expires", 24*time.Hour, "how long it is good")
	f.StringVar(&req.Owner, "user", "", "`user` who owns the devices (default: you, unless they have tags)")
	f.StringSliceVar(&req.Tags, "tags", nil, "`tags` of the devices, which then belong to these and not to a user")
	f.BoolVar(&req.Ephemeral, "ephemeral", false, "the devices are removed once they have been away for a while")
	f.BoolVar(&req.Relay, "relay", false, "admit a relay instead of a device")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if life <= 0 {
			return cmdline.Usagef("token create: --expires %s is not in the future", life)
		}
		req.ExpiresIn = durationpb.New(life)
		r, err := a.client().CreateToken(cmd.Context(), connect.NewRequest(&req))
		if err != nil {
			return err
		}
		if a.json {
			return a.printJSON(tokenView(r.Msg.GetToken(), r.Msg.GetText()))
		}
		if owner := r.Msg.GetToken().GetOwner(); owner != "" && req.Owner == "" {
			fmt.Fprintf(a.err, "its devices will belong to %s; --user names another\n", owner)
		}
		_, err = fmt.Fprintln(a.out, r.Msg.GetText())
		return err
	}
	return cmd
}

func (a *app) tokenList() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List the join tokens",
		Args:  cmdline.Args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			r, err := a.client().ListTokens(cmd.Context(), connect.NewRequest(&pb.ListTokensRequest{}))
			if err != nil {
				return err
			}
			views := []tokenJSON{}
			for _, t := range r.Msg.GetTokens() {
				views = append(views, tokenView(t, ""))
			}
			if a.json {
				return a.printJSON(views)
			}
			w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
			fmt.Fprintln(w, "ID\tKIND\tSTATE\tUSES\tEXPIRES\tUSER\tTAGS")
			for _, t := range views {
				fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%s\t%s\t%s\n", t.ID, t.kind(), t.condition(), t.Uses,
					t.ExpiresAt.Local().Format(time.DateTime), dash(t.User), dash(strings.Join(t.Tags, ",")))
			}
			return w.Flush()
		},
	}
}

func (t tokenJSON) kind() string {
	kind := "one-off"
	if t.Reusable {
		kind = "reusable"
	}
	switch {
	case t.Relay:
		return kind + ", relay"
	case t.Ephemeral:
		return kind + ", ephemeral"
	}
	return kind
}

func (t tokenJSON) condition() string {
	switch {
	case t.Revoked:
		return "revoked"
	case !time.Now().Before(*t.ExpiresAt):
		return "expired"
	case !t.Usable:
		return "used up"
	}
	return "good"
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func (a *app) tokenRevoke() *cobra.Command {
	return &cobra.Command{
		Use:   "revoke ID",
		Short: "Make a join token useless; devices that used it stay",
		Args:  cmdline.Args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, given []string) error {
			r, err := a.client().RevokeToken(cmd.Context(), connect.NewRequest(&pb.RevokeTokenRequest{Id: given[0]}))
			if err != nil {
				return err
			}
			if a.json {
				return a.printJSON(tokenView(r.Msg.GetToken(), ""))
			}
			return nil
		},
	}
}
