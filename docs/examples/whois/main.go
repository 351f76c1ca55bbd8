// Command whois is an example: a small HTTP server without passwords, which lets callers in by who they are in the network. It asks the
// daemon on this machine whose connection it has, over the socket that "warren daemon --whois-group" makes. It imports nothing of Warren.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"
)

func main() {
	listen := flag.String("listen", ":8080", "address to listen on")
	socket := flag.String("socket", "/run/warren/whois.sock", "socket of the daemon")
	users := flag.String("users", "", "users who may come in, joined by commas")
	groups := flag.String("groups", "", "groups whose users may come in, such as group:eng, joined by commas")
	tags := flag.String("tags", "", "tags of devices that may come in, joined by commas")
	flag.Parse()
	s := &server{
		users: strings.Split(*users, ","), groups: strings.Split(*groups, ","), tags: strings.Split(*tags, ","), client: dial(*socket),
	}
	web := http.Server{Addr: *listen, Handler: s, ReadHeaderTimeout: 5 * time.Second}
	log.Print(web.ListenAndServe())
	os.Exit(1)
}

// identity is the part of the daemon's answer that matters here.
type identity struct {
	// Device, User, Groups and Tags are of the device whose own address the caller has. All are empty if it is a host behind a gateway: nobody
	// knows who that is.
	Device string
	User   string
	Groups []string
	Tags   []string
	// Flows are what the caller's address and port have with this machine through the tunnel.
	Flows []struct{ Protocol, Grant string }
	// Grant is the one by which the connection was let in.
	Grant string `json:"-"`
}

// server greets those whom it knows.
type server struct {
	users, groups, tags []string
	client              *http.Client
}

// ServeHTTP implements http.Handler.
func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	who, err := s.whoIs(r.Context(), r.RemoteAddr)
	if err != nil {
		log.Printf("%s: %v", r.RemoteAddr, err)
		http.Error(w, "I do not know you", http.StatusForbidden)
		return
	}
	if !s.admits(who) {
		log.Printf("%s: device %s of %q, groups %v, tags %v, may not come in", r.RemoteAddr, who.Device, who.User, who.Groups, who.Tags)
		http.Error(w, fmt.Sprintf("I know you, %s, but you may not come in", name(who)), http.StatusForbidden)
		return
	}
	fmt.Fprintf(w, "Hello %s at %s, let in by grant %s\n", name(who), who.Device, who.Grant)
}

func name(who *identity) string {
	if who.User == "" {
		return who.Device
	}
	return who.User
}

func (s *server) admits(who *identity) bool {
	if who.User != "" && slices.Contains(s.users, who.User) {
		return true
	}
	return haveOne(who.Groups, s.groups) || haveOne(who.Tags, s.tags)
}

// haveOne reports whether two lists have a name in common; the empty one is what an empty flag gives.
func haveOne(a, b []string) bool {
	return slices.ContainsFunc(a, func(name string) bool { return name != "" && slices.Contains(b, name) })
}

// dial gives a client whose every request goes to the socket.
func dial(socket string) *http.Client {
	return &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		},
	}}
}

// whoIs asks the daemon who has the other end of a connection. An address says who somebody is only if the packets came through the tunnel,
// where sources are checked; the flow is the proof that they did.
func (s *server) whoIs(ctx context.Context, remote string) (*identity, error) {
	question, err := json.Marshal(map[string]string{"address": remote})
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://warren/warren.v1.LocalService/WhoIs", bytes.NewReader(question))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	r, err := s.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer r.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(r.Body, 1<<20))
	if err != nil {
		return nil, err
	}
	if r.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("the daemon answers %s: %s", r.Status, answer)
	}
	who := new(identity)
	if err := json.Unmarshal(answer, who); err != nil {
		return nil, err
	}
	if who.Device == "" {
		return nil, errors.New("the caller is behind a gateway")
	}
	for _, f := range who.Flows {
		if f.Protocol == "tcp" {
			who.Grant = f.Grant
			return who, nil
		}
	}
	return nil, errors.New("the connection did not come through the tunnel")
}
