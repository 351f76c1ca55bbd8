package main

import (
	"bytes"
	"strings"
	"testing"
)

func TestTally(t *testing.T) {
	in := `{"Action":"run","Package":"p","Test":"TestGood"}
{"Action":"output","Package":"p","Test":"TestGood","Output":"not shown\n"}
{"Action":"pass","Package":"p","Test":"TestGood"}
{"Action":"output","Package":"p","Test":"TestBad","Output":"why it failed\n"}
{"Action":"fail","Package":"p","Test":"TestBad"}
{"Action":"skip","Package":"p","Test":"TestSkipped"}
{"Action":"fail","Package":"p","Elapsed":1.5}
{"Action":"skip","Package":"empty"}
a compiler speaks
`
	var out bytes.Buffer
	c := &tally{output: map[string]*strings.Builder{}}
	c.read(strings.NewReader(in), &out)
	if c.passed != 1 || c.failed != 1 || c.skipped != 1 || c.packages != 2 || !c.broken {
		t.Errorf("%+v", c)
	}
	got := out.String()
	for _, want := range []string{"why it failed", "fail  p  1.5s", "a compiler speaks"} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is missing in:\n%s", want, got)
		}
	}
	if strings.Contains(got, "not shown") || strings.Contains(got, "empty") {
		t.Errorf("too much in:\n%s", got)
	}
}
