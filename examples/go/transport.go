// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/hashicorp/vault/api"
)

// Transport sends requests to N-central, each with a token that it reads from Vault. Requests need
// a path and no host: the server is the one beside the token, so no token is sent elsewhere. After
// a 401 the token is validated, once, and the request repeated.
type Transport struct {
	Vault *api.Client
	Path  string // ncentral/creds/ROLE

	mutex   sync.Mutex
	token   string
	server  *url.URL
	againAt time.Time
}

func (t *Transport) RoundTrip(request *http.Request) (*http.Response, error) {
	body := request.Body
	for dead := ""; ; {
		token, server, err := t.creds(request.Context(), dead)
		if err != nil {
			return nil, err
		}
		attempt := request.Clone(request.Context())
		attempt.URL.Scheme, attempt.URL.Host, attempt.Host, attempt.Body = server.Scheme, server.Host, "", body
		attempt.URL.Path = server.Path + request.URL.Path
		attempt.URL.RawPath = server.EscapedPath() + request.URL.EscapedPath()
		attempt.Header.Set("Authorization", "Bearer "+token)
		response, err := http.DefaultTransport.RoundTrip(attempt)
		if err != nil || response.StatusCode != http.StatusUnauthorized || dead != "" {
			return response, err
		}
		if body != nil && body != http.NoBody { // is sent already, and http.NewRequest knows how to send it again
			if request.GetBody == nil {
				return response, nil
			}
			if body, err = request.GetBody(); err != nil {
				return response, nil //nolint:nilerr // the 401 says more
			}
		}
		response.Body.Close()
		dead = token
	}
}

// creds returns the token in hand until it is time to read again, or until that is the dead one.
func (t *Transport) creds(ctx context.Context, dead string) (token string, server *url.URL, err error) {
	t.mutex.Lock()
	defer t.mutex.Unlock()
	if time.Now().Before(t.againAt) && t.token != dead {
		return t.token, t.server, nil
	}
	query := url.Values{}
	if dead != "" {
		query.Set("validate", "true")
	}
	secret, err := t.Vault.Logical().ReadWithDataWithContext(ctx, t.Path, query)
	if err != nil {
		return "", nil, err
	}
	token, _ = secret.Data["access_token"].(string)
	address, _ := secret.Data["url"].(string)
	if server, err = url.Parse(address); err != nil || token == "" {
		return "", nil, fmt.Errorf("%s answers no token", t.Path)
	}
	seconds := int64(secret.LeaseDuration) * 7 / 10 // under a lease, come back well before its end
	if ttl, unleased := secret.Data["ttl"].(json.Number); unleased {
		seconds, _ = ttl.Int64()
	}
	t.token, t.server, t.againAt = token, server, time.Now().Add(time.Duration(seconds)*time.Second)
	return token, server, nil
}
