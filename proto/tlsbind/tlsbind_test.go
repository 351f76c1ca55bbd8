package tlsbind

import (
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"math/big"
	"net"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"warren/proto/key"
	"warren/proto/record"
	pb "warren/proto/warrenv1"
)

// handshake runs a handshake on loopback and gives the client's error. (On a pipe, an alert and the rest of the server's flight would wait
// for each other.)
func handshake(t *testing.T, server tls.Certificate, client *tls.Config) error {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		tls.Server(conn, ServerConfig(server)).Handshake() // the client's error is the one that counts
	}()
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	err = tls.Client(conn, client).Handshake()
	conn.Close()
	<-done
	return err
}

type network struct {
	authority key.AuthorityPrivate
	id        record.NetworkID
}

func (n network) server(t *testing.T, role pb.TLSRole) tls.Certificate {
	t.Helper()
	k, err := NewKey()
	if err != nil {
		t.Fatal(err)
	}
	spki, err := SPKI(k.Public())
	if err != nil {
		t.Fatal(err)
	}
	binding, err := record.BindTLS(n.authority, n.id, role, spki)
	if err != nil {
		t.Fatal(err)
	}
	c, err := Certificate(k, binding)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func (n network) client(t *testing.T, roles ...pb.TLSRole) *tls.Config {
	t.Helper()
	c, err := ClientConfig(n.authority.Public(), n.id, pb.TLSMode_TLS_MODE_SELF, "192.0.2.1", roles...)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

const (
	coordinator = pb.TLSRole_TLS_ROLE_COORDINATOR
	relay       = pb.TLSRole_TLS_ROLE_RELAY
)

func TestHandshakes(t *testing.T) {
	own := network{key.NewAuthority(), record.NetworkID{1}}
	sameID, sameAuthority := network{key.NewAuthority(), own.id}, network{own.authority, record.NetworkID{2}}
	for _, test := range []struct {
		name   string
		server tls.Certificate
		roles  []pb.TLSRole
		ok     bool
	}{
		{"the coordinator", own.server(t, coordinator), []pb.TLSRole{coordinator}, true},
		{"either role", own.server(t, relay), []pb.TLSRole{coordinator, relay}, true},
		{"a relay that passes for the coordinator", own.server(t, relay), []pb.TLSRole{coordinator}, false},
		{"no role will do", own.server(t, relay), nil, false},
		{"another authority", sameID.server(t, coordinator), []pb.TLSRole{coordinator}, false},
		{"another network of the authority", sameAuthority.server(t, coordinator), []pb.TLSRole{coordinator}, false},
		{"a stolen binding", stolen(t, own), []pb.TLSRole{coordinator}, false},
		{"no binding", plain(t, nil), []pb.TLSRole{coordinator}, false},
		{"an empty binding", plain(t, []byte{}), []pb.TLSRole{coordinator}, false},
		{"garbage", plain(t, []byte("\xffgarbage")), []pb.TLSRole{coordinator}, false},
		{"a huge binding", plain(t, make([]byte, maxBinding+1)), []pb.TLSRole{coordinator}, false},
	} {
		err := handshake(t, test.server, own.client(t, test.roles...))
		if (err == nil) != test.ok || (err != nil && !errors.Is(err, ErrWrongCoordinator)) {
			t.Errorf("%s: %v", test.name, err)
		}
	}
}

// stolen is a server that shows another's binding with a key of its own.
func stolen(t *testing.T, n network) tls.Certificate {
	leaf, err := x509.ParseCertificate(n.server(t, coordinator).Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range leaf.Extensions {
		if e.Id.Equal(extension()) {
			return plain(t, e.Value)
		}
	}
	t.Fatal("a server without binding")
	return tls.Certificate{}
}

// plain is a server with this extension, or none if value is nil.
func plain(t *testing.T, value []byte) tls.Certificate {
	t.Helper()
	k, err := NewKey()
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(2), NotAfter: time.Now().Add(time.Hour), Subject: pkix.Name{CommonName: "x\x1b[2J"}}
	if value != nil {
		template.ExtraExtensions = []pkix.Extension{{Id: extension(), Value: value}}
	}
	der, err := x509.CreateCertificate(nil, template, template, k.Public(), k)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: k}
}

// A clock that is far off does no harm.
func TestClock(t *testing.T) {
	own := network{key.NewAuthority(), record.NetworkID{1}}
	server := own.server(t, coordinator)
	for _, at := range []time.Time{time.Unix(0, 0), time.Unix(1e10, 0)} {
		client := own.client(t, coordinator)
		client.Time = func() time.Time { return at }
		if err := handshake(t, server, client); err != nil {
			t.Errorf("at %s: %v", at, err)
		}
	}
}

func TestModes(t *testing.T) {
	own := network{key.NewAuthority(), record.NetworkID{1}}
	if c, err := ClientConfig(own.authority.Public(), own.id, pb.TLSMode_TLS_MODE_OFF, "x"); c != nil || err != nil {
		t.Errorf("off: %v, %v", c, err)
	}
	for _, mode := range []pb.TLSMode{0, 4, -1} {
		if c, err := ClientConfig(own.authority.Public(), own.id, mode, "x"); c != nil || err == nil {
			t.Errorf("mode %d: %v, %v", mode, c, err)
		}
	}
	// A publicly trusted name is checked as everywhere: a self-made certificate will not do, whatever it carries.
	c, err := ClientConfig(own.authority.Public(), own.id, pb.TLSMode_TLS_MODE_PUBLIC, "coordinator.example", coordinator)
	if err != nil || c.InsecureSkipVerify || c.ServerName != "coordinator.example" {
		t.Fatalf("public: %+v, %v", c, err)
	}
	if err := handshake(t, own.server(t, coordinator), c); err == nil {
		t.Error("a self-made certificate passed for a public one")
	}
	old := own.client(t, coordinator)
	old.MaxVersion, old.MinVersion = tls.VersionTLS12, tls.VersionTLS12
	if err := handshake(t, own.server(t, coordinator), old); err == nil {
		t.Error("TLS 1.2 was spoken")
	}
}

func FuzzVerify(f *testing.F) {
	authority := key.NewAuthority()
	binding, err := record.BindTLSHash(authority, record.NetworkID{1}, coordinator, [32]byte{1})
	if err != nil {
		f.Fatal(err)
	}
	b, err := proto.Marshal(binding)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, value []byte) {
		leaf := &x509.Certificate{Extensions: []pkix.Extension{{Id: extension(), Value: value}}, RawSubjectPublicKeyInfo: []byte("another key")}
		err := verify(authority.Public(), record.NetworkID{1}, []pb.TLSRole{coordinator, relay}, []*x509.Certificate{leaf})
		if !errors.Is(err, ErrWrongCoordinator) {
			t.Errorf("%v", err)
		}
	})
}
