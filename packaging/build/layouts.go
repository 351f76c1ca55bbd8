package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
)

// Where the programs' sources have the numbers by which they know state of a newer version.
const (
	layoutSource = "cmd/agent/internal/state/state.go"
	migrations   = "coord/store/sqlite/migrations"
)

var (
	layoutLine    = regexp.MustCompile(`(?m)^const Version = (\d+)$`)
	migrationName = regexp.MustCompile(`^(\d+)_\w+\.sql$`)
)

// layouts are the newest layout of the agent's state, and the newest schema of the coordinator's database, that the programs of a checkout know.
func layouts(top string) (layout, schema int, err error) {
	b, err := os.ReadFile(filepath.Join(top, layoutSource))
	if err != nil {
		return 0, 0, err
	}
	line := layoutLine.FindSubmatch(b)
	if line == nil {
		return 0, 0, fmt.Errorf("%s: no layout", layoutSource)
	}
	if layout, err = strconv.Atoi(string(line[1])); err != nil {
		return 0, 0, err
	}
	steps, err := os.ReadDir(filepath.Join(top, migrations))
	if err != nil {
		return 0, 0, err
	}
	for _, s := range steps {
		m := migrationName.FindStringSubmatch(s.Name())
		if m == nil {
			return 0, 0, fmt.Errorf("%s: no migration", s.Name())
		}
		n, err := strconv.Atoi(m[1])
		if err != nil {
			return 0, 0, err
		}
		schema = max(schema, n)
	}
	if schema == 0 {
		return 0, 0, fmt.Errorf("%s: no migrations", migrations)
	}
	return layout, schema, nil
}

// later has the go command build programs of which each knows one layout more than those of the checkout, as a later version may. It gives the go command's flag.
func (r *release) later() (flag string, err error) {
	if !r.newer {
		return "-overlay=", nil // none
	}
	source, err := os.ReadFile(layoutSource)
	if err != nil {
		return "", err
	}
	r.layout++
	r.schema++
	text := layoutLine.ReplaceAll(source, []byte("const Version = "+strconv.Itoa(r.layout)))
	replace := map[string]string{}
	for path, content := range map[string]string{
		layoutSource: string(text),
		filepath.Join(migrations, fmt.Sprintf("%04d_later.sql", r.schema)): "CREATE TABLE later (id INTEGER PRIMARY KEY) STRICT;\n",
	} {
		whole, err := filepath.Abs(path)
		if err != nil {
			return "", err
		}
		replace[whole] = filepath.Join(r.stage, "later-"+filepath.Base(path))
		if err := os.WriteFile(replace[whole], []byte(content), 0o600); err != nil {
			return "", err
		}
	}
	b, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return "", err
	}
	path := filepath.Join(r.stage, "later.json")
	return "-overlay=" + path, os.WriteFile(path, b, 0o600)
}

// stamp puts the numbers into the scripts that compare them.
func (r *release) stamp(dir string) error {
	for name, n := range map[string]int{"warren.preinst": r.layout, "warren-coordinator.preinst": r.schema} {
		path := filepath.Join(dir, name)
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		const mark = "@KNOWN@"
		if !strings.Contains(string(b), mark) {
			return fmt.Errorf("%s: no %s", name, mark)
		}
		if err := os.WriteFile(path, []byte(strings.ReplaceAll(string(b), mark, strconv.Itoa(n))), 0o644); err != nil {
			return err
		}
	}
	return nil
}
