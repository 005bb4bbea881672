package events

import "testing"

func TestLookup3GivesPublishedVector(t *testing.T) {
	c, b := lookup3([]byte("Four score and seven years ago"))
	if c != 0x17770551 || b != 0xce7226e6 {
		t.Fatalf("c=%08x b=%08x", c, b)
	}
}

func TestPartitionVectors(t *testing.T) {
	tests := []struct {
		device            string
		logical, of4, of2 int
		of32              int
	}{
		{"edge1", 4310, 0, 0, 4},
		{"device1", 19406, 2, 1, 18},
		{"a", 9517, 1, 0, 9},
		{"my-edge-device-01", 13446, 1, 0, 13},
		{"contoso-device-12345678", 27902, 3, 1, 27},
		{"ABCDEFGHIJKL", 22645, 2, 1, 22},
	}
	for _, tt := range tests {
		t.Run(tt.device, func(t *testing.T) {
			if got := logicalPartition(tt.device); got != tt.logical {
				t.Errorf("logical partition %d, want %d", got, tt.logical)
			}
			for n, want := range map[int]int{4: tt.of4, 2: tt.of2, 32: tt.of32} {
				if got := Partition(tt.device, n); got != want {
					t.Errorf("of %d: %d, want %d", n, got, want)
				}
			}
		})
	}
}

func TestEveryDeviceHasAPartition(t *testing.T) {
	for n := 1; n <= 32; n++ {
		for _, device := range []string{"", "x", "é", "0123456789abc", "zzzzzzzzzzzzzzzzzzzzzzzz"} {
			if p := Partition(device, n); p < 0 || p >= n {
				t.Errorf("%q of %d: %d", device, n, p)
			}
		}
	}
}
