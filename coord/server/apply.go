package server

import (
	"context"
	"errors"
	"fmt"

	"connectrpc.com/connect"

	"warren/coord/domain"
	"warren/coord/reason"
	"warren/proto/key"
	"warren/proto/record"
	pb "warren/proto/warrenv1"
)

// Apply implements CoordinatorService: a device changes itself, and nothing else.
func (a *agents) Apply(ctx context.Context, req *connect.Request[pb.ApplyRequest]) (*connect.Response[pb.ApplyResponse], error) {
	if err := a.limits.allow(remoteOf(req)); err != nil {
		return nil, a.refuse(connect.CodeResourceExhausted, "rate", err)
	}
	m, device, err := a.openApply(req.Msg)
	if err != nil {
		return nil, a.errMalformed(err)
	}
	var out pb.ApplyResponse
	err = a.commit(ctx, func(b *batch) error {
		d, err := b.device(device)
		if err != nil {
			return err
		}
		if d == nil {
			return a.notMember("device")
		}
		if m.GetSequence() <= d.Sequence {
			return a.refuse(connect.CodeAborted, reason.Sequence, fmt.Errorf("change number %d is not newer than %d", m.GetSequence(), d.Sequence))
		}
		next, err := a.change(b, d, m)
		if err != nil {
			return err
		}
		next.Sequence = m.GetSequence()
		if err := b.put(next); err != nil {
			return err
		}
		out.Record = b.devices[0].Signed
		return nil
	})
	var refused *connect.Error
	switch {
	case err == nil:
		return connect.NewResponse(&out), nil
	case errors.As(err, &refused):
		return nil, refused
	case errors.Is(err, domain.ErrName):
		return nil, a.refuse(connect.CodeAlreadyExists, reason.Name, err)
	case errors.Is(err, domain.ErrRemoved):
		return nil, a.refuse(connect.CodePermissionDenied, reason.Removed, err)
	}
	return nil, a.internal("change", err)
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

// change makes the next state of d as its device asked.
func (s *Server) change(b *batch, d *domain.Device, m *pb.ApplyBody) (*domain.Device, error) {
	now := s.cfg.Now()
	if d.Expired(now) && m.GetLeave() == nil {
		return nil, s.refuse(connect.CodePermissionDenied, reason.Expired, errExpired(d.ExpiresAt))
	}
	switch c := m.GetChange().(type) {
	case *pb.ApplyBody_Leave:
		s.log.Info("device left", "device", d.Name)
		return domain.Remove(&s.network, d, now)
	case *pb.ApplyBody_SetName:
		if c.SetName.GetName() == d.Name {
			return d, nil
		}
		s.log.Info("device renamed itself", "device", d.Name, "name", c.SetName.GetName())
		var failed error
		next, err := domain.Rename(&s.network, d, c.SetName.GetName(), b.taken(&failed).Name)
		return next, errors.Join(failed, err)
	case *pb.ApplyBody_SetNodeKey:
		k, err := key.NodePublicFromBytes(c.SetNodeKey.GetNodeKey())
		if err != nil {
			return nil, s.errMalformed(fmt.Errorf("node key: %w", err))
		}
		return domain.RotateNodeKey(&s.network, d, k)
	}
	return nil, s.errMalformed(errors.New("no change that this coordinator knows"))
}
