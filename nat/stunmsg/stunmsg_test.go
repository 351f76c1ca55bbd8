package stunmsg

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"slices"
	"testing"
)

var (
	key4   = []byte("0123456789abcdef")
	addr4  = netip.MustParseAddrPort("203.0.113.7:40000")
	addr6  = netip.MustParseAddrPort("[2001:db8::7]:40001")
	testTx = TxID{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}
)

func TestRoundTrip(t *testing.T) {
	for name, tc := range map[string]struct {
		b        []byte
		class    Class
		username string
		mapped   netip.AddrPort
		signed   bool
	}{
		"plain request":   {NewRequest(testTx, nil, nil), Request, "", netip.AddrPort{}, false},
		"signed request":  {NewRequest(testTx, []byte("who"), key4), Request, "who", netip.AddrPort{}, true},
		"plain answer":    {NewSuccess(testTx, addr4, nil), Success, "", addr4, false},
		"signed answer":   {NewSuccess(testTx, addr6, key4), Success, "", addr6, true},
		"mapped IPv4in6":  {NewSuccess(testTx, netip.MustParseAddrPort("[::ffff:203.0.113.7]:40000"), nil), Success, "", addr4, false},
		"long user names": {NewRequest(testTx, make([]byte, maxUsername), key4), Request, string(make([]byte, maxUsername)), netip.AddrPort{}, true},
	} {
		t.Run(name, func(t *testing.T) {
			m, err := Parse(tc.b)
			if err != nil {
				t.Fatal(err)
			}
			if m.Class != tc.class || m.Tx != testTx || string(m.Username) != tc.username || m.Mapped != tc.mapped {
				t.Errorf("parsed %+v", m)
			}
			if err := m.Verify(key4); (err == nil) != tc.signed {
				t.Errorf("Verify: %v, signed %v", err, tc.signed)
			}
			if err := m.Verify([]byte("another")); !errors.Is(err, ErrIntegrity) {
				t.Errorf("Verify with another key: %v", err)
			}
		})
	}
}

// Every change of a single bit, and every length, is an error somewhere.
func TestDamage(t *testing.T) {
	whole := NewRequest(testTx, []byte("someone"), key4)
	for i := range len(whole) * 8 {
		b := slices.Clone(whole)
		b[i/8] ^= 1 << (i % 8)
		if m, err := Parse(b); err == nil && m.Verify(key4) == nil {
			t.Errorf("bit %d was changed and nobody noticed", i)
		}
	}
	for n := range whole {
		if _, err := Parse(whole[:n]); err == nil {
			t.Errorf("cut to %d bytes and nobody noticed", n)
		}
	}
}

// attr appends an attribute, padded, and corrects the header's length.
func attr(b []byte, kind uint16, value []byte) []byte {
	b = binary.BigEndian.AppendUint16(b, kind)
	b = binary.BigEndian.AppendUint16(b, uint16(len(value)))
	b = append(b, value...)
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	binary.BigEndian.PutUint16(b[2:], uint16(len(b)-headerSize))
	return b
}

func header(class uint16) []byte {
	b := binary.BigEndian.AppendUint16(nil, class)
	b = binary.BigEndian.AppendUint16(b, 0)
	b = binary.BigEndian.AppendUint32(b, cookie)
	return append(b, testTx[:]...)
}

func TestHostileAttributes(t *testing.T) {
	address := []byte{0, 1, 0, 80, 1, 2, 3, 4}
	for name, tc := range map[string]struct {
		b  []byte
		ok bool
	}{
		"bare header":                  {header(0x0001), true},
		"empty mapped address":         {attr(header(0x0101), attrXORMappedAddress, nil), false}, // CVE-2026-54909
		"short mapped address":         {attr(header(0x0101), attrXORMappedAddress, address[:6]), false},
		"IPv4 of IPv6's length":        {attr(header(0x0101), attrXORMappedAddress, append([]byte{0, 1}, make([]byte, 18)...)), false},
		"IPv6 of IPv4's length":        {attr(header(0x0101), attrXORMappedAddress, []byte{0, 2, 0, 80, 1, 2, 3, 4}), false},
		"unknown family":               {attr(header(0x0101), attrXORMappedAddress, []byte{0, 3, 0, 80, 1, 2, 3, 4}), false},
		"good mapped address":          {attr(header(0x0101), attrXORMappedAddress, address), true},
		"two mapped addresses":         {attr(attr(header(0x0101), attrXORMappedAddress, address), attrXORMappedAddress, address), false},
		"short classic address":        {attr(header(0x0101), attrMappedAddress, []byte{0}), false},
		"empty user name":              {attr(header(0x0001), attrUsername, nil), false},
		"long user name":               {attr(header(0x0001), attrUsername, make([]byte, maxUsername+1)), false},
		"short integrity":              {attr(header(0x0001), attrMessageIntegrity, make([]byte, 19)), false},
		"short fingerprint":            {attr(header(0x0001), attrFingerprint, make([]byte, 3)), false},
		"wrong fingerprint":            {attr(header(0x0001), attrFingerprint, make([]byte, 4)), false},
		"unknown, must be understood":  {attr(header(0x0001), 0x7fff, nil), false},
		"unknown, may be ignored":      {attr(header(0x0001), 0x8022, []byte("software")), true},
		"error without a code":         {attr(header(0x0111), attrErrorCode, nil), false},
		"another method":               {header(0x0003), false},
		"attribute behind fingerprint": {attr(NewRequest(testTx, nil, nil), 0x8022, nil), false},
		"length beyond the end": {func() []byte {
			b := attr(header(0x0001), 0x8022, []byte("abcd"))
			binary.BigEndian.PutUint16(b[headerSize+2:], 40)
			return b
		}(), false},
		"long without padding": {attr(header(0x0001), 0x8022, make([]byte, maxUnpadded)), false},
		"long with padding":    {attr(header(0x0001), attrPadding, make([]byte, MaxSize-headerSize-4)), true},
		"oversized":            {attr(header(0x0001), attrPadding, make([]byte, MaxSize-headerSize)), false},
	} {
		t.Run(name, func(t *testing.T) {
			m, err := Parse(tc.b)
			if (err == nil) != tc.ok {
				t.Errorf("Parse: %v, want ok %v", err, tc.ok)
			}
			if err == nil && m.Verify(key4) == nil {
				t.Error("an unsigned message passed")
			}
		})
	}
}

