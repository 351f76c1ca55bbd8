package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"sync"
	"time"

	"connectrpc.com/connect"

	"warren/cmd/agent/internal/join"
	"warren/cmd/agent/internal/state"
	"warren/coord/client"
	"warren/proto/token"
)

// Join says where a daemon that belongs to no network finds a join token.
type Join struct {
	// Text is the token itself, and Origin tells where it is from. If it is empty, the first of Files that is there counts.
	Text, Origin string
	Files        []TokenFile
}

// TokenFile is a file with a token. Remove says that it is to be removed once the device has joined.
type TokenFile struct {
	Path   string
	Remove bool
}

// found is a token that was looked for.
type found struct {
	text, origin, remove string
	mode                 fs.FileMode // of its file
	token                *token.Token
	err                  error
}

// maxTokenFile is more than any token, with the space around it, has, in bytes.
const maxTokenFile = 1 << 14

// find looks for the token now.
func (j Join) find() found {
	if j.Text != "" {
		return parsed(found{text: j.Text, origin: j.Origin})
	}
	for _, f := range j.Files {
		b, mode, err := readToken(f.Path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		out := found{text: string(b), origin: f.Path, mode: mode}
		if f.Remove {
			out.remove = f.Path
		}
		if err != nil {
			out.text, out.err = "unreadable", err
			return out
		}
		return parsed(out)
	}
	return found{}
}

func parsed(f found) found {
	f.token, f.err = token.Parse(f.text)
	return f
}

func readToken(path string) ([]byte, fs.FileMode, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, 0, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, 0, err
	}
	b, err := io.ReadAll(io.LimitReader(f, maxTokenFile))
	return b, info.Mode(), err
}

// joiner enrols the device by itself, when there is a token to do it by.
type joiner struct {
	d    *daemon
	wake chan struct{}

	mu      sync.Mutex
	join    Join
	problem string
	named   string // the name that the coordinator was asked for last

	core join.Core // of run's goroutine
}

func newJoiner(d *daemon) *joiner {
	return &joiner{d: d, join: d.cfg.Join, wake: make(chan struct{}, 1), core: join.Core{Jitter: rand.Int64N}}
}

// look has it look at once, and for what j says from now on.
func (j *joiner) look(next Join) {
	j.mu.Lock()
	j.join, j.named = next, ""
	j.mu.Unlock()
	select {
	case j.wake <- struct{}{}:
	default:
	}
}

// run looks for a token, and does what is to be done about it, until ctx ends.
func (j *joiner) run(ctx context.Context) error {
	for ctx.Err() == nil {
		j.keepName(ctx)
		next := j.step(ctx)
		timer := time.NewTimer(time.Until(next))
		select {
		case <-ctx.Done():
		case <-timer.C:
		case <-j.wake:
		}
		timer.Stop()
	}
	return nil
}

// step does what is to be done now, and tells when to look again.
func (j *joiner) step(ctx context.Context) time.Time {
	for ctx.Err() == nil {
		j.mu.Lock()
		f := j.join.find()
		j.mu.Unlock()
		seen := j.seen(f)
		action, next := j.core.Next(time.Now(), seen)
		if action == join.Wait {
			if f.text == "" || seen.Member && seen.SameNetwork && !seen.Rejected {
				j.tell("")
			}
			return next
		}
		j.act(ctx, action, f)
	}
	return time.Now()
}

func (j *joiner) seen(f found) join.Seen {
	s := join.Seen{Removable: f.remove != "", Malformed: f.err != nil}
	if f.text != "" {
		s.Token = join.TokenOf(f.text)
	}
	d := j.d
	d.mu.Lock()
	defer d.mu.Unlock()
	if m := d.state.Membership; m != nil {
		s.Member, s.Rejected = true, d.session != nil && d.session.rejected()
		s.SameNetwork = f.token != nil && m.Network == f.token.Network && m.Authority.Equal(f.token.Authority)
	}
	return s
}

func (j *joiner) act(ctx context.Context, action join.Action, f found) {
	switch action {
	case join.Enrol:
		j.core.Done(time.Now(), j.attempt(ctx, f))
	case join.Remove:
		j.remove(f)
	case join.TellMalformed:
		j.tell(fmt.Sprintf("join token of %s: %v; put another one there", f.origin, f.err))
	case join.TellOtherNetwork:
		j.tell(fmt.Sprintf("the join token of %s is for network %s, but this device belongs to another one and stays there; for the other: warren leave, and a reload",
			f.origin, f.token.Network))
	case join.TellUsed:
		j.tell(fmt.Sprintf("the join token of %s is not used again, since this device has left that network; for joining again: warren up TOKEN", f.origin))
	case join.TellRejected:
		j.tell(fmt.Sprintf("the network wants this device no longer; the join token of %s does not overrule that, but one in a file of its own would", f.origin))
	}
}

