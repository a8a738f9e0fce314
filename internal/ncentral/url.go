// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package ncentral

import (
	"errors"
	"net"
	"net/url"
	"strconv"
	"strings"
)

// ParseBaseURL checks the address of an N-central server and returns it without surrounding white
// space and trailing slashes. The address must be https, or http to a loopback host. It must have
// no user information, query or fragment, and must end above /api. Errors say what to change and
// never repeat the address, which may hold a password.
func ParseBaseURL(raw string) (string, error) {
	raw = strings.TrimSpace(raw)
	if !strings.Contains(raw, "://") {
		return "", errors.New("the URL does not begin with https://: write it as https://ncentral.example.com")
	}
	if strings.ContainsAny(raw, "?#") {
		return "", errors.New("the URL has a query or a fragment: end it before the first ? or #")
	}
	address, err := url.Parse(raw)
	if err != nil {
		return "", errUnreadableURL
	}
	if address.User != nil {
		return "", errors.New("the URL holds a user name or a password: leave out all before the @")
	}
	if err := checkHost(address); err != nil {
		return "", err
	}
	if err := checkPath(address.Path); err != nil {
		return "", err
	}
	address.Path = strings.TrimRight(address.Path, "/")
	address.RawPath = strings.TrimRight(address.RawPath, "/")
	written := address.String()
	if _, err := url.Parse(written); err != nil { // as of the zone of an IPv6 address that is not ASCII
		return "", errUnreadableURL
	}
	return written, nil
}

var errUnreadableURL = errors.New("the URL cannot be read: write it as https://ncentral.example.com")

func checkHost(address *url.URL) error {
	host := address.Hostname()
	if host == "" {
		return errors.New("the URL has no host: write it as https://ncentral.example.com")
	}
	if strings.HasSuffix(address.Host, ":") {
		return errors.New("the URL has a colon without a port after its host: give the port or leave the colon out")
	}
	if port := address.Port(); port != "" {
		if number, err := strconv.ParseUint(port, 10, 16); err != nil || number == 0 {
			return errors.New("the URL's port must be between 1 and 65535")
		}
	}
	switch address.Scheme {
	case "https":
		return nil
	case "http":
		if isLoopback(host) {
			return nil
		}
		return errors.New("the URL has http, which would send tokens unencrypted: use https (http is for a " +
			"loopback host only)")
	default:
		return errors.New("the URL has a scheme other than https: write it as https://ncentral.example.com")
	}
}

func isLoopback(host string) bool {
	return strings.EqualFold(host, "localhost") || net.ParseIP(host).IsLoopback()
}

func checkPath(path string) error {
	path = strings.Trim(path, "/")
	if path == "" {
		return nil
	}
	for segment := range strings.SplitSeq(path, "/") {
		switch strings.ToLower(segment) {
		case "api":
			return errors.New("the URL leads into the API: give the base URL, without /api and what follows it")
		case "", ".", "..":
			return errors.New("the URL's path has a doubled slash or a dot segment: write it without")
		}
	}
	return nil
}
