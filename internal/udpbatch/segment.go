package udpbatch

// Bounds of UDP segmentation offload (UDP_SEGMENT) on Linux.
const (
	trainMax      = 64    // datagrams in one send
	trainBytesMax = 65507 // their payload together: an IPv4 packet less its headers and UDP's
)

// train tells how many of bufs, from the first on, may leave as one send that the kernel cuts into datagrams: all as long as the
// first, only the last may be shorter, and none empty. It is at least 1.
func train(bufs [][]byte) int {
	size := len(bufs[0])
	if size == 0 {
		return 1
	}
	n, total := 1, size
	for n < len(bufs) && n < trainMax {
		l := len(bufs[n])
		if l == 0 || l > size || total+l > trainBytesMax {
			break
		}
		n++
		total += l
		if l < size {
			break
		}
	}
	return n
}

// Cut takes the next datagram off what one receive brought. segment is the datagrams' size as the kernel told it, 0 if there is but one.
func Cut(data []byte, segment int) (datagram, rest []byte) {
	if segment <= 0 || segment >= len(data) {
		return data, nil
	}
	return data[:segment:segment], data[segment:]
}
