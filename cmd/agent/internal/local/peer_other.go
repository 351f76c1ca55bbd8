//go:build !linux

package local

import (
	"errors"
	"net"
)

var errSystem = errors.New("the warren daemon does not run on this system yet: only Linux tells it who calls")

func callerOf(net.Conn) (Caller, error) { return Caller{}, errSystem }

func listenPrivate(string) (*net.UnixListener, error) { return nil, errSystem }

// Operator is who, besides root, may use the API.
type Operator struct{}

// LookUpOperator resolves a user or group; on this system it fails for any but the empty name.
func LookUpOperator(name string) (Operator, error) {
	if name == "" {
		return Operator{}, nil
	}
	return Operator{}, errSystem
}

// Grant opens the socket file to the operator.
func Grant(string, Operator) error { return errSystem }

// Administrator reports whether c is root or the user the daemon runs as.
func (c Caller) Administrator() bool { return false }

// Allowed reports whether c may use the API.
func (c Caller) Allowed(Operator) bool { return false }
