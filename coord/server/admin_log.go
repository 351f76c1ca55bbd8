package server

import (
	"context"
	"errors"

	"connectrpc.com/connect"

	"warren/internal/runlog"
	pb "warren/proto/warrenv1"
)

// SetLogLevel implements AdminService.
func (a *admin) SetLogLevel(_ context.Context, req *connect.Request[pb.SetLogLevelRequest]) (*connect.Response[pb.SetLogLevelResponse], error) {
	if a.cfg.LogLevel == nil {
		return nil, connect.NewError(connect.CodeUnimplemented, errors.New("the level of this coordinator's log cannot be changed"))
	}
	name, err := runlog.Change(a.cfg.LogLevel, a.log, req.Msg.GetLevel())
	if err != nil {
		return nil, connect.NewError(connect.CodeInvalidArgument, err)
	}
	return connect.NewResponse(&pb.SetLogLevelResponse{Level: name}), nil
}

// ServerDiagnostics implements AdminService.
func (a *admin) ServerDiagnostics(_ context.Context, _ *connect.Request[pb.ServerDiagnosticsRequest], out *connect.ServerStream[pb.ServerDiagnosticsResponse]) error {
	if a.cfg.Diagnostics == nil {
		return nil
	}
	for _, p := range a.cfg.Diagnostics() {
		if err := out.Send(&pb.ServerDiagnosticsResponse{Name: p.Name, Content: p.Content}); err != nil {
			return err
		}
	}
	return nil
}
