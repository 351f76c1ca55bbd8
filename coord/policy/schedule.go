package policy

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	_ "time/tzdata" // zones are known on hosts without a database of them too
)

// Schedule is when a grant holds: in any of the windows, and before Until.
type Schedule struct {
	Windows []Window  // none: at any time
	Until   time.Time // zero: for ever
}

const day = 24 * 60 // minutes

// Window is a span of hours on some days, by what a clock on the wall shows in Zone.
type Window struct {
	Days     [7]bool // by time.Weekday
	From, To int     // minutes since midnight; To is beyond the day's end if the span goes on into the next day
	Zone     *time.Location
	Text     string // for people
}

// Open reports whether the schedule lets its grant hold at now. A nil schedule always does.
func (s *Schedule) Open(now time.Time) bool {
	if s == nil {
		return true
	}
	if !s.Until.IsZero() && !now.Before(s.Until) {
		return false
	}
	return len(s.Windows) == 0 || slices.ContainsFunc(s.Windows, func(w Window) bool { return w.open(now) })
}

// Next gives a time after now until which Open does not change, or zero if it never will.
func (s *Schedule) Next(now time.Time) time.Time {
	if s == nil || !s.Until.IsZero() && !now.Before(s.Until) {
		return time.Time{}
	}
	next := s.Until
	for _, w := range s.Windows {
		if n := w.next(now); next.IsZero() || n.Before(next) {
			next = n
		}
	}
	return next
}

func (w *Window) open(now time.Time) bool {
	local := now.In(w.Zone)
	minute, today := local.Hour()*60+local.Minute(), local.Weekday()
	yesterday := (today + 6) % 7
	return w.Days[today] && minute >= w.From && minute < w.To || w.Days[yesterday] && minute < w.To-day
}

// next gives the next moment at which the clock in the zone shows From or To, or is put forward or back.
func (w *Window) next(now time.Time) time.Time {
	local := now.In(w.Zone)
	since := time.Duration(local.Hour())*time.Hour + time.Duration(local.Minute())*time.Minute +
		time.Duration(local.Second())*time.Second + time.Duration(local.Nanosecond())
	wait := 24 * time.Hour
	for _, edge := range []int{w.From, w.To % day} {
		d := time.Duration(edge)*time.Minute - since
		if d <= 0 {
			d += 24 * time.Hour
		}
		wait = min(wait, d)
	}
	next := now.Add(wait)
	if _, end := local.ZoneBounds(); !end.IsZero() && end.Before(next) {
		return end
	}
	return next
}

// readWhen reads one window, or a list of them.
func (r *reader) readWhen(u *rule, v value) {
	windows := []value{v}
	if v.Value.Value.Kind() == '[' {
		windows = r.list(v)
	}
	if len(windows) == 0 {
		r.fail(v, "leave it out if the grant always holds", "when is empty")
	}
	for _, e := range windows {
		ws := r.readWindow(e)
		if u.schedule == nil {
			u.schedule = &Schedule{}
		}
		u.schedule.Windows = append(u.schedule.Windows, ws...)
	}
}

func (r *reader) readUntil(u *rule, v value) {
	if u.schedule == nil {
		u.schedule = &Schedule{}
	}
	u.schedule.Until = r.readTime(v)
}

func (r *reader) readWindow(e value) (out []Window) {
	var days [7]bool
	var dayTexts []string
	var hours []Window
	var zone *time.Location
	hasDays, hasHours := false, false
	ok := r.object(e,
		field{"days", func(v value) {
			hasDays = true
			texts, at := r.strings(v)
			for i, s := range texts {
				if fix, err := parseDays(s, &days); err != nil {
					r.fail(at[i], fix, "%v", err)
				}
			}
			dayTexts = texts
		}},
		field{"hours", func(v value) {
			hasHours = true
			hours = r.readHours(v)
		}},
		field{"zone", func(v value) { zone = r.readZone(v) }},
	)
	if !ok {
		return nil
	}
	if zone == nil {
		r.fail(e, "write \"zone\": \"Europe/Berlin\", for example, or \"UTC\"", "no zone: it says whose clock counts")
	}
	if !hasDays && !hasHours {
		r.fail(e, "write \"days\": [\"mon-fri\"] or \"hours\": \"08:00-18:00\"", "the window has neither days nor hours")
	}
	if !hasDays {
		days = [7]bool{true, true, true, true, true, true, true}
	}
	if !hasHours {
		hours = []Window{{From: 0, To: day}}
	}
	if zone == nil {
		return nil
	}
	for _, w := range hours {
		w.Days, w.Zone = days, zone
		w.Text = strings.TrimSpace(strings.Join(dayTexts, ",") + " " + w.Text)
		w.Text += " " + zone.String()
		out = append(out, w)
	}
	return out
}

func (r *reader) readZone(v value) *time.Location {
	s, ok := r.string(v)
	if !ok {
		return time.UTC
	}
	zone, err := time.LoadLocation(s)
	if err != nil || s == "" || s == "Local" {
		r.fail(v, "write a name such as \"Europe/Berlin\", or \"UTC\"", "unknown time zone %s", quote(s))
		return time.UTC
	}
	return zone
}

// readHours reads one span, or a list of them.
func (r *reader) readHours(v value) (out []Window) {
	spans := []value{v}
	if v.Value.Value.Kind() == '[' {
		spans = r.list(v)
	}
	for _, e := range spans {
		s, ok := r.string(e)
		if !ok {
			continue
		}
		from, to, ok := parseSpan(s)
		if !ok {
			r.fail(e, "write \"08:00-18:00\", for example, or \"22:00-06:00\" for a night", "%s is no span of hours", quote(s))
			continue
		}
		out = append(out, Window{From: from, To: to, Text: s})
	}
	return out
}

func parseSpan(s string) (from, to int, ok bool) {
	a, b, _ := strings.Cut(s, "-")
	from, okA := parseClock(strings.TrimSpace(a))
	to, okB := parseClock(strings.TrimSpace(b))
	if !okA || !okB || from == day || from == to {
		return 0, 0, false
	}
	if to < from {
		to += day
	}
	return from, to, true
}

// parseClock reads 00:00 to 24:00 as minutes.
func parseClock(s string) (int, bool) {
	h, m, ok := strings.Cut(s, ":")
	hour, errH := strconv.ParseUint(h, 10, 8)
	minute, errM := strconv.ParseUint(m, 10, 8)
	n := int(hour*60 + minute)
	return n, ok && errH == nil && errM == nil && len(m) == 2 && minute < 60 && n <= day
}

// parseDays adds a day, such as mon or Monday, or a range of days.
func parseDays(s string, days *[7]bool) (fix string, err error) {
	first, last, isRange := strings.Cut(s, "-")
	a, okA := parseDay(first)
	b, okB := a, true
	if isRange {
		b, okB = parseDay(last)
	}
	if !okA || !okB {
		return "write mon, tue, wed, thu, fri, sat, sun, or a range such as mon-fri", fmt.Errorf("%s is no day", quote(s))
	}
	for d := a; ; d = (d + 1) % 7 {
		days[d] = true
		if d == b {
			return "", nil
		}
	}
}

func parseDay(s string) (int, bool) {
	s = strings.ToLower(strings.TrimSpace(s))
	for d := time.Sunday; d <= time.Saturday; d++ {
		if name := strings.ToLower(d.String()); s == name || s == name[:3] {
			return int(d), true
		}
	}
	return 0, false
}
