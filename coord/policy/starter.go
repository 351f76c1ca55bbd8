package policy

import (
	"encoding/json"
	"fmt"
	"net/netip"
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

// lans are the private addresses (RFC 1918, RFC 4193), one of which most networks behind gateways have.
func lans() []netip.Prefix {
	return []netip.Prefix{
		netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("172.16.0.0/12"), netip.MustParsePrefix("192.168.0.0/16"), netip.MustParsePrefix("fc00::/7"),
	}
}

// Starter gives the policy of a new network, which has overlay as its own prefixes. Devices of one user reach each other; everybody reaches what an
// administrator lets gateways with a tag carry, and the internet through exit nodes that an administrator approved. owners, if any, are put into a
// group to begin with.
func Starter(overlay []netip.Prefix, owners ...string) []byte {
	var set strings.Builder
	for _, p := range lans() {
		set.WriteString(fmt.Sprintf("\n\t\t\t%q,", "add "+p.String()))
	}
	for _, o := range overlay {
		if slices.ContainsFunc(lans(), o.Overlaps) {
			set.WriteString(fmt.Sprintf("\n\t\t\t%q, // devices of this network", "remove "+o.String()))
		}
	}
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
	return []byte(strings.NewReplacer("MEMBERS", members, "LANS", set.String()).Replace(starter))
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
		"tag:gateway": ["group:admins"],
		// "tag:web": ["group:admins"],
	},

	// Names for addresses and CIDRs behind gateways.
	"hosts": {
		// "printer": "192.168.10.20",
	},

	// Names for many of them.
	"ipsets": {
		"ipset:lans": [LANS
		],
	},

	// What gateways and exit nodes carry waits for "warren-coordinator route approve", except for these:
	"autoApprovers": {
		"routes": {
			// "192.168.10.0/24": ["tag:gateway"],
		},
		// "exitNode": ["tag:exit"],
	},

	"grants": [
		// The devices of each user reach each other.
		{
			"name": "own devices",
			"src":  ["autogroup:member"],
			"dst":  ["autogroup:self"],
			"ip":   ["*"],
		},

		// Everybody with a user reaches the networks behind gateways that join by a token made with --tags gateway, once their routes are approved.
		{
			"name": "behind gateways",
			"src":  ["autogroup:member"],
			"dst":  ["ipset:lans"],
			"ip":   ["*"],
			"via":  ["tag:gateway"],
		},

		// Everybody with a user reaches the internet through exit nodes that were approved.
		{
			"name": "exit nodes",
			"src":  ["autogroup:member"],
			"dst":  ["autogroup:internet"],
			"ip":   ["*"],
		},

		// Two sites reach each other, host by host:
		// {
		// 	"name": "sites",
		// 	"src":  ["10.1.0.0/16", "10.2.0.0/16"],
		// 	"dst":  ["10.1.0.0/16", "10.2.0.0/16"],
		// 	"ip":   ["*"],
		// },

		// Administrators reach SSH on web servers, in working hours:
		// {
		// 	"name": "ssh for admins",
		// 	"src":  ["group:admins"],
		// 	"dst":  ["tag:web"],
		// 	"ip":   ["tcp:22", "icmp:*"],
		// 	"when": {"days": ["mon-fri"], "hours": "08:00-18:00", "zone": "Europe/Berlin"},
		// },

		// Everybody with a user reaches one host behind any gateway, until a day:
		// {
		// 	"name":  "printer",
		// 	"src":   ["autogroup:member"],
		// 	"dst":   ["printer"],
		// 	"ip":    ["631"],
		// 	"until": "2030-12-31T18:00:00Z",
		// },
	],

	// What must stay allowed and denied; a policy whose tests fail is not put into force.
	"tests": [
		// {"src": "ann", "accept": ["tag:web:22"], "deny": ["tag:db:5432"]},
	],
}
`
