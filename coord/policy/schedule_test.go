package policy

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"
)

func schedule(t *testing.T, text string) *Schedule {
	t.Helper()
	p, err := Parse([]byte(`{"grants": [{"src": ["ann"], "dst": ["tag:web"], "ip": ["*"], ` + text + `}]}`))
	if err != nil {
		t.Fatal(err)
	}
	return p.Grants[0].Schedule
}

func TestScheduleOpen(t *testing.T) {
	for _, c := range []struct {
		text string
		open map[string]bool // by time in RFC 3339
	}{
		{`"when": {"days": ["mon-fri"], "hours": "08:00-18:00", "zone": "Europe/Berlin"}`, map[string]bool{
			"2030-01-04T08:00:00+01:00": true, "2030-01-04T07:59:59.999+01:00": false, "2030-01-04T17:59:59+01:00": true, "2030-01-04T18:00:00+01:00": false,
			"2030-01-05T12:00:00+01:00": false, "2030-07-05T06:00:00Z": true, "2030-07-05T05:59:00Z": false, "2030-01-04T07:00:00Z": true,
		}},
		{`"when": {"days": ["fri"], "hours": "22:00-06:00", "zone": "UTC"}`, map[string]bool{
			"2030-01-04T22:00:00Z": true, "2030-01-05T05:59:00Z": true, "2030-01-05T06:00:00Z": false, "2030-01-04T05:00:00Z": false, "2030-01-05T22:00:00Z": false,
		}},
		{`"when": {"days": ["sat-mon"], "zone": "Asia/Kolkata"}`, map[string]bool{
			"2030-01-04T18:29:00Z": false, "2030-01-04T18:30:00Z": true, "2030-01-07T18:29:00Z": true, "2030-01-07T18:30:00Z": false,
		}},
		{`"when": {"hours": ["06:00-07:00", "23:00-24:00"], "zone": "UTC"}`, map[string]bool{
			"2030-01-04T06:30:00Z": true, "2030-01-04T23:59:59Z": true, "2030-01-05T00:00:00Z": false, "2030-01-04T22:59:00Z": false,
		}},
		{`"when": [{"hours": "06:00-07:00", "zone": "UTC"}, {"hours": "06:00-07:00", "zone": "Asia/Tokyo"}]`, map[string]bool{
			"2030-01-04T06:30:00Z": true, "2030-01-03T21:30:00Z": true, "2030-01-04T08:00:00Z": false,
		}},
		// Clocks in Berlin go from 02:00 to 03:00 on the 31st of March, and back on the 27th of October.
		{`"when": {"hours": "02:15-02:45", "zone": "Europe/Berlin"}`, map[string]bool{
			"2030-03-31T02:30:00+01:00": false, "2030-10-27T02:30:00+02:00": true, "2030-10-27T02:50:00+02:00": false, "2030-10-27T02:30:00+01:00": true,
		}},
		{`"until": "2030-01-04T12:00:00Z"`, map[string]bool{"2030-01-04T11:59:59Z": true, "2030-01-04T12:00:00Z": false, "2040-01-04T12:00:00Z": false}},
		{`"until": "2030-01-04T06:30:00Z", "when": {"hours": "06:00-07:00", "zone": "UTC"}`, map[string]bool{
			"2030-01-04T06:29:00Z": true, "2030-01-04T06:31:00Z": false, "2030-01-03T08:00:00Z": false,
		}},
	} {
		s := schedule(t, c.text)
		for at, want := range c.open {
			now, err := time.Parse(time.RFC3339, at)
			if err != nil {
				t.Fatal(err)
			}
			if got := s.Open(now); got != want {
				t.Errorf("%s at %s: %v", c.text, at, got)
			}
		}
	}
	var always *Schedule
	if !always.Open(time.Time{}) || !always.Next(time.Time{}).IsZero() {
		t.Error("no schedule does not mean always")
	}
}

// TestScheduleNext walks random schedules second by second between now and Next: nothing changes in between, and it is not in the past.
func TestScheduleNext(t *testing.T) {
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 3))
		clock := func() string { return fmt.Sprintf("%02d:%02d", r.IntN(24), r.IntN(60)) }
		zone := []string{"UTC", "Europe/Berlin", "Australia/Lord_Howe", "Asia/Kathmandu", "America/St_Johns"}[r.IntN(5)]
		from, to := clock(), clock()
		if from == to {
			continue
		}
		text := fmt.Sprintf(`"when": {"hours": "%s-%s", "days": ["%s-%s"], "zone": %q}`, from, to, time.Weekday(r.IntN(7)), time.Weekday(r.IntN(7)), zone)
		if r.IntN(3) == 0 {
			text += fmt.Sprintf(`, "until": "2030-04-%02dT%s:00Z"`, 1+r.IntN(28), clock())
		}
		s := schedule(t, text)
		now := time.Date(2030, 3, 29, r.IntN(24), r.IntN(60), r.IntN(60), r.IntN(1e9), time.UTC)
		end := now.Add(9 * 24 * time.Hour)
		for now.Before(end) {
			open, next := s.Open(now), s.Next(now)
			if next.IsZero() {
				next = end
				if open {
					t.Fatalf("%s: open for ever at %s", text, now)
				}
			} else if !next.After(now) {
				t.Fatalf("%s: next of %s is %s", text, now, next)
			}
			for at := now; at.Before(next) && at.Before(end); at = at.Add(time.Minute) {
				if s.Open(at) != open {
					t.Fatalf("%s: %v at %s, but not at %s, before %s", text, open, now, at, next)
				}
			}
			if last := next.Add(-time.Nanosecond); !last.Before(now) && s.Open(last) != open {
				t.Fatalf("%s: %v at %s, but not right before %s", text, open, now, next)
			}
			now = next
		}
	}
}
