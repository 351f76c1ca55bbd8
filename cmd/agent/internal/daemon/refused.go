package daemon

import (
	"warren/cmd/internal/flowview"
	"warren/coord/client"
	"warren/tunnel/flowlog"
)

// refusedFlows answers the coordinator. Nothing but what was refused leaves this device.
func (s *session) refusedFlows(w client.FlowsWanted) client.RefusedFlows {
	if s.cfg.NoFlowRecords {
		return client.RefusedFlows{Unrecorded: true}
	}
	list := flowList{query: &flowlog.Query{Kinds: []string{flowlog.Refused, flowlog.Omitted}}, limit: w.Limit}
	if w.Since > 0 {
		list.query.Since = s.cfg.Now().Add(-w.Since)
	}
	for _, r := range s.cfg.flows.Refused() {
		if r, ok := onlyRefused(r); ok {
			list.add(r)
		}
	}
	out := client.RefusedFlows{}
	for _, r := range list.newest() {
		out.Flows = append(out.Flows, flowview.ToWire(&r))
	}
	out.LeftOut = list.leftOut
	return out
}

// onlyRefused leaves of a record what tells of refused flows, if anything does.
func onlyRefused(r flowlog.Record) (flowlog.Record, bool) {
	switch {
	case r.Kind == flowlog.Refused:
		return r, true
	case r.Kind == flowlog.Omitted && r.OmittedRefused > 0: // its traffic is of other flows, too
		return flowlog.Record{At: r.At, Kind: r.Kind, Device: r.Device, User: r.User, Tags: r.Tags, OmittedRefused: r.OmittedRefused}, true
	}
	return r, false
}
