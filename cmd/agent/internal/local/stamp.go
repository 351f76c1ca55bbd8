package local

import (
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"
)

// Stamp is t as a message has it: nil is never.
func Stamp(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}
