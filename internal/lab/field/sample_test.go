package field

import (
	"path/filepath"
	"strings"
	"testing"

	"os"

	"github.com/google/go-cmp/cmp"
)

func TestSamplesComeBack(t *testing.T) {
	file := filepath.Join(t.TempDir(), "samples")
	for _, s := range bench() {
		if err := AppendSample(file, s); err != nil {
			t.Fatal(err)
		}
	}
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	got, err := ReadSamples(f)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(bench(), got); diff != "" {
		t.Errorf("samples (-want +got):\n%s", diff)
	}
}

func TestBadSamplesAreRefused(t *testing.T) {
	const good = `{"system":"x","pair":"easy+easy","round":0,"path":"direct"}` + "\n"
	for _, c := range []struct{ name, text, err string }{
		{"not JSON", good + "x\n", "line 2: invalid character"},
		{"cut short", good + `{"system":"x","pai`, "line 2: unexpected end"},
		{"no system", `{"pair":"easy+easy"}`, "line 1: no system or no pair"},
		{"no pair", `{"system":"x"}`, "line 1: no system or no pair"},
		{"a path of no kind", good + strings.Replace(good, "direct", "scenic", 1), `line 2: path "scenic" is not one`},
		{"a negative figure", `{"system":"x","pair":"p","idle_mb":-1}`, "line 1: a negative figure"},
		{"none", "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := ReadSamples(strings.NewReader(c.text))
			checkError(t, err, c.err)
			if len(got) > 0 {
				t.Errorf("got %v besides", got)
			}
		})
	}
}

func TestNextRound(t *testing.T) {
	easy, none := Pair{First: "easy", Second: "easy"}, Pair{First: "none", Second: "none"}
	if got := [2]int{NextRound(bench(), easy), NextRound(bench(), none)}; got != [2]int{3, 2} {
		t.Errorf("got %v", got)
	}
	if got := NextRound(nil, easy); got != 0 {
		t.Errorf("without samples: %d", got)
	}
}
