package relay

// run collects packets of one device that came together, so that what is done for each is little. It is for one goroutine.
type run struct {
	deliver func(from rawKey, packets [][]byte)
	from    rawKey
	packets [][]byte
}

// add takes the next packet. It delivers what was collected of another device.
func (r *run) add(from rawKey, b []byte) {
	if r.from != from {
		r.end()
		r.from = from
	}
	r.packets = append(r.packets, b)
}

// end delivers what was collected.
func (r *run) end() {
	if len(r.packets) > 0 {
		r.deliver(r.from, r.packets)
		clear(r.packets)
		r.packets = r.packets[:0]
	}
}
