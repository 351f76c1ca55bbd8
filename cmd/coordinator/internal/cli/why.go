package cli

import (
	"fmt"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	"warren/cmd/internal/cmdline"
	pb "warren/proto/warrenv1"
)

// answerJSON is what --json prints of an answer; its names are an interface that stays stable.
type answerJSON struct {
	Source      string     `json:"source"`
	Destination string     `json:"destination"`
	Allowed     bool       `json:"allowed"`
	Grant       string     `json:"grant,omitempty"`
	Line        uint32     `json:"line,omitempty"`
	Nearest     []missJSON `json:"nearest"`
}

type missJSON struct {
	Grant   string   `json:"grant"`
	Line    uint32   `json:"line"`
	Reasons []string `json:"reasons"`
	Text    string   `json:"text"`
}

func answerView(m *pb.AccessAnswer) answerJSON {
	v := answerJSON{m.GetSource(), m.GetDestination(), m.GetAllowed(), m.GetGrant(), m.GetLine(), []missJSON{}}
	for _, n := range m.GetNearest() {
		v.Nearest = append(v.Nearest, missJSON{n.GetGrant(), n.GetLine(), append([]string{}, n.GetReasons()...), n.GetText()})
	}
	return v
}

func (a *app) why() *cobra.Command {
	return &cobra.Command{
		Use:   "why SRC DST FLOW",
		Short: "Tell which grant lets SRC reach DST, or what of which grant is missing",
		Long: `Tells which grant of the policy in force lets SRC reach DST, or which part of which grant is missing. SRC and DST are devices by name, address or
key, users, or addresses behind a gateway; FLOW is such as tcp/443, udp/53 or icmp.`,
		Example: "  warren-coordinator why laptop office-server tcp/443",
		Args:    cmdline.Args(cobra.ExactArgs(3)),
		RunE: func(cmd *cobra.Command, given []string) error {
			r, err := a.client().ExplainAccess(cmd.Context(), connect.NewRequest(&pb.ExplainAccessRequest{
				Source: given[0], Destination: given[1], Flow: given[2],
			}))
			if err != nil {
				return err
			}
			views := []answerJSON{}
			for _, m := range r.Msg.GetAnswers() {
				views = append(views, answerView(m))
				if !a.json {
					fmt.Fprint(a.out, m.GetText())
				}
			}
			if a.json {
				return a.printJSON(views)
			}
			if n := r.Msg.GetMore(); n > 0 {
				fmt.Fprintf(a.out, "and %d more pairs of devices\n", n)
			}
			return nil
		},
	}
}
