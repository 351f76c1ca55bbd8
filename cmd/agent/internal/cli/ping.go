package cli

import (
	"fmt"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"

	"warren/cmd/internal/cmdline"
	pb "warren/proto/warrenv1"
)

type pingJSON struct {
	Sequence uint32   `json:"sequence"`
	Answered bool     `json:"answered"`
	Address  string   `json:"address"`
	RTT      float64  `json:"rtt_ms"`
	Path     pathJSON `json:"path"`
}

func (a *app) ping() *cobra.Command {
	var count uint32
	var interval, timeout time.Duration
	var goOn bool
	cmd := &cobra.Command{
		Use:   "ping PEER",
		Short: "Ping a peer through the tunnel until the path is direct",
		Long: `Sends ICMP echo requests through the tunnel to a peer, given by name, address or node key, and tells for each answer
how it came: directly or via which relay. It stops when the path is direct, or after --count. Its exit status is 0 if any
request was answered.`,
		Args: cmdline.Args(cobra.ExactArgs(1)),
	}
	f := cmd.Flags()
	f.Uint32VarP(&count, "count", "c", 10, "stop after this `number` of requests; 0 for never")
	f.DurationVarP(&interval, "interval", "i", time.Second, "`time` between requests, 10ms or more")
	f.DurationVarP(&timeout, "timeout", "t", 2*time.Second, "`time` to wait for an answer")
	f.BoolVar(&goOn, "go-on", false, "go on when the path is direct")
	cmd.RunE = func(cmd *cobra.Command, given []string) error {
		if interval < 10*time.Millisecond || timeout < time.Millisecond {
			return cmdline.Usagef("ping: --interval is at least 10ms and --timeout at least 1ms")
		}
		stream, err := a.client().Ping(cmd.Context(), connect.NewRequest(&pb.PingRequest{
			Peer: given[0], Count: count, GoOn: goOn, Interval: durationpb.New(interval), Timeout: durationpb.New(timeout),
		}))
		if err != nil {
			return err
		}
		defer stream.Close()
		sent, answered := 0, 0
		for stream.Receive() {
			sent++
			if stream.Msg().GetAnswered() {
				answered++
			}
			if err := a.printPing(given[0], stream.Msg()); err != nil {
				return err
			}
		}
		if err := stream.Err(); err != nil {
			return err
		}
		if answered == 0 {
			return fmt.Errorf("no answer from %s to %d requests", given[0], sent)
		}
		return nil
	}
	return cmd
}

func (a *app) printPing(peer string, m *pb.PingResponse) error {
	if a.json {
		return a.printJSON(pingJSON{m.GetSequence(), m.GetAnswered(), m.GetAddress(), m.GetRttMs(), pathView(m.GetPath())})
	}
	if !m.GetAnswered() {
		_, err := fmt.Fprintf(a.out, "no answer from %s (%s), request %d, path %s\n", peer, m.GetAddress(), m.GetSequence(), pathText(m.GetPath()))
		return err
	}
	_, err := fmt.Fprintf(a.out, "answer from %s (%s) in %.2f ms via %s\n", peer, m.GetAddress(), m.GetRttMs(), pathText(m.GetPath()))
	return err
}
