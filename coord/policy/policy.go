// Package policy is the document that says who may reach what: one HuJSON file with the sections that Tailscale and Headscale know, and time
// windows of our own. It parses and checks the text and knows nothing of devices; package compile joins both.
//
// Parse gives a Policy, or Problems that each name line, column, part and what would be right; what was read but does nothing here is in
// Policy.Warnings. Policy.Check looks for names that nobody has. Starter and BuiltIn give the text of a first policy.
//
//	p, err := policy.Parse(text)
//	if ps, ok := errors.AsType[policy.Problems](err); ok {
//		fmt.Print(ps.In("policy.hujson"))
//	}
//	errs, warnings := p.Check(names) // besides p.Warnings
//
// Nothing is allowed until a grant says so, and grants only ever add.
//
//	problem.go   problems and positions
//	tree.go      HuJSON as values that know their place
//	parse.go     the document's sections
//	names.go     groups, tag owners and hosts
//	ipset.go     IP sets
//	grant.go     grants and acls
//	selector.go  who or what a grant names
//	flow.go      protocols and ports
//	posture.go   conditions on devices
//	schedule.go  time windows
//	test.go      the document's own tests
//	check.go     names that the document alone cannot judge
//	starter.go   the text of a first policy
//	suggest.go   what was perhaps meant
package policy

import (
	"net/netip"
	"time"
)

// Bounds on a policy. A text beyond MaxSize is refused unread.
const (
	MaxSize      = 4 << 20 // bytes
	MaxGrants    = 4096    // of grants and acls together, after acls are split by ports
	MaxSelectors = 200_000 // in all lists together
	MaxPrefixes  = 100_000 // in all hosts and IP sets together
	maxTargets   = 10_000
	maxDepth     = 32
	maxName      = 256
)

// Policy is a parsed document. It does not change.
type Policy struct {
	Groups map[string]Group // by name without "group:"
	// TagOwners says who may give a device a tag; both without "tag:".
	TagOwners map[string][]Selector
	Hosts     map[string]Selector
	IPSets    map[string]Selector // by name without "ipset:"
	// Grants holds grants, then acls, in the order of the document.
	Grants       []Grant
	Approvers    []RouteApprover
	ExitApprover []Selector
	NodeAttrs    []NodeAttr
	Postures     map[string]Posture // by name without "posture:"
	Tests        []Test
	// Warnings are about parts that were read and do nothing here.
	Warnings Problems

	text  []byte
	lines []int
	// uses are names that are not defined in the document and must be known from elsewhere.
	uses []use
}

// Group is a named set of users.
type Group struct {
	Users []string // sorted, those of nested groups too
	// Foreign are nested groups that the document does not define.
	Foreign []string
	At      Offset
}

// Grant allows flows from Src to Dst.
type Grant struct {
	// ID is the grant's own name, or its place: grants[3], acls[0]. An acl whose destinations have different ports makes several grants of
	// one ID.
	ID    string
	Src   []Selector
	Dst   []Selector
	Flows []Flow
	// Via holds tags, without "tag:"; a destination behind a gateway or exit node is then only reached through one that has one of them.
	Via []string
	// Postures are names; a source device has to meet one of them. None: any device does.
	Postures []string
	Schedule *Schedule // nil: always
	At       Offset
}

// RouteApprover says whose devices may carry a CIDR, or a part of it, without a person's approval.
type RouteApprover struct {
	Route netip.Prefix
	By    []Selector
}

// NodeAttr gives attributes to devices.
type NodeAttr struct {
	Target []Selector
	Attrs  []string
}

// Test states what a policy must allow and deny.
type Test struct {
	ID     string // tests[2]
	Src    Selector
	Accept []TestTarget
	Deny   []TestTarget
	// Facts are what the source device's posture is taken to be.
	Facts map[string]string
	// Time is when the test is to hold; zero: now.
	Time time.Time
	At   Offset
}

// TestTarget is one destination of a test.
type TestTarget struct {
	Dst Selector
	// Flows are tried one by one; accept needs any of them, deny needs that none is allowed.
	Flows []Flow
	Text  string
	At    Offset
}

// Offset is a place in the text, in bytes.
type Offset int

// Text is what was parsed.
func (p *Policy) Text() []byte { return p.text }

// Position gives the line and column of an offset.
func (p *Policy) Position(at Offset) Position { return position(p.text, p.lines, int(at)) }
