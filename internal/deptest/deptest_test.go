// Package deptest holds the test that keeps imports going downward, so that each part can be understood, tested and replaced without those
// above it.
package deptest

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "warren/"

// layers says what each top-level folder may import of the others, and why not more.
var layers = map[string]struct {
	may []string
	why string
}{
	"proto":  {[]string{"internal"}, "it is the words that all others share"},
	"coord":  {[]string{"proto", "internal"}, "coordination must work without knowing how packets travel; only cmd joins it with nat and tunnel"},
	"nat":    {[]string{"proto", "internal"}, "NAT traversal must work without knowing who coordinates or what WireGuard does; only cmd joins them"},
	"tunnel": {[]string{"proto", "internal"}, "the tunnel must work without knowing how paths are found or keys distributed; only cmd joins them"},
	"cmd":    {[]string{"proto", "coord", "nat", "tunnel", "internal", "packaging"}, "it joins everything but the lab"},
}

// testbeds are the internal packages that import everything; nothing but tests, benchmarks and the demo imports them.
var testbeds = []string{"internal/lab", "internal/sim"}

type pkg struct {
	ImportPath                         string
	Imports, TestImports, XTestImports []string
}

func packages(t *testing.T) []pkg {
	t.Helper()
	cmd := exec.Command("go", "list", "-json=ImportPath,Imports,TestImports,XTestImports", module+"...")
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	var all []pkg
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p pkg
		err := dec.Decode(&p)
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
}

// ours gives the path inside the module, without it.
func ours(path string) (string, bool) { return strings.CutPrefix(path, module) }

func top(path string) string {
	first, _, _ := strings.Cut(path, "/")
	return first
}

func isTestbed(path string) bool {
	return slices.ContainsFunc(testbeds, func(b string) bool { return path == b || strings.HasPrefix(path, b+"/") })
}

// isTestHelper reports whether a package is made for the tests of others, as its name says.
func isTestHelper(path string) bool {
	return strings.HasSuffix(path, "test")
}

func TestLayers(t *testing.T) {
	all := packages(t)
	if len(all) < 20 {
		t.Fatalf("only %d packages were found", len(all))
	}
	for _, p := range all {
		from, _ := ours(p.ImportPath)
		if isTestbed(from) {
			continue
		}
		for _, path := range p.Imports {
			to, own := ours(path)
			if !own || top(to) == top(from) && top(from) != "internal" {
				continue
			}
			switch {
			case isTestHelper(from) && isTestbed(to): // only tests import it in turn
			case isTestbed(to), isTestHelper(to) && !isTestHelper(from):
				t.Errorf("%s imports %s: it is for tests, benchmarks and the demo only", from, to)
			case top(from) == "internal" && top(to) != "internal":
				t.Errorf("%s imports %s: helpers import none of ours, so that everything may import them", from, to)
			case top(from) != "internal" && !slices.Contains(layers[top(from)].may, top(to)):
				t.Errorf("%s imports %s: not allowed, since %s", from, to, layers[top(from)].why)
			}
		}
	}
}

// Its parser believes lengths that come from the network, so everything goes through the package that checks them first.
func TestOnlyOnePackageCallsTheSTUNLibrary(t *testing.T) {
	const library, allowed = "github.com/pion/stun/v2", "warren/nat/stunmsg"
	used := false
	for _, p := range packages(t) {
		imports := slices.Concat(p.Imports, p.TestImports, p.XTestImports)
		if !slices.Contains(imports, library) {
			continue
		}
		used = true
		if p.ImportPath != allowed {
			t.Errorf("%s imports %s: only %s may, since it checks bounds before the library parses", p.ImportPath, library, allowed)
		}
	}
	if !used {
		t.Errorf("nobody imports %s; this test guards nothing", library)
	}
}
