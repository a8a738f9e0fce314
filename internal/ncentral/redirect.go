// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package ncentral

import (
	"net/http"
	"net/url"
	"regexp"
	"strings"
)

const (
	// No header that came over a network has such a name: those begin with a capital.
	keptLocation = "location"

	maxHostShown = 100
)

var hostAndPort = regexp.MustCompile(`^[A-Za-z0-9._:\[\]-]+$`)

// singleAnswer sees to it that http.Client follows no redirect, not even to look at
// where it leads, and hides CloseIdleConnections, which retryablehttp calls after
// each failure at the cost of the calls that go well.
type singleAnswer struct {
	transport http.RoundTripper
}

func (s singleAnswer) RoundTrip(r *http.Request) (*http.Response, error) {
	response, err := s.transport.RoundTrip(r)
	if response != nil {
		// http.Client hands a redirect without a Location back as it came.
		if target, isReadable := targetOf(r.URL, response.Header.Get("Location")); isReadable {
			map[string][]string(response.Header)[keptLocation] = []string{target}
		}
		response.Header.Del("Location")
	}
	return response, err
}

// targetOf returns scheme, host and port of a redirect, "" where they are the same. A
// path or a query may hold anything.
func targetOf(from *url.URL, location string) (target string, isReadable bool) {
	to, err := from.Parse(location)
	if location == "" || err != nil || to.Scheme != "http" && to.Scheme != "https" || !hostAndPort.MatchString(to.Host) || len(to.Host) > maxHostShown {
		return "", false
	}
	if to.Scheme == from.Scheme && strings.EqualFold(to.Host, from.Host) {
		return "", true
	}
	return to.Scheme + "://" + to.Host, true
}

// describeRedirect tells where a redirect leads.
func describeRedirect(header http.Header, secret string) finding {
	kept := map[string][]string(header)[keptLocation]
	if len(kept) == 0 {
		return finding{"", "a redirect without a target that can be read"}
	}
	scheme, host, isOther := strings.Cut(kept[0], "://")
	if !isOther {
		return finding{"", "a redirect within the same server"}
	}
	found := finding{"", "a redirect to " + scheme + "://" + filterHost(host, secret)}
	if scheme == "https" {
		found.fault = FaultRedirect
	}
	return found
}

// filterHost is filter for a host, whose parts may together be as long as a token.
func filterHost(host string, secrets ...string) string {
	for _, secret := range secrets {
		host = redactParts(host, secret)
	}
	labels := strings.Split(host, ".")
	for i := range labels {
		labels[i] = filter(labels[i])
	}
	return strings.Join(labels, ".")
}
