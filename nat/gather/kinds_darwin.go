package gather

import "net"

func kinds() map[int]string {
	out := map[int]string{}
	list, _ := net.Interfaces()
	for _, i := range list {
		out[i.Index] = kindByName(i.Name)
	}
	return out
}
