package splice

import (
	"bytes"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// half is a side of a net.Pipe pair whose directions end one by one.
type half struct {
	net.Conn          // what it reads
	w        net.Conn // what it writes
}

func (h *half) Write(b []byte) (int, error) { return h.w.Write(b) }
func (h *half) CloseWrite() error           { return h.w.Close() }
func (h *half) Close() error                { return errors.Join(h.Conn.Close(), h.w.Close()) }

// duplex gives two ends that know half-closing.
func duplex() (a, b *half) {
	r1, w1 := net.Pipe()
	r2, w2 := net.Pipe()
	return &half{r1, w2}, &half{r2, w1}
}

// TestStreams: bytes go both ways, and the end of one direction leaves the other open.
func TestStreams(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, a := duplex()
		server, b := duplex()
		result := make(chan Result, 1)
		go func() { result <- Streams(a, b, time.Minute) }()
		question, answer := bytes.Repeat([]byte("q"), 200000), bytes.Repeat([]byte("a"), 100000)
		go func() {
			client.Write(question)
			client.CloseWrite()
		}()
		got, err := io.ReadAll(server)
		if err != nil || !bytes.Equal(got, question) {
			t.Fatalf("%d bytes, %v", len(got), err)
		}
		go func() {
			<-time.After(50 * time.Second) // of the bubble's clock: less than idle
			server.Write(answer)
			server.CloseWrite()
		}()
		got, err = io.ReadAll(client)
		if err != nil || !bytes.Equal(got, answer) {
			t.Fatalf("%d bytes, %v", len(got), err)
		}
		if r := <-result; r != (Result{Out: 200000, In: 100000}) {
			t.Errorf("%+v", r)
		}
	})
}

// TestIdle: traffic of one direction keeps a pair, and none ends it; so does one that takes nothing.
func TestIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, a := duplex()
		server, b := duplex()
		result := make(chan Result, 1)
		go func() { result <- Streams(a, b, time.Minute) }()
		go io.Copy(io.Discard, server)
		for range 5 {
			client.Write([]byte("x"))
			<-time.After(45 * time.Second)
		}
		began := time.Now()
		client.Write([]byte("x"))
		if r := <-result; !errors.Is(r.Err, ErrIdle) || r.Out != 6 || time.Since(began) != time.Minute {
			t.Errorf("%+v after %s", r, time.Since(began))
		}
		if _, err := client.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
			t.Errorf("the client's side is open: %v", err)
		}

		client, a = duplex()
		_, b = duplex() // nobody reads
		go func() { result <- Streams(a, b, time.Minute) }()
		began = time.Now()
		go client.Write([]byte("x"))
		if r := <-result; !errors.Is(r.Err, ErrIdle) || time.Since(began) != time.Minute {
			t.Errorf("%+v after %s", r, time.Since(began))
		}
	})
}

// TestFails: a side that fails ends both, and one that knows no half-closing does so with its end.
func TestFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, a := duplex()
		server, b := duplex()
		result := make(chan Result, 1)
		go func() { result <- Streams(a, b, time.Minute) }()
		server.Conn.Close() // writes to it fail
		go client.Write([]byte("x"))
		if r := <-result; r.Err == nil {
			t.Errorf("%+v", r)
		}

		whole, a2 := net.Pipe()
		other, b2 := net.Pipe()
		go func() { result <- Streams(a2, b2, time.Minute) }()
		whole.Close()
		if _, err := other.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
			t.Errorf("the other side: %v", err)
		}
		<-result
	})
}

// TestPackets: datagrams keep their bounds, also over real sockets, one of which nobody listened on at first.
func TestPackets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, a := net.Pipe()
		server, b := net.Pipe()
		result := make(chan Result, 1)
		go func() { result <- Packets(a, b, time.Minute) }()
		buf := make([]byte, 100)
		for _, size := range []int{3, 50, 1} {
			go client.Write(make([]byte, size))
			if n, err := server.Read(buf); n != size || err != nil {
				t.Errorf("%d bytes of %d, %v", n, size, err)
			}
			go server.Write(make([]byte, 2*size))
			if n, err := client.Read(buf); n != 2*size || err != nil {
				t.Errorf("%d bytes of %d, %v", n, 2*size, err)
			}
		}
		began := time.Now()
		if r := <-result; r.Out != 54 || r.In != 108 || time.Since(began) != time.Minute {
			t.Errorf("%+v after %s", r, time.Since(began))
		}
	})
}

// TestRefusedPackets: that nobody listens does not end the pair.
func TestRefusedPackets(t *testing.T) {
	gone, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	at := gone.LocalAddr().(*net.UDPAddr)
	gone.Close()
	b, err := net.DialUDP("udp", nil, at)
	if err != nil {
		t.Fatal(err)
	}
	client, a := net.Pipe()
	var group sync.WaitGroup
	group.Go(func() { Packets(a, b, time.Minute) })
	for range 3 {
		if _, err := client.Write([]byte("x")); err != nil {
			t.Errorf("the pair has ended: %v", err)
		}
	}
	again, err := net.ListenUDP("udp", at)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if _, err := client.Write([]byte("hello")); err != nil {
		t.Error(err)
	}
	again.SetReadDeadline(time.Now().Add(10 * time.Second))
	buf := make([]byte, 10)
	for n := 1; n == 1; { // what was sent before may come, too
		if n, err = again.Read(buf); err != nil || string(buf[:n]) != "hello" && string(buf[:n]) != "x" {
			t.Errorf("%q, %v", buf[:n], err)
		}
	}
	client.Close()
	group.Wait()
}
