package server

import (
	"context"
	"errors"
	"fmt"
	"math"

	"connectrpc.com/connect"

	"warren/coord/domain"
	"warren/coord/reason"
	"warren/proto/key"
	"warren/proto/record"
	pb "warren/proto/warrenv1"
)

// Apply implements CoordinatorService: a device changes itself, and nothing else.
func (a *agents) Apply(ctx context.Context, req *connect.Request[pb.ApplyRequest]) (*connect.Response[pb.ApplyResponse], error) {
	if err := a.slow(req); err != nil {
		return nil, err
	}
	m, device, err := a.openApply(req.Msg)
	if err != nil {
		return nil, a.errMalformed(err)
	}
	change, err := changeOf(m, device)
	if err != nil {
		return nil, a.errMalformed(err)
	}
	var out pb.ApplyResponse
	var refused error
	err = a.commit(ctx, func(b *batch) error {
		d, err := b.device(device)
		if err != nil {
			return err
		}
		if d == nil {
			return a.notMember("device")
		}
		if err := domain.CheckSelf(d, change); err != nil {
			return err
		}
		var lookUp error
		next, err := domain.ApplySelf(&a.network, d, change, b.taken(&lookUp), a.cfg.Now())
		if lookUp != nil {
			return lookUp
		}
		if refused = err; err != nil {
			next = d // but the number counts, or the change could be played again at a better time
		}
		counted := *next
		counted.Sequence = change.Sequence
		if err := b.put(&counted); err != nil {
			return err
		}
		out.Record = b.devices[0].Signed
		return nil
	})
	if err = errors.Join(err, refused); err != nil {
		return nil, a.failure("change", err)
	}
	a.log.Info("device changed itself", "key", device.Short(), "change", fmt.Sprintf("%T", m.GetChange()))
	return connect.NewResponse(&out), nil
}

func (s *Server) openApply(r *pb.ApplyRequest) (*pb.ApplyBody, key.DevicePublic, error) {
	m := new(pb.ApplyBody)
	if err := record.Parse(record.ContextApply, r.GetApply().GetPayload(), m); err != nil {
		return nil, key.DevicePublic{}, err
	}
	device, err := key.DevicePublicFromBytes(m.GetDeviceKey())
	if err != nil {
		return nil, device, fmt.Errorf("device key: %w", err)
	}
	if err := record.Verify(device, record.ContextApply, r.GetApply().GetPayload(), r.GetApply().GetSignature()); err != nil {
		return nil, device, err
	}
	return m, device, s.checkAudience(m.GetNetworkId(), m.GetCoordinatorKey())
}

// changeOf gives the change that the device asks for.
func changeOf(m *pb.ApplyBody, by key.DevicePublic) (domain.SelfChange, error) {
	c := domain.SelfChange{By: by, Sequence: m.GetSequence()}
	var err error
	switch x := m.GetChange().(type) {
	case *pb.ApplyBody_Leave:
		c.Leave = true
	case *pb.ApplyBody_SetName:
		c.Name = x.SetName.GetName()
	case *pb.ApplyBody_SetNodeKey:
		if c.Node, err = key.NodePublicFromBytes(x.SetNodeKey.GetNodeKey()); err != nil {
			err = fmt.Errorf("node key: %w", err)
		}
	case *pb.ApplyBody_Advertise:
		c.Advertise = true
		c.Routes, err = advertisedFrom(x.Advertise)
	default:
		err = errors.New(reason.NoSuchChange)
	}
	if err == nil && c.Sequence > math.MaxInt64 {
		err = fmt.Errorf("sequence number %d is too large", c.Sequence) // the database's integers are signed
	}
	return c, err
}
