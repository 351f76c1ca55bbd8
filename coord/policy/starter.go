package policy

import (
	"encoding/json"
	"slices"
	"strings"
)

// BuiltIn gives the policy that equals the grant which networks had before they had a policy: all devices reach each other on everything.
func BuiltIn() []byte {
	return []byte(`// This network had no policy: every device could reach every other on every port. This policy keeps it so.
// Replace the grant by narrower ones, and see with "warren-coordinator policy diff FILE" what that would change.
{
	"grants": [
		{
			"name": "built-in",
			"src":  ["*"],
			"dst":  ["*"],
			"ip":   ["*"],
		},
	],
}
`)
}

// Starter gives the policy of a new network. Devices of one user reach each other; owners, if any, are put into a group to begin with.
func Starter(owners ...string) []byte {
	var group strings.Builder
	for _, o := range slices.Sorted(slices.Values(owners)) {
		if checkUser(o) == nil {
			q, _ := json.Marshal(o) // a string always has a JSON form
			group.WriteString("\n\t\t\t" + string(q) + ",")
		}
	}
	members := "[]"
	if group.Len() > 0 {
		members = "[" + group.String() + "\n\t\t]"
	}
	return []byte(strings.ReplaceAll(starter, "MEMBERS", members))
}

const starter = `// The policy of this network: what no grant allows is denied. Grants only add, so their order does not matter.
//
//   warren-coordinator policy check FILE   is it well formed, and do its tests pass?
//   warren-coordinator policy diff FILE    who would gain and who would lose what?
//   warren-coordinator policy set FILE     put it into force
//   warren-coordinator why SRC DST tcp/443 which grant allows this, or what is missing?
{
	// Names for several users, to be used in grants.
	"groups": {
		"group:admins": MEMBERS,
	},

	// Who may give a device which tag. A device with a tag belongs to its tags instead of a user.
	"tagOwners": {
		// "tag:web": ["group:admins"],
	},

	// Names for addresses and CIDRs behind gateways.
	"hosts": {
		// "office": "192.168.10.0/24",
	},

	"grants": [
		// The devices of each user reach each other.
		{
			"name": "own devices",
			"src":  ["autogroup:member"],
			"dst":  ["autogroup:self"],
			"ip":   ["*"],
		},

		// Administrators reach SSH on web servers, in working hours:
		// {
		// 	"name": "ssh for admins",
		// 	"src":  ["group:admins"],
		// 	"dst":  ["tag:web"],
		// 	"ip":   ["tcp:22", "icmp:*"],
		// 	"when": {"days": ["mon-fri"], "hours": "08:00-18:00", "zone": "Europe/Berlin"},
		// },

		// Everybody with a user reaches the office through its gateway, until a day:
		// {
		// 	"name":  "office",
		// 	"src":   ["autogroup:member"],
		// 	"dst":   ["office"],
		// 	"ip":    ["80,443", "udp:53"],
		// 	"until": "2030-12-31T18:00:00Z",
		// },
	],

	// What must stay allowed and denied; a policy whose tests fail is not put into force.
	"tests": [
		// {"src": "ann", "accept": ["tag:web:22"], "deny": ["tag:db:5432"]},
	],
}
`
