//go:build !unix

package engine

import (
	"errors"
	"net"
)

type uapiListener struct{ net.Listener }

func listenUAPI(string, string) (*uapiListener, error) {
	return nil, errors.New("not yet on this system: the UAPI pipe")
}

func (u *uapiListener) remove() { u.Close() }
