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

// fault is a way to trouble an N-central server, until the server is calmed.
type fault struct {
	name  string
	begin func(*ncentral) error
	// silences: the engine may not learn meanwhile whether a token lives.
	silences bool
	// ends: the sessions that the server had opened are no more.
	ends bool
	// explains are the authenticates that it causes which N-central answers well.
	explains int
	// regenerates: the config needs another User-API token afterwards.
	regenerates bool
}

// failing makes calls of an endpoint fail.
func failing(endpoint simulator.Endpoint, count int, failure simulator.Failure) fault {
	name := fmt.Sprintf("%s %s", endpoint, failure.Kind)
	if failure.Status != 0 {
		name = fmt.Sprintf("%s %d", endpoint, failure.Status)
	}
	explains := 0
	if failure.Kind == simulator.FailureExpiry {
		explains = 2 * count // of lifetimes that are of no use
	}
	return fault{
		name:     name,
		explains: explains,
		silences: endpoint == simulator.AnyEndpoint || endpoint == simulator.EndpointValidate || endpoint == simulator.EndpointServiceOrgs,
		begin:    func(n *ncentral) error { n.FailNext(endpoint, count, failure); return nil },
	}
}

// turning turns knobs.
func turning(name string, silences bool, change func(*simulator.Knobs)) fault {
	return fault{name: name, silences: silences, begin: func(n *ncentral) error { n.Change(change); return nil }}
}

// reboot is over at once.
var reboot = fault{name: "reboot", ends: true, begin: func(n *ncentral) error { n.Reboot(); return nil }}

// always is a count of failing calls.
const always = -1

// drawFault draws a fault: one call or several of one endpoint fail, or all calls do, or the server is another for a while.
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
	endpoints := []simulator.Endpoint{
		simulator.EndpointAuthenticate, simulator.EndpointRefresh, simulator.EndpointRefresh, simulator.EndpointValidate,
		simulator.EndpointLogout, simulator.EndpointServiceOrgs,
	}
	endpoint := endpoints[random.IntN(len(endpoints))]
	count := 1 + random.IntN(6)
	switch random.IntN(4) {
	case 0:
		kinds := []simulator.FailureKind{simulator.FailureLostAnswer, simulator.FailureTruncated, simulator.FailureOversized}
		return failing(endpoint, count, simulator.Failure{Kind: kinds[random.IntN(len(kinds))]})
	case 1:
		statuses := []int{400, 401, 403, 404}
		return failing(endpoint, count, simulator.Failure{Kind: simulator.FailureStatus, Status: statuses[random.IntN(len(statuses))]})
	case 2:
		if endpoint == simulator.EndpointAuthenticate || endpoint == simulator.EndpointRefresh {
			lifetimes := []json.Number{"0", "-1", "1", "3", "1e99"}
			kinds := []simulator.Failure{
				{Kind: simulator.FailureNoTokens},
				{Kind: simulator.FailureLineFeedToken},
				{Kind: simulator.FailureExpiry, ExpirySeconds: lifetimes[random.IntN(len(lifetimes))]},
			}
			return failing(endpoint, count, kinds[random.IntN(len(kinds))])
		}
	}
	return failing(endpoint, count, drawFailure(random))
}

// drawFailure draws a failure that any call can suffer.
func drawFailure(random *rand.Rand) simulator.Failure {
	kinds := []simulator.FailureKind{
		simulator.FailureHang, simulator.FailureReset, simulator.FailureHTML, simulator.FailureRedirect, simulator.FailureErrorMessage,
		simulator.FailureLostAnswer,
	}
	if random.IntN(2) == 0 {
		return simulator.Failure{Kind: kinds[random.IntN(len(kinds))]}
	}
	statuses := []int{429, 429, 500, 502, 503, 504}
	failure := simulator.Failure{Kind: simulator.FailureStatus, Status: statuses[random.IntN(len(statuses))]}
	if failure.Status == 429 || failure.Status == 503 {
		failure.RetryAfterSeconds = random.IntN(4)
	}
	return failure
}

func drawKnob(random *rand.Rand) fault {
	switch random.IntN(8) {
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
		return turning("overrides refused", false, func(k *simulator.Knobs) { k.RefuseLongOverrides, k.AccessLimit = true, 9*time.Second })
	case 6:
		return turning("grants longer", false, func(k *simulator.Knobs) { k.GrantLongerBy = 30 * time.Second })
	default:
		return turning("logout absent", false, func(k *simulator.Knobs) { k.LogoutAbsent = true })
	}
}

// drawMisfortune draws what befalls the server or its user.
func drawMisfortune(random *rand.Rand) fault {
	switch random.IntN(4) {
	case 0:
		return fault{name: "down", silences: true, begin: func(n *ncentral) error { return n.SetDown(true) }}
	case 1:
		return fault{name: "password expired", begin: func(n *ncentral) error { return n.SetPasswordExpired(apiUser, true) }}
	case 2:
		return fault{name: "user disabled", silences: true, begin: func(n *ncentral) error { return n.SetUserDisabled(apiUser, true) }}
	default:
		return fault{name: "token regenerated", regenerates: true, begin: (*ncentral).regenerate}
	}
}
