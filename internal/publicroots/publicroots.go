// Package publicroots has a program recognise public certificate authorities where the system names none, as in an image that holds the program
// alone: Use is all there is to call, once, by main.
package publicroots

import (
	"crypto/x509"

	"golang.org/x/crypto/x509roots/fallback/bundle"
)

// Use has certificates checked against Mozilla's list of authorities, as it was when the program was built, if the system has no list of its own.
// It panics when it is called twice.
func Use() { x509.SetFallbackRoots(pool()) }

func pool() *x509.CertPool {
	p := x509.NewCertPool()
	for root := range bundle.Roots() {
		cert, err := x509.ParseCertificate(root.Certificate)
		if err != nil { // of one that this version of Go does not read
			continue
		}
		if root.Constraint == nil {
			p.AddCert(cert)
		} else {
			p.AddCertWithConstraint(cert, root.Constraint)
		}
	}
	return p
}
