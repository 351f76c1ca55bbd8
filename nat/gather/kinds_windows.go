package gather

import (
	"golang.org/x/sys/windows"
	"golang.zx2c4.com/wireguard/windows/tunnel/winipcfg"
)

func kinds() map[int]string {
	out := map[int]string{}
	list, _ := winipcfg.GetAdaptersAddresses(windows.AF_UNSPEC, winipcfg.GAAFlagDefault)
	for _, a := range list {
		kind := kindByType(uint32(a.IfType), a.Description())
		out[int(a.IfIndex)], out[int(a.IPv6IfIndex)] = kind, kind
	}
	delete(out, 0) // of those without the family
	return out
}
