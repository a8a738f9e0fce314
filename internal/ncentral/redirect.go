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
	// No header from the network has this name: Go writes those with a capital letter.
	targetHeader = "location"

	maxHostShown = 100
)

var hostAndPort = regexp.MustCompile(`^[A-Za-z0-9._:\[\]-]+$`)

// withoutRedirects keeps http.Client from following a redirect, or even parsing its target. It also
// hides CloseIdleConnections, which retryablehttp would call after each failure at the expense of
// other calls.
type withoutRedirects struct {
	transport http.RoundTripper
}

func (s withoutRedirects) RoundTrip(r *http.Request) (*http.Response, error) {
	response, err := s.transport.RoundTrip(r)
	if response != nil {
		// http.Client returns a redirect without a Location unchanged.
		if target, isReadable := targetOf(r.URL, response.Header.Get("Location")); isReadable {
			map[string][]string(response.Header)[targetHeader] = []string{target}
		}
		response.Header.Del("Location")
	}
	return response, err
}

// targetOf returns the scheme, host and port of a redirect, or "" where they do not change. The
// path and the query are left out, because they may hold anything.
func targetOf(from *url.URL, location string) (target string, isReadable bool) {
	to, err := from.Parse(location)
	if location == "" || err != nil || to.Scheme != "http" && to.Scheme != "https" ||
		!hostAndPort.MatchString(to.Host) || len(to.Host) > maxHostShown {
		return "", false
	}
	if to.Scheme == from.Scheme && strings.EqualFold(to.Host, from.Host) {
		return "", true
	}
	return to.Scheme + "://" + to.Host, true
}

// describeRedirect says where a redirect leads.
func describeRedirect(header http.Header, secret string) diagnosis {
	kept := map[string][]string(header)[targetHeader]
	if len(kept) == 0 {
		return diagnosis{"", "a redirect without a target that can be read"}
	}
	scheme, host, isOther := strings.Cut(kept[0], "://")
	if !isOther {
		return diagnosis{"", "a redirect within the same server"}
	}
	found := diagnosis{"", "a redirect to " + scheme + "://" + filterHost(host, secret)}
	if scheme == "https" {
		found.fault = FaultRedirect
	}
	return found
}

// filterHost is filter for a host name, whose labels together may be as long as a token.
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
