package daemon

import (
	"context"
	"errors"

	"connectrpc.com/connect"

	"warren/internal/runlog"
	pb "warren/proto/warrenv1"
)

// LogLevel implements LocalService.
func (a *api) LogLevel(ctx context.Context, req *connect.Request[pb.LogLevelRequest]) (*connect.Response[pb.LogLevelResponse], error) {
	if _, err := a.admit(ctx); err != nil {
		return nil, err
	}
	if a.d.cfg.LogLevel == nil {
		return nil, connect.NewError(connect.CodeUnimplemented, errors.New("the level of this daemon's log cannot be changed"))
	}
	name, err := runlog.Change(a.d.cfg.LogLevel, a.d.log, req.Msg.GetLevel())
	if err != nil {
		return nil, connect.NewError(connect.CodeInvalidArgument, err)
	}
	return connect.NewResponse(&pb.LogLevelResponse{Level: name}), nil
}
