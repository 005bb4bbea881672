package main

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

func TestAwaitGivesUpAHangingEnd(t *testing.T) {
	failed := errors.New("failed")
	tests := []struct {
		name         string
		stop, end    time.Duration // when ctx and when the run end; 0: never
		result       error
		inTime       bool
		took         time.Duration
		wantIsResult bool
	}{
		{"ends by itself", 0, time.Hour, failed, true, time.Hour, true},
		{"ends in time", time.Hour, time.Hour + 59*time.Second, nil, true, time.Hour + 59*time.Second, true},
		{"hangs", time.Hour, 0, nil, false, time.Hour + time.Minute, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				ended := make(chan error, 1)
				if tt.stop > 0 {
					time.AfterFunc(tt.stop, cancel)
				}
				if tt.end > 0 {
					time.AfterFunc(tt.end, func() { ended <- tt.result })
				}
				start := time.Now()
				inTime, err := await(ctx, ended, time.Minute)
				if inTime != tt.inTime || time.Since(start) != tt.took || tt.wantIsResult && !errors.Is(err, tt.result) || !tt.inTime && err == nil {
					t.Errorf("in time %v, error %v after %v", inTime, err, time.Since(start))
				}
			})
		})
	}
}
