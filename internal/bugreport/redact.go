package bugreport

import (
	"bytes"
	"cmp"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"sync"
)

const hidden = "[secret]"

// Redactor takes out what is secret: join tokens, private keys, passwords, credentials in URLs and headers, and whatever it was told. With pseudonyms
// it also replaces addresses that are public, hardware addresses, keys and the names that it was told, each by the same word everywhere, so that it still
// shows what belongs together. It may be used by several goroutines.
type Redactor struct {
	pseudonyms bool
	patterns   []pattern

	mu      sync.Mutex
	secrets map[string]bool
	names   map[string]string // in lower case
	known   map[string]string // addresses and keys
	counts  map[string]int
	words   *regexp.Regexp // of names; nil: to be made
}

// pattern is something secret by its form: group "s" of a match, unless spare says that it is harmless. What is around it stays.
type pattern struct {
	form  *regexp.Regexp
	spare func(value string) bool
	keyed bool // by secretKey
}

// NewRedactor makes one that knows the forms of secrets.
func NewRedactor(pseudonyms bool) *Redactor {
	r := &Redactor{pseudonyms: pseudonyms, secrets: map[string]bool{}, names: map[string]string{}, known: map[string]string{}, counts: map[string]int{}}
	for _, p := range []struct {
		form  string
		spare func(string) bool
	}{
		{`(?P<s>wrn[0-9][A-Za-z0-9_-]{8,})`, nil},
		{`(?s)-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----(?P<s>.*?)(?:-----END|\z)`, nil},
		{`://(?P<s>[^/\s"'<>@]+)@`, nil},
		{`(?:https?|wss?|otlp)://[^\s"'?]*\?(?P<s>[^\s"']+)`, nil},
		{`(?i)(?:authorization|cookie|otel_exporter_otlp_headers)\\?["']?\s*[:=]\s*(?P<s>[^\r\n]+)`, nil},
		{`(?i)` + secretKey + `\\?["']?\s*[:=]\s*(?:\[\s*)?\\?"(?P<s>[^"\\\r\n]+)`, noSecret},
		{`(?i)` + secretKey + `(?:\\?["']?\s*=|\\?["']\s*:)\s*(?:\[\s*)?\\?["']?(?P<s>[^\s"',;\\]+)`, noSecret},
		{`(?im)^[\w\t -]*` + secretKey + `:[ \t]+(?P<s>[^\s"',;\\]+)`, noSecret},
		{`(?i)` + secretKey + `\\?["']?\s*[:= ]\s*\\?["']?(?P<s>[^\s"',;\\]+)`, harmless},
	} {
		r.patterns = append(r.patterns, pattern{regexp.MustCompile(p.form), p.spare, strings.Contains(p.form, secretKey)})
	}
	return r
}

// secretKey is what comes before a secret.
const secretKey = `(?:private[-_ ]?key|preshared[-_ ]?key|api[-_ ]?key|session[-_ ]?token|secret|passw(?:or)?d|passphrase|bearer|token)`

// hasKey reports whether there may be a match for secretKey, which takes far longer to find out.
func hasKey(b []byte) bool {
	b = bytes.ToLower(b)
	return slices.ContainsFunc([]string{"key", "token", "secret", "passw", "passphrase", "bearer"}, func(word string) bool { return bytes.Contains(b, []byte(word)) })
}

// tokenID is what tokens are called by; it admits nobody.
var tokenID = regexp.MustCompile(`^[0-9a-f]{10}$`)

// plainWord is one of a sentence about a secret, in small letters.
var plainWord = regexp.MustCompile(`^(?:[a-z]+[.:)]?|\d{1,3}|true|false|\[secret\])$`)

// harmless spares what is no secret, and sentences.
func harmless(value string) bool {
	return noSecret(value) || plainWord.MatchString(value) && len(value) < 12
}

// sign is what a setting has that says nothing, or the beginning of a list.
var sign = regexp.MustCompile(`^(?:[][{}()=:]+|\d{1,3}|true|false|null|\[secret\])$`)

// noSecret spares the names of tokens, and what can be no secret. The value of a setting is not spared for being a word.
func noSecret(value string) bool { return tokenID.MatchString(value) || sign.MatchString(value) }

// minSecret is the length from which something is replaced wherever it stands. What is shorter would be found by chance.
const minSecret = 8

