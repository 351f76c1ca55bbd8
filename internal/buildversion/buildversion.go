// Package buildversion tells which version of Warren a program was built from. Get tells of the running one, Of of any.
package buildversion

import "runtime/debug"

// stamped is set by the linker where a release is built (packaging/build), such as v1.2.3.
var stamped string

// Get is the version that was stamped when it was released, or the module's version when it was installed as one, else the commit, marked when the tree was changed, else "devel".
func Get() string {
	if stamped != "" {
		return stamped
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "devel"
	}
	return Of(info)
}

// Of is Get for another program, whose information was read from its file.
func Of(info *debug.BuildInfo) string {
	if v := info.Main.Version; v != "" && v != "(devel)" {
		return v
	}
	var revision, changed string
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision" && len(s.Value) >= 12:
			revision = s.Value[:12]
		case s.Key == "vcs.modified" && s.Value == "true":
			changed = "+changed"
		}
	}
	if revision == "" {
		return "devel"
	}
	return "devel-" + revision + changed
}
