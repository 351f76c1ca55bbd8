// Package flowview is how both programs hand flow records on and show them: ToWire and FromWire are for their APIs, Table and Line for people.
package flowview

import (
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strconv"
	"text/tabwriter"
	"time"

	"warren/tunnel/flowlog"
)

// Table prints records under a headline.
func Table(w io.Writer, list []flowlog.Record) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "TIME\tKIND\tPEER\tUSER\tFLOW\tFROM\tTO\tGRANT\tRECEIVED\tSENT\tWHY")
	for i := range list {
		if err := Line(t, &list[i], "\t"); err != nil {
			return err
		}
	}
	return t.Flush()
}

// Line prints one line, its columns separated as given.
func Line(w io.Writer, r *flowlog.Record, separator string) error {
	why, flow, from, to := r.Reason, r.Protocol, flowEnd(r.Source, r.SourcePort), flowEnd(r.Destination, r.DestinationPort)
	if r.Flows > 1 {
		flow += " x " + strconv.FormatUint(r.Flows, 10)
	}
	if r.Kind == flowlog.Omitted {
		why = fmt.Sprintf("%d new, %d ended, %d refused", r.OmittedNew, r.OmittedEnded, r.OmittedRefused)
	}
	if r.Kind == flowlog.Refused {
		why = "no grant"
	}
	columns := []string{
		r.At.Local().Format(time.TimeOnly), r.Kind, r.Device, r.User, flow, from, to, r.Grant,
		amount(r.ReceivedBytes, r.ReceivedPackets), amount(r.SentBytes, r.SentPackets), why,
	}
	for i, c := range columns {
		if c == "" {
			columns[i] = "-"
		}
	}
	if columns[len(columns)-1] == "-" {
		columns = slices.Delete(columns, len(columns)-1, len(columns))
	}
	for i, c := range columns {
		if i > 0 {
			c = separator + c
		}
		if _, err := io.WriteString(w, c); err != nil {
			return err
		}
	}
	_, err := io.WriteString(w, "\n")
	return err
}

func flowEnd(a netip.Addr, port uint16) string {
	switch {
	case !a.IsValid():
		return ""
	case port == 0:
		return a.String()
	}
	return netip.AddrPortFrom(a, port).String()
}

// amount is bytes and packets.
func amount(bytes, packets uint64) string {
	if packets == 0 {
		return ""
	}
	return fmt.Sprintf("%s in %d", Bytes(bytes), packets)
}

// Bytes uses binary units, as wg does.
func Bytes(n uint64) string {
	const step = 1024
	if n < step {
		return fmt.Sprintf("%d B", n)
	}
	v, units := float64(n)/step, []string{"KiB", "MiB", "GiB", "TiB", "PiB"}
	i := 0
	for v >= step && i < len(units)-1 {
		v, i = v/step, i+1
	}
	return fmt.Sprintf("%.1f %s", v, units[i])
}