// Secret has these bytes be taken out, in all the ways in which keys are written.
func (r *Redactor) Secret(raw []byte) {
	if len(raw) < minSecret {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, text := range []string{
		string(raw), hex.EncodeToString(raw), strings.ToUpper(hex.EncodeToString(raw)),
		base64.StdEncoding.EncodeToString(raw), base64.RawStdEncoding.EncodeToString(raw),
		base64.URLEncoding.EncodeToString(raw), base64.RawURLEncoding.EncodeToString(raw),
	} {
		r.secrets[text] = true
	}
}

// commonNames stand for something else than a person or a machine nearly everywhere.
var commonNames = []string{"root", "coordinator", "localhost", "warren", "relay", "direct", "none", "nobody", "linux", "auto"}

// Name has a name be replaced by a word of its kind, such as "device" and a number. It does nothing without pseudonyms.
func (r *Redactor) Name(kind, name string) {
	name = strings.ToLower(strings.TrimSpace(name))
	if _, err := netip.ParseAddr(name); !r.pseudonyms || name == "" || err == nil || slices.Contains(commonNames, name) {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.names[name] == "" {
		r.names[name] = r.next(kind)
		r.words = nil
	}
}

// next makes a new word. The caller holds mu.
func (r *Redactor) next(kind string) string {
	r.counts[kind]++
	return fmt.Sprintf("%s-%d", kind, r.counts[kind])
}

// Clean gives b without what is secret.
func (r *Redactor) Clean(b []byte) []byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	for secret := range r.secrets {
		b = bytes.ReplaceAll(b, []byte(secret), []byte(hidden))
	}
	keyed := hasKey(b)
	for _, p := range r.patterns {
		if keyed || !p.keyed {
			b = p.clean(b)
		}
	}
	if r.pseudonyms {
		b = r.rename(b)
	}
	return b
}

func (p pattern) clean(b []byte) []byte {
	group := 2 * p.form.SubexpIndex("s")
	var out []byte
	last := 0
	for _, m := range p.form.FindAllSubmatchIndex(b, -1) {
		from, to := m[group], m[group+1]
		if p.spare != nil && p.spare(string(b[from:to])) {
			continue
		}
		out = append(append(out, b[last:from]...), hidden...)
		last = to
	}
	if last == 0 {
		return b
	}
	return append(out, b[last:]...)
}

// Forms of what has pseudonyms.
var (
	hardwareForm = regexp.MustCompile(`\b[0-9A-Fa-f]{2}(?::[0-9A-Fa-f]{2}){5}\b`)
	addressForm  = regexp.MustCompile(`[0-9A-Fa-f:.]*[0-9A-Fa-f][:.][0-9A-Fa-f:.]+|::[0-9A-Fa-f:.]+`)
	keyForm      = regexp.MustCompile(`[A-Za-z0-9+/]{43}=|\b[A-Za-z0-9_-]{43}\b`)
)

// rename replaces names, addresses and keys. The caller holds mu.
func (r *Redactor) rename(b []byte) []byte {
	b = keyForm.ReplaceAllFunc(b, func(m []byte) []byte { return r.pseudonym("key", string(m)) })
	b = hardwareForm.ReplaceAllFunc(b, func(m []byte) []byte { return r.pseudonym("mac", strings.ToLower(string(m))) })
	b = addressForm.ReplaceAllFunc(b, r.address)
	if len(r.names) == 0 {
		return b
	}
	if r.words == nil {
		r.words = r.formOfNames()
	}
	return r.words.ReplaceAllFunc(b, func(m []byte) []byte { return []byte(r.names[strings.ToLower(string(m))]) })
}

// address replaces what is an address of the internet, also with a port or the end of a sentence after it. A time of day is none.
func (r *Redactor) address(m []byte) []byte {
	text := string(m)
	for _, end := range ends(text) {
		a, err := netip.ParseAddr(text[:end])
		if err != nil {
			continue
		}
		if !isPublic(a.Unmap()) {
			return m
		}
		return append(r.pseudonym("address", a.Unmap().String()), text[end:]...)
	}
	return m
}

// ends are where an address in the text may end.
func ends(text string) []int {
	trimmed := strings.TrimRight(text, ".:")
	port := max(strings.LastIndexByte(trimmed, ':'), 0)
	return []int{len(text), len(trimmed), port, min(len(trimmed)+2, len(text))} // the last is of an IPv6 address that ends so
}

// isPublic reports whether an address tells where somebody is. A link-local IPv6 address may have the hardware's in it.
func isPublic(a netip.Addr) bool {
	shared := netip.PrefixFrom(netip.AddrFrom4([4]byte{100, 64}), 10)
	switch {
	case a.Is6() && a.IsLinkLocalUnicast():
		return true
	case !a.IsGlobalUnicast(), a.IsPrivate(), shared.Contains(a), a.Is4() && a.As4()[0] == 0, a.Is4() && a.As4()[0] == 255:
		return false
	}
	return true
}

func (r *Redactor) pseudonym(kind, of string) []byte {
	if r.known[of] == "" {
		r.known[of] = r.next(kind)
	}
	return []byte(r.known[of])
}

// formOfNames matches whole names, the longest first.
func (r *Redactor) formOfNames() *regexp.Regexp {
	var all []string
	for name := range r.names {
		all = append(all, regexp.QuoteMeta(name))
	}
	slices.SortFunc(all, func(a, b string) int { return cmp.Or(len(b)-len(a), strings.Compare(a, b)) })
	return regexp.MustCompile(`(?i)\b(?:` + strings.Join(all, "|") + `)\b`)
}