// tell logs a problem that is new, and has status show it.
func (j *joiner) tell(problem string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if problem != "" && problem != j.problem {
		j.d.log.Warn("not joined by itself", "err", problem)
	}
	j.problem = problem
}

// warning is what keeps the device from joining.
func (j *joiner) warning() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.problem
}

// remove takes away the file of a token that has served.
func (j *joiner) remove(f found) {
	j.tell("")
	if err := os.Remove(f.remove); err != nil {
		j.d.log.Warn("this device has joined, and its token is not needed any more, but its file cannot be removed", "err", err)
		return
	}
	j.d.log.Info("token file removed, since this device has joined", "file", f.remove)
}

// attemptTime bounds one attempt.
const attemptTime = 20 * time.Second

func (j *joiner) attempt(ctx context.Context, f found) join.Outcome {
	ctx, cancel := context.WithTimeout(ctx, attemptTime)
	defer cancel()
	if f.remove != "" && f.mode.Perm()&0o007 != 0 {
		j.d.log.Warn("everybody on this host may have read the join token", "file", f.origin, "mode", f.mode.Perm())
	}
	err := j.d.joinBy(ctx, f.token)
	switch {
	case err == nil:
		j.tell("")
		if f.remove == "" {
			j.d.log.Info("joined; the token may be taken away", "token", f.origin)
		}
		return join.Joined
	case errors.Is(err, client.ErrRefused):
		j.tell(fmt.Sprintf("%v; put another token into %s, or run \"warren up TOKEN\"", err, f.origin))
		return join.Refused
	}
	j.tell(fmt.Sprintf("%v; trying again by the token of %s", err, f.origin))
	return join.Away
}

var errChangedMeanwhile = errors.New("somebody else has changed this device's membership meanwhile")

// joinBy makes the device a member, or renews it, and brings the tunnel up. It does not hold mu while it waits for the coordinator.
func (d *daemon) joinBy(ctx context.Context, t *token.Token) error {
	d.mu.Lock()
	next := *d.state
	err := d.ensureKeys(&next)
	d.mu.Unlock()
	if err != nil {
		return err
	}
	e, err := d.askToEnrol(ctx, t, &next)
	if err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if m := d.state.Membership; !next.Device.Public().Equal(d.state.Device.Public()) || m != nil && m.Network != t.Network {
		return errChangedMeanwhile
	}
	joined := *d.state
	joined.Membership = &state.Membership{Network: t.Network, Authority: t.Authority, Endpoints: t.Endpoints, Record: e.Signed}
	joined.Up = true
	after := d.effective(&joined)
	if err := d.holdKillSwitch(after); err != nil {
		return err
	}
	if err := d.save(after); err != nil {
		return err
	}
	d.applyOperator()
	if d.session != nil {
		d.session.askAgain()
	}
	if skewed(e.ClockSkew) {
		d.log.Warn(skewText(e.ClockSkew))
	}
	if err := d.ensureSession(); err != nil {
		d.log.Error("tunnel could not be brought up", "err", err)
	}
	return nil
}

// nameTime bounds how long the coordinator is asked for a name.
const nameTime = 10 * time.Second

// keepName asks the coordinator once for the name that the configuration gives this device, if it has another.
func (j *joiner) keepName(ctx context.Context) {
	d := j.d
	d.mu.Lock()
	defer d.mu.Unlock()
	s := d.cfg.Managed.Settings
	if s.GetName() == "" || d.session == nil || !d.session.control.Load().Connected || d.session.name() == s.GetName() {
		return
	}
	j.mu.Lock()
	asked := j.named == s.GetName()
	j.mu.Unlock()
	if asked {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, nameTime)
	defer cancel()
	err := d.rename(ctx, s.GetName())
	if err != nil && !errors.Is(err, client.ErrRefused) {
		return // it is asked again soon
	}
	if err != nil {
		d.log.Warn("this device keeps its name", "name", d.session.name(), "wanted", s.GetName(), "by", d.cfg.Managed.Origin("name"), "err", err)
	}
	j.mu.Lock()
	j.named = s.GetName()
	j.mu.Unlock()
}

// notJoined is errNotEnrolled, with what keeps the device from joining by itself.
func (d *daemon) notJoined() error {
	if w := d.joiner.warning(); w != "" {
		return connect.NewError(connect.CodeFailedPrecondition, fmt.Errorf("this device has joined no network yet: %s", w))
	}
	return errNotEnrolled
}
