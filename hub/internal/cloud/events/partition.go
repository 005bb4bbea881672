package events

import "math/bits"

// logicalPartitions is what devices are hashed to before the split.
const logicalPartitions = 32767

// Partition returns the partition of a device among n, as IoT Hub does: tests of
// the field compute it on their own.
func Partition(device string, n int) int {
	logical := logicalPartition(device)
	short, longer := logicalPartitions/n, logicalPartitions%n
	// The first `longer` ranges have one element more.
	if edge := longer * (short + 1); logical >= edge {
		return longer + (logical-edge)/short
	}
	return logical / (short + 1)
}

func logicalPartition(device string) int {
	upper := make([]byte, len(device))
	for i := range len(device) {
		b := device[i]
		if 'a' <= b && b <= 'z' {
			b -= 'a' - 'A'
		}
		upper[i] = b
	}
	c, b := lookup3(upper)
	v := int(int16(uint16(c^b))) % logicalPartitions
	if v < 0 {
		v = -v
	}
	return v
}

// lookup3 is Bob Jenkins' hashlittle2 with both seeds zero.
func lookup3(data []byte) (h1, h2 uint32) {
	a := 0xdeadbeef + uint32(len(data))
	b, c := a, a
	for len(data) > 12 {
		a += word(data)
		b += word(data[4:])
		c += word(data[8:])
		a, b, c = mix(a, b, c)
		data = data[12:]
	}
	if len(data) == 0 {
		return c, b
	}
	a += word(data)
	if len(data) > 4 {
		b += word(data[4:])
	}
	if len(data) > 8 {
		c += word(data[8:])
	}
	return final(a, b, c)
}

// word reads up to four bytes, little endian.
func word(data []byte) uint32 {
	var v uint32
	for i := range min(len(data), 4) {
		v |= uint32(data[i]) << (8 * i)
	}
	return v
}

func mix(a, b, c uint32) (uint32, uint32, uint32) {
	step := func(x, y, z uint32, n int) (uint32, uint32) { return (x - z) ^ bits.RotateLeft32(z, n), z + y }
	a, c = step(a, b, c, 4)
	b, a = step(b, c, a, 6)
	c, b = step(c, a, b, 8)
	a, c = step(a, b, c, 16)
	b, a = step(b, c, a, 19)
	c, b = step(c, a, b, 4)
	return a, b, c
}

func final(a, b, c uint32) (h1, h2 uint32) {
	c = (c ^ b) - bits.RotateLeft32(b, 14)
	a = (a ^ c) - bits.RotateLeft32(c, 11)
	b = (b ^ a) - bits.RotateLeft32(a, 25)
	c = (c ^ b) - bits.RotateLeft32(b, 16)
	a = (a ^ c) - bits.RotateLeft32(c, 4)
	b = (b ^ a) - bits.RotateLeft32(a, 14)
	c = (c ^ b) - bits.RotateLeft32(b, 24)
	return c, b
}
