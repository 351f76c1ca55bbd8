package cli

import (
	"math"
	"net/netip"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"warren/proto/cidr"
	"warren/proto/record"
	pb "warren/proto/warrenv1"
)

// settingsGiven tells what was named of the settings, after a check of all that can be checked without the daemon.
type settingsGiven func(*cobra.Command) (*pb.Settings, error)

// settingValues are those of the flags; which of them count is for the command to say.
type settingValues struct {
	name, operator, exitNode           string
	advertise, site, probe, prefer     []string
	advertiseExit, accept, allow, kill bool
	priority                           uint32
}

// settingsFlags adds the flags for what up and set can change.
func settingsFlags(cmd *cobra.Command) settingsGiven {
	v := new(settingValues)
	v.register(cmd.Flags())
	return func(cmd *cobra.Command) (*pb.Settings, error) { return v.given(cmd.Flags()) }
}

func (v *settingValues) register(f *pflag.FlagSet) {
	f.StringVar(&v.name, "name", "", "`name` of this device in the network")
	f.StringVar(&v.operator, "operator", "", "`user`, or group:NAME, who may use warren without root; \"\" for nobody")
	f.StringSliceVar(&v.advertise, "advertise", nil,
		"carry this `CIDR` for others, such as 192.168.10.0/24, or 192.168.1.0/24=10.77.1.0/24 to show it under another; may be repeated, \"\" for none")
	f.StringSliceVar(&v.site, "site", nil, "carry this `CIDR`, with real addresses both ways, to link it with other sites; may be repeated, \"\" for none")
	f.BoolVar(&v.advertiseExit, "advertise-exit", false, "offer to be an exit node, through which others reach the internet")
	f.Uint32Var(&v.priority, "priority", record.DefaultPriority, "`rank` among gateways with the same CIDR, 1 to 255; the highest that works is used")
	f.StringSliceVar(&v.probe, "probe", nil, "`address` of a host on the LAN, by which the gateway finds out whether it reaches it; may be repeated, \"\" to learn some")
	f.BoolVar(&v.accept, "accept-routes", true, "use the CIDRs that other devices carry")
	f.StringSliceVar(&v.prefer, "prefer-lan", nil, "`CIDR` for which the network that this host is connected to wins; may be repeated, \"\" for none")
	f.StringVar(&v.exitNode, "exit-node", "", "send all traffic through this `device`, or auto to have one chosen; \"\" for none")
	f.BoolVar(&v.allow, "exit-allow-lan", false, "beside an exit node, reach the networks that this host is connected to")
	f.BoolVar(&v.kill, "kill-switch", false, "let nothing leave this host but through the tunnel, until it is set to false")
}

// given has those of the settings whose flags are set in f.
func (v *settingValues) given(f *pflag.FlagSet) (*pb.Settings, error) {
	s := new(pb.Settings)
	for flag, set := range map[string]func(){
		"name":           func() { s.Name = &v.name },
		"operator":       func() { s.Operator = &v.operator },
		"advertise":      func() { s.Advertise = &pb.TextList{Values: v.advertise} },
		"site":           func() { s.Site = &pb.TextList{Values: v.site} },
		"advertise-exit": func() { s.AdvertiseExit = &v.advertiseExit },
		"priority":       func() { s.Priority = &v.priority },
		"probe":          func() { s.Probe = &pb.TextList{Values: v.probe} },
		"accept-routes":  func() { s.AcceptRoutes = &v.accept },
		"prefer-lan":     func() { s.PreferLan = &pb.TextList{Values: v.prefer} },
		"exit-node":      func() { s.ExitNode = &v.exitNode },
		"exit-allow-lan": func() { s.ExitAllowLan = &v.allow },
		"kill-switch":    func() { s.KillSwitch = &v.kill },
	} {
		if f.Changed(flag) {
			set()
		}
	}
	return s, checkSettings(s)
}

// checkSettings refuses before anything is started or changed what no network makes right. The daemon checks again, with what it knows.
func checkSettings(s *pb.Settings) error {
	if err := checkRoutes(s); err != nil {
		return err
	}
	if p := s.GetPriority(); s.Priority != nil && (p < 1 || p > math.MaxUint8) {
		return flagf("priority", " %d: a priority is 1 to 255", p)
	}
	for _, t := range s.GetProbe().GetValues() {
		if a, err := netip.ParseAddr(t); err != nil || a.Zone() != "" {
			return flagf("probe", " %.60q: not an address; name a host by its address, such as 192.168.10.1", t)
		}
	}
	for _, t := range s.GetPreferLan().GetValues() {
		p, err := netip.ParsePrefix(t)
		if err != nil {
			return flagf("prefer-lan", " %.60q: not a CIDR, such as 192.168.10.0/24", t)
		}
		if p != p.Masked() {
			return flagf("prefer-lan", " %s: has bits set beyond its length; write %s", p, p.Masked())
		}
	}
	if s.GetAdvertiseExit() && s.GetExitNode() != "" {
		return flagf("exit-node", " and --advertise-exit: an exit node sends its own traffic out by itself; choose one of the two")
	}
	return nil
}

// checkRoutes tells which of the two lists is wrong, or that they do not go together.
func checkRoutes(s *pb.Settings) error {
	advertise, site := s.GetAdvertise().GetValues(), s.GetSite().GetValues()
	for _, t := range advertise {
		if _, err := cidr.ParseAdvertise(t); err != nil {
			return flagf("advertise", ": %w", err)
		}
	}
	for _, t := range site {
		if _, err := cidr.ParseSite(t); err != nil {
			return flagf("site", ": %w", err)
		}
	}
	_, err := cidr.Parse(advertise, site, s.GetAdvertiseExit(), nil)
	if err == nil {
		return nil
	}
	for _, flag := range []string{"advertise", "site"} { // which the error begins with, where it is about one of several
		if about, ok := strings.CutPrefix(err.Error(), "--"+flag+" "); ok {
			return flagf(flag, " %s", about)
		}
	}
	return flagf("advertise", ": %w", err)
}
