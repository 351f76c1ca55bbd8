package warrennet

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"testing"

	"warren/internal/lab"
)

// Main is TestMain for packages that run networks. It sets bin to where the programs are.
func Main(m *testing.M, bin *string) {
	lab.Init()
	os.Exit(mainIn(m, bin))
}

func mainIn(m *testing.M, bin *string) int {
	dir, err := os.MkdirTemp("", "warren-bin")
	if err == nil {
		defer os.RemoveAll(dir)
		*bin, err = Build(context.Background(), dir)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

// ForTest is New for a test, at whose end it closes the network. Of one that failed the coordinator's log is told.
func ForTest(ctx context.Context, t testing.TB, bin string, args ...string) *Network {
	t.Helper()
	n, err := New(ctx, bin, t.TempDir(), args...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("coordinator:\n%s", n.Serving().Log())
		}
		n.Close()
	})
	return n
}

// Amount is how much of something a test does: what a variable of the environment says, which "make test-system" sets, or else few.
func Amount(t testing.TB, variable string, few int) int {
	t.Helper()
	text := os.Getenv(variable)
	if text == "" {
		return few
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("%s is %q, not a number of 1 or more", variable, text)
	}
	return n
}
