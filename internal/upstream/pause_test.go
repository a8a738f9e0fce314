// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package upstream

import (
	"errors"
	"testing"
	"time"
	"unsafe"
)

// suspended returns the time as it reads after the machine was suspended for that long: the wall clock went on, the
// monotonic one stood still. time.Time keeps the monotonic reading in its second word.
func suspended(t time.Time, by time.Duration) time.Time {
	later := t.Add(by)
	(*[2]int64)(unsafe.Pointer(&later))[1] -= int64(by)
	return later
}

func TestAPauseEndsAsSoonAsOneClockSaysSo(t *testing.T) {
	begun := time.Now()
	p := newCoolDown()
	p.begin(begun, begun, &Failure{Cause: errors.New("refused")})
	p.begin(begun, begun, &Failure{Cause: errors.New("refused")}) // 60 s
	tests := map[string]struct {
		now, tokenEnd time.Time
		active        bool
	}{
		"both clocks went on for a while":                {begun.Add(59 * time.Second), time.Time{}, true},
		"both clocks went on":                            {begun.Add(60 * time.Second), time.Time{}, false},
		"the machine was suspended":                      {suspended(begun, time.Minute), time.Time{}, false},
		"the wall clock was set forward":                 {suspended(begun.Add(time.Second), 10*time.Minute), time.Time{}, false},
		"the wall clock was set back":                    {suspended(begun.Add(time.Minute), -10*time.Minute), time.Time{}, false},
		"the wall clock was set back, and it goes on":    {suspended(begun.Add(time.Second), -10*time.Minute), time.Time{}, true},
		"suspended until the token in hand ended":        {suspended(begun, 40*time.Second), begun.Add(35 * time.Second), false},
		"suspended, and the token in hand has not ended": {suspended(begun, 40*time.Second), begun.Add(45 * time.Second), true},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			if active := p.active(test.now, test.tokenEnd) != nil; active != test.active {
				t.Errorf("active: %t, want %t", active, test.active)
			}
		})
	}
}
