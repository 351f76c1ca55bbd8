package serve

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net/url"
	"sync/atomic"
	"time"

	"warren/cmd/coordinator/internal/config"
	"warren/internal/runlog"
	pb "warren/proto/warrenv1"
)

// certificate is that of --tls CERT,KEY, which may be replaced while it is used.
type certificate struct {
	current atomic.Pointer[tls.Certificate]
}

// get is the server's GetCertificate.
func (c *certificate) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	return c.current.Load(), nil
}

// ownCertificate loads the files of --tls CERT,KEY, before anything is made; nil with another mode.
func ownCertificate(c config.Config) (*certificate, error) {
	loaded, err := loadCertificate(c)
	if err != nil || loaded == nil {
		return nil, err
	}
	out := new(certificate)
	out.current.Store(loaded)
	return out, nil
}

// loadCertificate reads the files, which must be for the names in the URLs, since devices look for those.
func loadCertificate(config config.Config) (*tls.Certificate, error) {
	mode, certFile, keyFile, err := config.TLSMode()
	if err != nil || mode != pb.TLSMode_TLS_MODE_PUBLIC {
		return nil, err
	}
	c, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		return nil, fmt.Errorf("tls %s: %w", config.TLS, err)
	}
	if err := fits(&c, config.URLs); err != nil {
		return nil, fmt.Errorf("tls %s: %w", certFile, err)
	}
	return &c, nil
}

func fits(c *tls.Certificate, urls []string) error {
	for _, text := range urls {
		u, err := url.Parse(text)
		if err == nil {
			err = c.Leaf.VerifyHostname(u.Hostname())
		}
		if err != nil {
			return fmt.Errorf("the certificate does not fit %s: %w", text, err)
		}
	}
	return nil
}

// checkDates warns of a certificate that devices will not take by its dates. Which of clock and certificate is wrong is not known, and devices that are
// connected to relays go on: so it is served.
func checkDates(c *tls.Certificate, file string, now time.Time, log *slog.Logger) {
	if now.Before(c.Leaf.NotBefore) || now.After(c.Leaf.NotAfter) {
		log.Warn("devices will not take the certificate by its dates; set this machine's clock, or renew the certificate", "file", file,
			"good_from", c.Leaf.NotBefore, "good_until", c.Leaf.NotAfter, "clock", now.UTC().Truncate(time.Second))
	}
}

// reloader takes settings anew while the coordinator runs. It is for one goroutine.
type reloader struct {
	running config.Config // what holds now
	read    func() (config.Config, error)
	own     *certificate // nil without --tls CERT,KEY
	level   *slog.LevelVar
	log     *slog.Logger
}

func newReloader(o Options, own *certificate) *reloader {
	return &reloader{o.Config, o.Read, own, o.LogLevel, o.Log}
}

// reload reads the settings, and puts in force what can be while connections stand. If anything is wrong nothing is changed.
func (r *reloader) reload() {
	next, err := r.read()
	var loaded *tls.Certificate
	if err == nil {
		loaded, err = loadCertificate(next)
	}
	if err != nil {
		r.log.Error("the settings are not right, so nothing was changed", "err", err)
		return
	}
	renewed := r.renew(next, loaded)
	later := 0
	for _, c := range r.running.Changes(&next) {
		if c.Setting != "log-level" {
			later++
			r.log.Warn("setting changed; it needs a restart", "setting", c.Setting, "from", c.From, "to", c.To)
		}
	}
	if r.level != nil {
		r.running.LogLevel = next.LogLevel
		if _, err := runlog.Change(r.level, r.log, next.LogLevel); err != nil {
			r.log.Error("log level not changed", "err", err)
		}
	}
	r.log.Info("settings read again", "certificate_renewed", renewed, "need_a_restart", later)
}

// renew puts another certificate in use, if there is one that is for the names which devices know, and tells whether it did.
func (r *reloader) renew(next config.Config, loaded *tls.Certificate) bool {
	if r.own == nil || loaded == nil {
		return false
	}
	if err := fits(loaded, r.running.URLs); err != nil { // it may be for new ones
		r.log.Warn("the certificate read again needs a restart", "err", err)
		return false
	}
	r.running.TLS = next.TLS
	if bytes.Equal(bytes.Join(loaded.Certificate, nil), bytes.Join(r.own.current.Load().Certificate, nil)) {
		return false
	}
	r.own.current.Store(loaded)
	r.log.Info("certificate renewed", "tls", next.TLS, "names", loaded.Leaf.DNSNames, "good_until", loaded.Leaf.NotAfter)
	checkDates(loaded, next.TLS, time.Now(), r.log)
	return true
}
