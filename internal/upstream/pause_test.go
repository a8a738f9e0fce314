// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package upstream

import (
	"errors"
	"testing"
	"time"
	"unsafe"

	"vault-plugin-secrets-ncentral/internal/health"
	"vault-plugin-secrets-ncentral/internal/ncentral"
)

// suspended returns the time as it reads after the machine was suspended for that long: the wall
// clock went on, the monotonic one stood still. time.Time keeps the monotonic reading in its second
// word.
func suspended(t time.Time, by time.Duration) time.Time {
	later := t.Add(by)
	(*[2]int64)(unsafe.Pointer(&later))[1] -= int64(by)
	return later
}

func TestAPauseEndsAsSoonAsOneClockSaysSo(t *testing.T) {
	begun := time.Now()
	p := newCoolDown()
	p.begin(begun, begun, &health.Failure{Cause: errors.New("refused")})
	p.begin(begun, begun, &health.Failure{Cause: errors.New("refused")}) // 60 s
	tests := map[string]struct {
		now, tokenEnd time.Time
		active        bool
	}{
		"both clocks went on for a while": {begun.Add(59 * time.Second), time.Time{}, true},
		"both clocks went on":             {begun.Add(60 * time.Second), time.Time{}, false},
		"the machine was suspended":       {suspended(begun, time.Minute), time.Time{}, false},
		"the wall clock was set forward": {
			suspended(begun.Add(time.Second), 10*time.Minute),
			time.Time{},
			false,
		},
		"the wall clock was set back": {
			suspended(begun.Add(time.Minute), -10*time.Minute),
			time.Time{},
			false,
		},
		"the wall clock was set back, and it goes on": {
			suspended(begun.Add(time.Second), -10*time.Minute),
			time.Time{},
			true,
		},
		"suspended until the token in hand ended": {
			suspended(begun, 40*time.Second),
			begun.Add(35 * time.Second), false,
		},
		"suspended, and the token in hand has not ended": {
			suspended(begun, 40*time.Second),
			begun.Add(45 * time.Second), true,
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			if active := p.active(test.now, test.tokenEnd) != nil; active != test.active {
				t.Errorf("active: %t, want %t", active, test.active)
			}
		})
	}
}

func failed() *health.Failure { return &health.Failure{Cause: errors.New("no")} }

func TestEachFailureDoublesThePauseUpToTheLongest(t *testing.T) {
	for name, test := range map[string]struct {
		pause pause
		want  []time.Duration
	}{
		"cool-down": {newCoolDown(), []time.Duration{
			30 * time.Second, time.Minute, 2 * time.Minute, 4 * time.Minute, 8 * time.Minute, 10 * time.Minute,
			10 * time.Minute,
		}},
		"back-off": {newBackOff(), []time.Duration{
			time.Second, 2 * time.Second, 4 * time.Second, 8 * time.Second, 15 * time.Second, 15 * time.Second,
		}},
	} {
		t.Run(name, func(t *testing.T) {
			now := time.Now()
			for _, want := range test.want {
				cause := failed()
				test.pause.begin(now, now, cause)
				if !test.pause.until.Equal(now.Add(want)) || !cause.Next.Equal(test.pause.until) {
					t.Errorf("%s, told as %s, want %s", test.pause.until.Sub(now), cause.Next.Sub(now), want)
				}
				now = test.pause.until
			}
			test.pause.lift()
			if test.pause.active(now, time.Time{}) != nil {
				t.Error("it goes on after a success")
			}
			test.pause.begin(now, now, failed())
			if !test.pause.until.Equal(now.Add(test.want[0])) {
				t.Errorf("%s after a success, want %s", test.pause.until.Sub(now), test.want[0])
			}
		})
	}
}

// Calls that were under way together fail together, and tell of one failure.
func TestAFailureOfACallFromBeforeThePauseDoesNotLengthenIt(t *testing.T) {
	begun := time.Now()
	p := newBackOff()
	first := failed()
	p.begin(begun.Add(-time.Minute), begun, first)
	overtaken := failed()
	p.begin(begun.Add(-1), begun.Add(time.Second), overtaken)
	if want := begun.Add(time.Second); !p.until.Equal(want) || !overtaken.Next.Equal(want) || p.cause != first {
		t.Errorf("until %s, the later failure tells of %s", p.until.Sub(begun), overtaken.Next.Sub(begun))
	}
	p.begin(begun, begun.Add(time.Second), failed())
	if want := begun.Add(3 * time.Second); !p.until.Equal(want) {
		t.Errorf("a call that was sent as the pause began: until %s, want 3s", p.until.Sub(begun))
	}
}

func TestRetryAfterIsHonouredBetweenTheShortestPauseAndTenMinutes(t *testing.T) {
	for asked, want := range map[time.Duration]time.Duration{
		0: time.Second, time.Millisecond: time.Second, 7 * time.Second: 7 * time.Second, time.Minute: time.Minute,
		10 * time.Minute: 10 * time.Minute, time.Hour: 10 * time.Minute,
	} {
		now := time.Now()
		p := newBackOff()
		p.begin(now, now, &health.Failure{Cause: &ncentral.Error{RetryAfter: asked}})
		if got := p.until.Sub(now); got != want {
			t.Errorf("Retry-After %s: %s, want %s", asked, got, want)
		}
	}
}

func TestAPauseThatIsReleasedGoesOnDoublingWhereTheNextAttemptFailsToo(t *testing.T) {
	now := time.Now()
	p := newCoolDown()
	p.begin(now, now, failed())
	p.release()
	if p.active(now, time.Time{}) != nil || p.cause == nil {
		t.Error("it is not released, or its cause forgotten")
	}
	p.begin(now, now, failed())
	if !p.until.Equal(now.Add(time.Minute)) {
		t.Errorf("the next one lasts %s, want 1m0s", p.until.Sub(now))
	}
}

// A caller who was served a token until it ended is not to wait out a pause that began before.
func TestAPauseDoesNotOutlastTheTokenInHandButLastsItsFirstLength(t *testing.T) {
	begun := time.Now()
	p := newCoolDown()
	p.begin(begun, begun, failed())
	p.begin(begun, begun, failed()) // 60 s
	for name, test := range map[string]struct {
		now, tokenEnd time.Duration
		active        bool
	}{
		"it had ended before":                       {45 * time.Second, -time.Second, true},
		"it ended as the pause began":               {45 * time.Second, 0, true},
		"it ended since":                            {45 * time.Second, time.Second, false},
		"it ended since, before the first's length": {30*time.Second - 1, time.Second, true},
		"it ended since, after the first's length":  {30 * time.Second, time.Second, false},
		"it lives":          {45 * time.Second, 45*time.Second + 1, true},
		"it has just ended": {45 * time.Second, 45 * time.Second, false},
	} {
		t.Run(name, func(t *testing.T) {
			if active := p.active(begun.Add(test.now), begun.Add(test.tokenEnd)) != nil; active != test.active {
				t.Errorf("active: %t, want %t", active, test.active)
			}
		})
	}
}
