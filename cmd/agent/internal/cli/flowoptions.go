package cli

import (
	"github.com/spf13/pflag"

	"warren/cmd/agent/internal/daemon"
	"warren/tunnel/filter"
	"warren/tunnel/flowsink"
)

// Bounds of the flags about flows.
const (
	minFlows, maxFlows       = 1024, 1 << 22
	maxFlowExports           = 8
	defaultFlowFile          = 16
	minFlowFile, maxFlowFile = 1, 10_240
	megabyte                 = 1 << 20
)

// flowOptions are the daemon's flags about flows.
type flowOptions struct {
	max      int
	records  bool
	exports  []string
	fileSize int
}

func (o *flowOptions) register(f *pflag.FlagSet) {
	f.IntVar(&o.max, "max-flows", filter.DefaultMaxFlows, "`flows` that the packet filter knows at most; a peer that opens more gives up its own oldest")
	f.BoolVar(&o.records, "flow-records", true, "keep records of flows")
	f.StringArrayVar(&o.exports, "flow-export", nil, "export flow records to this `destination`: a file's whole path, syslog, syslog://HOST, "+
		"syslog+tcp://HOST, or the URL of an OTLP collector; may be repeated")
	f.IntVar(&o.fileSize, "flow-file-size", defaultFlowFile, "`megabytes` after which a file of flow records is rotated; four earlier ones stay")
}

// apply checks the flags before anything is started.
func (o *flowOptions) apply(cfg *daemon.Config) error {
	switch {
	case o.max < minFlows || o.max > maxFlows:
		return flagf("max-flows", " %d: want %d to %d", o.max, minFlows, maxFlows)
	case o.fileSize < minFlowFile || o.fileSize > maxFlowFile:
		return flagf("flow-file-size", " %d: want %d to %d", o.fileSize, minFlowFile, maxFlowFile)
	case !o.records && len(o.exports) > 0:
		return flagf("flow-export", " %s: there is nothing to export with --flow-records=false", o.exports[0])
	case len(o.exports) > maxFlowExports:
		return flagf("flow-export", ": %d of them, at most %d", len(o.exports), maxFlowExports)
	}
	for _, dest := range o.exports {
		if err := flowsink.Check(dest); err != nil {
			return flagf("flow-export", ": %w", err)
		}
	}
	cfg.MaxFlows, cfg.NoFlowRecords, cfg.FlowExports, cfg.FlowFileSize = o.max, !o.records, o.exports, int64(o.fileSize)*megabyte
	return nil
}
