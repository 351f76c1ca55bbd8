package main

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"sync"

	"github.com/coder/websocket"
	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tun"

	"warren/internal/lab"
	"warren/internal/lab/warrennet"
	"warren/internal/udpbatch"
	"warren/proto/key"
)

// Names and addresses of the bare tunnel.
const (
	bareTun       = "bare0"
	bareLeftAddr  = "10.98.0.1"
	bareRightAddr = "10.98.0.2"
	bareMTU       = 1420
)

// bareKeys is the variable with a bare end's own and its peer's key, in hexadecimal as WireGuard's configuration has them.
const bareKeys = "WARREN_BENCH_KEYS"

// wsBind is the least that carries stock wireguard-go over a WebSocket connection: each batch is a message, each packet with its length before it.
type wsBind struct {
	ctx  context.Context
	ws   *websocket.Conn
	in   []byte // what the last message has left
	room []byte

	mu  sync.Mutex
	out []byte
}

// bareEndpoint is the only other end.
type bareEndpoint struct{}

func (bareEndpoint) ClearSrc()           {}
func (bareEndpoint) SrcToString() string { return "" }
func (bareEndpoint) DstToString() string { return "192.0.2.1:1" }
func (bareEndpoint) DstToBytes() []byte  { return []byte{1} }
func (bareEndpoint) DstIP() netip.Addr   { return netip.IPv4Unspecified() }
func (bareEndpoint) SrcIP() netip.Addr   { return netip.IPv4Unspecified() }

func (b *wsBind) Open(uint16) ([]conn.ReceiveFunc, uint16, error) {
	return []conn.ReceiveFunc{b.receive}, 1, nil
}
func (b *wsBind) Close() error                                { return nil }
func (b *wsBind) SetMark(uint32) error                        { return nil }
func (b *wsBind) ParseEndpoint(string) (conn.Endpoint, error) { return bareEndpoint{}, nil }
func (b *wsBind) BatchSize() int                              { return udpbatch.BatchSize }

func (b *wsBind) Send(bufs [][]byte, _ conn.Endpoint) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.out = b.out[:0]
	for _, p := range bufs {
		b.out = append(binary.BigEndian.AppendUint16(b.out, uint16(len(p))), p...)
	}
	return b.ws.Write(b.ctx, websocket.MessageBinary, b.out)
}

func (b *wsBind) receive(bufs [][]byte, sizes []int, eps []conn.Endpoint) (n int, err error) {
	for len(b.in) == 0 {
		if b.in, err = readBare(b.ctx, b.ws, b.room); err != nil {
			return 0, net.ErrClosed
		}
	}
	for n < len(bufs) && len(b.in) >= 2 {
		size := int(binary.BigEndian.Uint16(b.in))
		sizes[n], eps[n] = copy(bufs[n], b.in[2:2+size]), bareEndpoint{}
		b.in = b.in[2+size:]
		n++
	}
	return n, nil
}

// runBareEnd is the program at an end of the bare tunnel.
func runBareEnd(ctx context.Context, url string) error {
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}}}}
	ws, _, err := websocket.Dial(ctx, url, &websocket.DialOptions{HTTPClient: client, CompressionMode: websocket.CompressionDisabled})
	if err != nil {
		return err
	}
	ws.SetReadLimit(bareMessage)
	t, err := tun.CreateTUN(bareTun, bareMTU)
	if err != nil {
		return err
	}
	var own, peer string
	if _, err := fmt.Sscan(os.Getenv(bareKeys), &own, &peer); err != nil {
		return fmt.Errorf("%s: %w", bareKeys, err)
	}
	d := device.NewDevice(t, &wsBind{ctx: ctx, ws: ws, room: make([]byte, bareMessage)}, device.NewLogger(device.LogLevelError, "bare: "))
	defer d.Close()
	config := fmt.Sprintf("private_key=%s\npublic_key=%s\nendpoint=192.0.2.1:1\nallowed_ip=0.0.0.0/0\n", own, peer)
	if err := d.IpcSet(config); err != nil {
		return err
	}
	if err := d.Up(); err != nil {
		return err
	}
	slog.Info(forwarding)
	<-ctx.Done()
	return nil
}

// bareTunnel makes a tunnel of stock wireguard-go through the bare WebSocket forwarder on a host, and gives the programs at its ends.
func (b *bench) bareTunnel(hosts [2]*lab.Host, forwarder *lab.Host) (ends [2]*warrennet.Daemon, err error) {
	keys := [2]key.NodePrivate{key.NewNode(), key.NewNode()}
	addrs, paths := [2]string{bareLeftAddr, bareRightAddr}, [2]string{"/left", "/right"}
	self, err := os.Executable()
	if err != nil {
		return ends, err
	}
	for i, h := range hosts {
		cmd := h.Command(b.ctx, self, "-bare-end", fmt.Sprintf("https://%s:%d%s", forwarder.Addr, bareHTTPS, paths[i]))
		cmd.Env = append(cmd.Env, bareKeys+"="+hex.EncodeToString(keys[i].Bytes())+" "+hex.EncodeToString(keys[1-i].Public().Bytes()))
		if ends[i], err = warrennet.StartCommand(cmd); err != nil {
			return ends, err
		}
		if err := ends[i].AwaitLog(b.ctx, forwarding); err != nil {
			return ends, err
		}
		if err := h.Configure(bareTun, addrs[i], addrs[1-i], bareMTU); err != nil {
			return ends, err
		}
	}
	return ends, b.awaitPing(hosts[0], bareRightAddr)
}

// startForwarder runs a bare forwarder on a host.
func (b *bench) startForwarder(h *lab.Host, transport string) (*warrennet.Daemon, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	d, err := warrennet.StartCommand(h.Command(b.ctx, self, "-forward", transport))
	if err != nil {
		return nil, err
	}
	return d, d.AwaitLog(b.ctx, forwarding)
}
