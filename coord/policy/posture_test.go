package policy

import "testing"

func TestConditions(t *testing.T) {
	facts := map[string]string{
		"node:os": "linux", "node:osVersion": "6.8.0-45-generic", "custom:score": "70", "custom:managed": "true", "custom:odd": "NaN", "custom:word": "new",
	}
	for text, want := range map[string]bool{
		"node:os == 'linux'":                     true,
		"node:os == \"linux\"":                   true,
		"node:os=='linux'":                       true,
		"node:os == 'Linux'":                     false,
		"node:os != 'macos'":                     true,
		"node:os != 'linux'":                     false,
		"node:os IN ['macos', 'linux']":          true,
		"node:os IN ('macos')":                   false,
		"node:os NOT IN ['macos']":               true,
		"node:os NOT IN ['linux', 'macos']":      false,
		"node:os IS SET":                         true,
		"node:os NOT SET":                        false,
		"node:osVersion >= '6.8'":                true,
		"node:osVersion > '6.8'":                 false,
		"node:osVersion > '6.10'":                false,
		"node:osVersion < '6.10'":                true,
		"node:osVersion <= 'v6.8.0'":             true,
		"custom:score >= 70":                     true,
		"custom:score > 70":                      false,
		"custom:score == 70.0":                   true,
		"custom:score < 100":                     true, // as numbers, not as words
		"custom:score == '70.0'":                 false,
		"custom:managed == true":                 true,
		"custom:managed != false":                true,
		"custom:managed == 'true'":               true,
		"custom:word >= '1.0'":                   false, // no version
		"custom:word < '1.0'":                    false,
		"custom:word != 5":                       false, // not known to differ, for it is no number
		"custom:word NOT IN [5, 6]":              false,
		"custom:word == true":                    false,
		"custom:word != true":                    false,
		"custom:odd > 1":                         false,
		"custom:odd <= 1":                        false,
		"custom:odd != 1":                        false,
		"custom:none == ''":                      false, // what is not known holds for nothing
		"custom:none != 'x'":                     false,
		"custom:none NOT IN ['x']":               false,
		"custom:none < 5":                        false,
		"custom:none IS SET":                     false,
		"custom:none NOT SET":                    false, // nobody could have set it
		"node:hostname NOT SET":                  true,
		"custom:none == 'a, b'":                  false,
		"node:os IN ['a, b', \"it's\", 'linux']": true,
	} {
		c, _, err := parseCondition(text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if got := c.Holds(facts); got != want {
			t.Errorf("%s: %v", text, got)
		}
		if c.Holds(nil) {
			t.Errorf("%s holds for a device of which nothing is known", text)
		}
	}
}

func FuzzCondition(f *testing.F) {
	for _, s := range []string{"node:os == 'linux'", "a:b IN ['x', 1, true]", "a:b NOT SET", "a:b >= '1.2'", "a:b IN (", "a:b == '"} {
		f.Add(s, "1.2")
	}
	f.Fuzz(func(t *testing.T, text, fact string) {
		c, _, err := parseCondition(text)
		if err != nil {
			return
		}
		if c.Holds(nil) {
			t.Errorf("%q holds for a device of which nothing is known", text)
		}
		not := c
		switch c.Op {
		case "==":
			not.Op = "!="
		case "IN":
			not.Op = "NOT IN"
		case "<":
			not.Op = ">="
		case ">":
			not.Op = "<="
		default:
			return
		}
		facts := map[string]string{c.Fact: fact}
		if c.Holds(facts) && not.Holds(facts) {
			t.Errorf("%q and its opposite hold for %q", text, fact)
		}
	})
}
