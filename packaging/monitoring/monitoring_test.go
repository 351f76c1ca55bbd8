// Package monitoring holds the test of what Prometheus and Grafana are given: prometheus.yaml, alerts.yaml with alerts_test.yaml, dashboard.json.
package monitoring

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// promtool runs Prometheus's own checker.
func promtool(t *testing.T, args ...string) {
	t.Helper()
	path, err := exec.LookPath("promtool")
	if err != nil {
		t.Fatalf("%v; \"make deps\" installs it", err)
	}
	if out, err := exec.Command(path, args...).CombinedOutput(); err != nil {
		t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

func TestPromtool(t *testing.T) {
	promtool(t, "check", "config", "prometheus.yaml") // and the rules that it names
	promtool(t, "test", "rules", "alerts_test.yaml")
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestEveryAlertIsTested: each alert is seen to fire, and not to fire, and tells what it is about, how urgent it is and what to do.
func TestEveryAlertIsTested(t *testing.T) {
	rules, tests, page := read(t, "alerts.yaml"), read(t, "alerts_test.yaml"), read(t, "../../docs/operations.md")
	alerts := strings.Split(rules, "- alert: ")[1:]
	if len(alerts) < 15 {
		t.Fatalf("only %d alerts were found", len(alerts))
	}
	for _, text := range alerts {
		name, _, _ := strings.Cut(text, "\n")
		for _, want := range []string{"severity: (page|ticket)", `summary: "`, `action: "`} {
			if !regexp.MustCompile(want).MatchString(text) {
				t.Errorf("%s has no %s", name, want)
			}
		}
		if !regexp.MustCompile(`alertname: ` + name + `\n\s+exp_alerts:\n`).MatchString(tests) {
			t.Errorf("%s is never seen to fire", name)
		}
		if !strings.Contains(page, "`"+name+"`") {
			t.Errorf("docs/operations.md does not tell of %s", name)
		}
		quiet := strings.Contains(tests, "alertname: "+name+", exp_alerts: []")
		if others := strings.Contains(text, "    for: "); !quiet && others {
			t.Errorf("%s is never seen to keep quiet", name)
		}
	}
}

// dashboard is what of Grafana's format is looked at.
type dashboard struct {
	Panels []struct {
		ID      int
		Title   string
		Type    string
		GridPos struct{ X, Y, W, H int }
		Targets []struct{ Expr, LegendFormat string }
	}
	Templating struct {
		List []struct{ Name, Definition string }
	}
}

func readDashboard(t *testing.T) (d dashboard) {
	t.Helper()
	if err := json.Unmarshal([]byte(read(t, "dashboard.json")), &d); err != nil {
		t.Fatal(err)
	}
	return d
}

// expressions are those of the dashboard, with values for Grafana's variables.
func (d dashboard) expressions(t *testing.T) (out []string) {
	t.Helper()
	values := strings.NewReplacer("$__rate_interval", "5m", "$instance", ".*")
	for _, p := range d.Panels {
		for _, target := range p.Targets {
			expr := values.Replace(target.Expr)
			if strings.Contains(expr, "$") {
				t.Errorf("%s: %s has a variable that nobody knows", p.Title, target.Expr)
			}
			out = append(out, expr)
		}
	}
	for _, v := range d.Templating.List {
		if v.Definition != "" {
			metric, _, _ := strings.Cut(strings.TrimPrefix(v.Definition, "label_values("), ",")
			out = append(out, metric)
		}
	}
	return out
}

// TestDashboard: every query is PromQL, no panel covers another, and each has an id of its own.
func TestDashboard(t *testing.T) {
	d := readDashboard(t)
	exprs := d.expressions(t)
	if len(exprs) < 40 {
		t.Fatalf("only %d queries were found", len(exprs))
	}
	var rules strings.Builder
	rules.WriteString("groups:\n  - name: dashboard\n    rules:\n")
	for i, e := range exprs {
		fmt.Fprintf(&rules, "      - {record: 'query:%d', expr: %q}\n", i, e)
	}
	file := filepath.Join(t.TempDir(), "rules.yaml")
	if err := os.WriteFile(file, []byte(rules.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	promtool(t, "check", "rules", file)
	ids := map[int]bool{}
	for i, p := range d.Panels {
		if ids[p.ID] || p.Title == "" || p.Type != "row" && len(p.Targets) == 0 {
			t.Errorf("panel %d: id %d, title %q, %d queries", i, p.ID, p.Title, len(p.Targets))
		}
		ids[p.ID] = true
		for _, q := range d.Panels[:i] {
			a, b := p.GridPos, q.GridPos
			if a.X < b.X+b.W && b.X < a.X+a.W && a.Y < b.Y+b.H && b.Y < a.Y+a.H || a.X+a.W > 24 {
				t.Errorf("%q covers %q", p.Title, q.Title)
			}
		}
	}
}

// metric is what docs/operations.md tells of one.
type metric struct {
	labels  []string
	meaning string
}

// told reads the tables of docs/operations.md, which other tests compare with what is exported.
func told(t *testing.T) map[string]metric {
	t.Helper()
	out := map[string]metric{
		"up": {}, "process_start_time_seconds": {}, "process_resident_memory_bytes": {}, "process_cpu_seconds_total": {}, "go_goroutines": {}, // of Prometheus and its client
	}
	row := regexp.MustCompile("(?m)^\\| `(warren_[a-z_]+)(?:\\{([a-z_,]+)\\})?` \\| (?:counter|gauge) \\| (.+) \\|$")
	for _, m := range row.FindAllStringSubmatch(read(t, "../../docs/operations.md"), -1) {
		out[m[1]] = metric{strings.FieldsFunc(m[2], func(r rune) bool { return r == ',' }), m[3]}
	}
	if len(out) < 60 {
		t.Fatalf("only %d metrics are told of", len(out))
	}
	return out
}

var (
	metricName = regexp.MustCompile(`\b((?:warren|process|go)_[a-z_]+|up)\b(?:\{([^}]*)\})?`)
	matcher    = regexp.MustCompile(`([a-z_]+)(=~|!~|!=|=)"([^"]*)"`)
	grouping   = regexp.MustCompile(`\bby \(([^)]*)\)`)
)

// TestQueriesAskForWhatThereIs: alerts and dashboard name metrics, labels and values that are exported, and no others.
func TestQueriesAskForWhatThereIs(t *testing.T) {
	metrics := told(t)
	exprs := readDashboard(t).expressions(t)
	alerts := read(t, "alerts.yaml")
	found := regexp.MustCompile(`(?m)^        expr: (?:\|\n((?:          .*\n)+)|(.+))`).FindAllStringSubmatch(alerts, -1)
	if n := strings.Count(alerts, "- alert: "); len(found) != n {
		t.Fatalf("%d expressions of %d alerts were found", len(found), n)
	}
	for _, m := range found {
		exprs = append(exprs, m[1]+m[2])
	}
	for _, m := range regexp.MustCompile(`series: '([^']+)'`).FindAllStringSubmatch(read(t, "alerts_test.yaml"), -1) {
		exprs = append(exprs, m[1])
	}
	for _, expr := range exprs {
		for _, problem := range wrong(metrics, expr) {
			t.Errorf("%s: %s", expr, problem)
		}
	}
}

// wrong tells what an expression asks for in vain.
func wrong(metrics map[string]metric, expr string) (problems []string) {
	known, found := []string{"job", "instance"}, false
	for _, m := range metricName.FindAllStringSubmatch(expr, -1) {
		about, ok := metrics[m[1]]
		if !ok {
			problems = append(problems, "no metric "+m[1])
			continue
		}
		found = true
		known = append(known, about.labels...)
		for _, l := range matcher.FindAllStringSubmatch(m[2], -1) {
			problems = append(problems, about.lacks(l[1], l[2], l[3])...)
		}
	}
	if !found && len(problems) == 0 {
		problems = append(problems, "no metric at all")
	}
	for _, m := range grouping.FindAllStringSubmatch(expr, -1) {
		for label := range strings.SplitSeq(m[1], ",") {
			if !slices.Contains(known, strings.TrimSpace(label)) {
				problems = append(problems, "no label "+label)
			}
		}
	}
	return problems
}

// lacks tells what is wrong with a matcher; values have to stand in what is told of the metric, unless a metric takes its values from elsewhere.
func (m metric) lacks(label, op, value string) (problems []string) {
	if label == "job" || label == "instance" {
		return nil
	}
	if !slices.Contains(m.labels, label) {
		return []string{"no label " + label}
	}
	values := []string{value}
	if strings.HasSuffix(op, "~") {
		values = strings.Split(value, "|")
	}
	for _, v := range values {
		if !strings.Contains(m.meaning, "`"+v+"`") {
			problems = append(problems, fmt.Sprintf("%s has no value %q", label, v))
		}
	}
	return problems
}

// TestWrong: the test above can fail.
func TestWrong(t *testing.T) {
	metrics := told(t)
	for expr, want := range map[string]string{
		`sum by (kind) (warren_paths{kind="direct"})`:                       "",
		`up{job="x",instance="y"} == 0`:                                     "",
		`warren_path`:                                                       "no metric warren_path",
		`warren_paths{kinds="direct"}`:                                      "no label kinds",
		`warren_paths{kind="directly"}`:                                     `kind has no value "directly"`,
		`rate(warren_relay_dropped_frames_total{reason=~"queue|late"}[5m])`: `reason has no value "late"`,
		`sum by (job, reason) (warren_paths)`:                               "no label  reason",
		`1`:                                                                 "no metric at all",
	} {
		if got := strings.Join(wrong(metrics, expr), "; "); got != want {
			t.Errorf("%s: %q, want %q", expr, got, want)
		}
	}
}
