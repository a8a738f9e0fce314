// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package main

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"time"

	"vault-plugin-secrets-ncentral/internal/simulator"
)

// fault is a fault of an N-central server. It lasts until the server is calmed.
type fault struct {
	name  string
	begin func(*ncentral) error
	// silences says that the engine may be unable to learn whether a token is valid.
	silences bool
	// ends says that the server ends its open sessions.
	ends bool
	// explains is the number of successful authenticates that it causes.
	explains int
	// regenerates says that the config needs a new User-API token afterwards.
	regenerates bool
}

// failing returns a fault that makes calls of an endpoint fail.
func failing(endpoint simulator.Endpoint, count int, failure simulator.Failure) fault {
	name := fmt.Sprintf("%s %s", endpoint, failure.Kind)
	if failure.Status != 0 {
		name += fmt.Sprintf(" %d", failure.Status)
	}
	explains := 0
	if failure.Kind == simulator.FailureExpiry {
		explains = 2 * count // for lifetimes that are useless
	}
	return fault{
		name:     name,
		explains: explains,
		silences: endpoint == simulator.AnyEndpoint || endpoint == simulator.EndpointValidate ||
			endpoint == simulator.EndpointServiceOrgs,
		begin: func(n *ncentral) error { n.FailNext(endpoint, count, failure); return nil },
	}
}

// turning returns a fault that changes knobs.
func turning(name string, silences bool, change func(*simulator.Knobs)) fault {
	return fault{name: name, silences: silences, begin: func(n *ncentral) error { n.Change(change); return nil }}
}

// reboot ends the sessions, and is over at once.
var reboot = fault{name: "reboot", ends: true, begin: func(n *ncentral) error { n.Reboot(); return nil }}

// always is a count of failing calls without end.
const always = -1

// drawFault draws a fault: some calls of one endpoint fail, or all calls fail, or the server
// behaves differently for a while.
func drawFault(random *rand.Rand) fault {
	switch draw := random.IntN(20); {
	case draw < 2:
		return reboot
	case draw < 7:
		return drawFailureOfOneEndpoint(random)
	case draw < 12:
		return failing(simulator.AnyEndpoint, 1+random.IntN(10), drawFailure(random))
	case draw < 14:
		return failing(simulator.AnyEndpoint, always, drawFailure(random))
	case draw < 17:
		return drawKnob(random)
	default:
		return drawMisfortune(random)
	}
}

func drawFailureOfOneEndpoint(random *rand.Rand) fault {
	endpoint := pick(random, simulator.EndpointAuthenticate, simulator.EndpointRefresh, simulator.EndpointRefresh,
		simulator.EndpointValidate, simulator.EndpointLogout, simulator.EndpointServiceOrgs)
	count := 1 + random.IntN(6)
	opens := endpoint == simulator.EndpointAuthenticate || endpoint == simulator.EndpointRefresh
	switch draw := random.IntN(4); {
	case draw == 0:
		return failing(endpoint, count,
			simulator.Failure{Kind: pick(random, simulator.FailureLostAnswer, simulator.FailureTruncated,
				simulator.FailureOversized, simulator.FailureGzipBomb)})
	case draw == 1:
		return failing(endpoint, count,
			simulator.Failure{Kind: simulator.FailureStatus, Status: pick(random, 400, 401, 403, 404)})
	case draw == 2 && opens:
		return failing(endpoint, count, pick(random,
			simulator.Failure{Kind: simulator.FailureNoTokens},
			simulator.Failure{Kind: simulator.FailureLineFeedToken},
			simulator.Failure{Kind: simulator.FailureControlToken},
			simulator.Failure{
				Kind:          simulator.FailureExpiry,
				ExpirySeconds: pick[json.Number](random, "0", "-1", "1", "3", "1e99"),
			}))
	}
	return failing(endpoint, count, drawFailure(random))
}

// drawFailure draws a failure that any call can have.
func drawFailure(random *rand.Rand) simulator.Failure {
	switch random.IntN(10) {
	case 0, 1, 2, 3:
		failure := simulator.Failure{Kind: simulator.FailureStatus, Status: pick(random, 429, 429, 500, 502, 503, 504)}
		if failure.Status == 429 || failure.Status == 503 {
			failure.RetryAfterSeconds = random.IntN(4)
		}
		return failure
	case 4:
		return simulator.Failure{Kind: simulator.FailureHTML, Status: pick(random, 200, 401, 403, 503)}
	case 5:
		return simulator.Failure{Kind: simulator.FailureSlow, Delay: simulator.Delay(seconds(random, 0.1, 5))}
	case 6:
		return simulator.Failure{Kind: simulator.FailureDrip, Delay: simulator.Delay(20 * time.Millisecond)}
	default:
		return simulator.Failure{Kind: pick(random, simulator.FailureHang, simulator.FailureReset,
			simulator.FailureRedirect, simulator.FailureErrorMessage, simulator.FailureLostAnswer,
			simulator.FailureEndlessHeaders)}
	}
}

func pick[T any](random *rand.Rand, choices ...T) T { return choices[random.IntN(len(choices))] }

func drawKnob(random *rand.Rand) fault {
	switch random.IntN(9) {
	case 0:
		latency := time.Duration(50+random.IntN(1000)) * time.Millisecond
		return turning("slow", true, func(k *simulator.Knobs) { k.Latency = latency })
	case 1:
		return turning("too slow", true, func(k *simulator.Knobs) { k.Latency = requestTimeout + time.Second })
	case 2:
		return turning("few in flight", true, func(k *simulator.Knobs) { k.MaxInFlight = 2 })
	case 3:
		offset := time.Duration(1-2*random.IntN(2)) * 10 * time.Minute
		return turning("clock off", false, func(k *simulator.Knobs) { k.ClockOffset = offset })
	case 4:
		return turning("overrides ignored", false, func(k *simulator.Knobs) { k.IgnoreOverrides = true })
	case 5:
		return turning("overrides refused", false,
			func(k *simulator.Knobs) { k.RefuseLongOverrides, k.AccessLimit = true, 9*time.Second })
	case 6:
		return turning("grants longer", false, func(k *simulator.Knobs) { k.GrantLongerBy = 30 * time.Second })
	case 7:
		return turning("validate absent", false, func(k *simulator.Knobs) { k.ValidateAbsent = true })
	default:
		return turning("logout absent", false, func(k *simulator.Knobs) { k.LogoutAbsent = true })
	}
}

// drawMisfortune draws a fault of the whole server or of its user.
func drawMisfortune(random *rand.Rand) fault {
	switch random.IntN(4) {
	case 0:
		return fault{name: "down", silences: true, begin: func(n *ncentral) error { return n.SetDown(true) }}
	case 1:
		return fault{
			name:  "password expired",
			begin: func(n *ncentral) error { return n.SetPasswordExpired(n.user, true) },
		}
	case 2:
		return fault{
			name: "user disabled", silences: true,
			begin: func(n *ncentral) error { return n.SetUserDisabled(n.user, true) },
		}
	default:
		return fault{name: "token regenerated", regenerates: true, begin: (*ncentral).regenerate}
	}
}
