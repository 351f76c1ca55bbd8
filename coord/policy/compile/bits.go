package compile

import (
	"crypto/sha256"
	"encoding/binary"
	"iter"
	mathbits "math/bits"
)

// bits is a set of slots, one bit for each.
type bits []uint64

func (b bits) has(i int) bool { return i>>6 < len(b) && b[i>>6]&(1<<(i&63)) != 0 }

func (b *bits) set(i int) {
	for len(*b) <= i>>6 {
		*b = append(*b, 0)
	}
	(*b)[i>>6] |= 1 << (i & 63)
}

func (b bits) clear(i int) {
	if i>>6 < len(b) {
		b[i>>6] &^= 1 << (i & 63)
	}
}

// add makes b the union of b and o.
func (b *bits) add(o bits) {
	for len(*b) < len(o) {
		*b = append(*b, 0)
	}
	for i, w := range o {
		(*b)[i] |= w
	}
}

// without gives the slots of b that are not in o.
func (b bits) without(o bits) bits {
	out := make(bits, len(b))
	for i, w := range b {
		if i < len(o) {
			w &^= o[i]
		}
		out[i] = w
	}
	return out
}

// meets reports whether b and o have a slot in common.
func (b bits) meets(o bits) bool {
	for i := range min(len(b), len(o)) {
		if b[i]&o[i] != 0 {
			return true
		}
	}
	return false
}

func (b bits) empty() bool {
	for _, w := range b {
		if w != 0 {
			return false
		}
	}
	return true
}

func (b bits) count() (n int) {
	for _, w := range b {
		n += mathbits.OnesCount64(w)
	}
	return n
}

// onlyHas reports whether b has nothing besides i.
func (b bits) onlyHas(i int) bool {
	for j, w := range b {
		if j == i>>6 {
			w &^= 1 << (i & 63)
		}
		if w != 0 {
			return false
		}
	}
	return true
}

// all gives the slots in rising order.
func (b bits) all() iter.Seq[int] {
	return func(yield func(int) bool) {
		for i, w := range b {
			for ; w != 0; w &= w - 1 {
				if !yield(i<<6 + mathbits.TrailingZeros64(w)) {
					return
				}
			}
		}
	}
}

// sum is equal for equal sets.
func (b bits) sum() [32]byte {
	for len(b) > 0 && b[len(b)-1] == 0 {
		b = b[:len(b)-1]
	}
	buf := make([]byte, 0, 8*len(b))
	for _, word := range b {
		buf = binary.LittleEndian.AppendUint64(buf, word)
	}
	return sha256.Sum256(buf)
}