// What stands behind MESSAGE-INTEGRITY is not covered by it and must not count.
func TestAttributeBehindIntegrity(t *testing.T) {
	signed := NewSuccess(testTx, addr4, key4)
	withoutFingerprint := signed[:len(signed)-8]
	b := attr(slices.Clone(withoutFingerprint), attrUsername, []byte("evil"))
	m, err := Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	if m.Username != nil || m.Verify(key4) == nil {
		t.Errorf("an attribute behind the integrity counted: %+v", m)
	}
}

func TestPaddedRequest(t *testing.T) {
	user := []byte("0123456789abcdef")
	for _, tc := range []struct{ ask, want int }{
		{0, 72}, {76, 72}, {80, 80}, {1452, 1452}, {1455, 1452}, {MaxSize + 1000, MaxSize},
	} {
		b := NewPaddedRequest(testTx, user, key4, tc.ask)
		m, err := Parse(b)
		if err != nil {
			t.Fatal(err)
		}
		if len(b) != tc.want || m.Verify(key4) != nil || string(m.Username) != string(user) {
			t.Errorf("a request of %d bytes has %d, want %d; user %q", tc.ask, len(b), tc.want, m.Username)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(NewRequest(testTx, []byte("user"), key4))
	f.Add(NewRequest(testTx, nil, nil))
	f.Add(NewSuccess(testTx, addr6, key4))
	f.Add(attr(header(0x0101), attrXORMappedAddress, nil))
	f.Add(attr(header(0x0111), attrErrorCode, []byte{0, 0, 4, 1}))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := Parse(b)
		if err != nil {
			return
		}
		if !Looks(b) {
			t.Error("parsed what does not look like STUN")
		}
		if m.Verify([]byte("no message was signed with this")) == nil {
			t.Error("verified with a key that nobody used")
		}
		if m.Class < Request || m.Class > Failure {
			t.Errorf("class %d", m.Class)
		}
	})
}

func TestOtherPortRequest(t *testing.T) {
	m, err := Parse(NewOtherPortRequest(testTx))
	if err != nil || m.Class != Request || m.Tx != testTx || !m.OtherPort {
		t.Errorf("parsed %+v, %v", m, err)
	}
	if m, err := Parse(NewRequest(testTx, nil, nil)); err != nil || m.OtherPort {
		t.Errorf("an ordinary request: %+v, %v", m, err)
	}
	for name, tc := range map[string]struct {
		values [][]byte
		ok     bool
	}{
		"no change":     {[][]byte{{0, 0, 0, 0}}, true},
		"other port":    {[][]byte{{0, 0, 0, 2}}, true},
		"other address": {[][]byte{{0, 0, 0, 4}}, false},
		"both":          {[][]byte{{0, 0, 0, 6}}, false},
		"twice":         {[][]byte{{0, 0, 0, 2}, {0, 0, 0, 2}}, false},
		"short":         {[][]byte{{2}}, false},
		"long":          {[][]byte{{0, 0, 0, 2, 0}}, false},
	} {
		b := header(1)
		for _, v := range tc.values {
			b = attr(b, attrChangeRequest, v)
		}
		if m, err := Parse(b); (err == nil) != tc.ok || err == nil && m.OtherPort != (tc.values[0][3] == 2) {
			t.Errorf("%s: %+v, %v", name, m, err)
		}
	}
}
