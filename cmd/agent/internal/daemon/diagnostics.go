package daemon

import (
	"context"
	"encoding/json"
	"fmt"

	"connectrpc.com/connect"

	"warren/internal/bugreport"
	"warren/internal/runlog"
	pb "warren/proto/warrenv1"
)

// Diagnostics implements LocalService.
func (a *api) Diagnostics(ctx context.Context, _ *connect.Request[pb.DiagnosticsRequest], out *connect.ServerStream[pb.DiagnosticsResponse]) error {
	if _, err := a.admit(ctx); err != nil {
		return err
	}
	d := a.d
	for _, p := range bugreport.Process(d.redactor(), d.registry, d.cfg.RecentLog, bugreport.Piece{Name: "settings.json", Content: d.settingsText()}) {
		if err := out.Send(&pb.DiagnosticsResponse{Name: p.Name, Content: p.Content}); err != nil {
			return err
		}
	}
	return nil
}

// redactor knows the device's own keys.
func (d *daemon) redactor() *bugreport.Redactor {
	r := bugreport.NewRedactor(false)
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.state.Device.IsZero() {
		r.Secret(d.state.Device.Bytes())
		r.Secret(d.state.Node.Bytes())
	}
	return r
}

// settingsText is what the daemon was started with and told since, without keys.
func (d *daemon) settingsText() []byte {
	d.mu.Lock()
	defer d.mu.Unlock()
	c := d.cfg
	v := map[string]any{
		"state_directory": c.StateDir, "socket": c.Socket, "interface": c.Interface, "port": c.Port, "metrics": c.Metrics, "proxy": c.Proxy,
		"endpoints": c.Endpoints, "port_mapping": fmt.Sprint(c.PortMapping), "disable_gso": c.DisableGSO, "disable_gro": c.DisableGRO,
		"hard_nat_rate": c.HardNATRate, "max_flows": c.MaxFlows, "no_flow_records": c.NoFlowRecords, "flow_exports": c.FlowExports,
		"whois_group": c.WhoIsGroup,
		"up":          d.state.Up, "name": d.state.Name, "operator": d.state.Operator, "last_port": d.state.Port, "routing": d.state.Routing,
	}
	if c.LogLevel != nil {
		v["log_level"] = runlog.LevelName(c.LogLevel.Level())
	}
	if m := d.state.Membership; m != nil {
		v["network"], v["endpoints_of_token"] = m.Network.String(), m.Endpoints
	}
	if d.lastErr != nil {
		v["last_error"] = d.lastErr.Error()
	}
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return []byte(err.Error())
	}
	return append(b, '\n')
}
