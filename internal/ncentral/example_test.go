// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package ncentral_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"time"

	"vault-plugin-secrets-ncentral/internal/ncentral"
	"vault-plugin-secrets-ncentral/internal/simulator"
)

// connect returns a client of the server.
func connect(server *simulator.Server) *ncentral.Client {
	transport, err := ncentral.NewTransport(ncentral.TransportOptions{DialContext: server.DialContext})
	if err != nil {
		log.Fatal(err)
	}
	return ncentral.New(ncentral.Options{BaseURL: server.URL, Transport: transport})
}

// A User-API token opens a session. Its access token is used until it is refreshed, and ended when
// it is no longer needed.
func Example() {
	standIn := simulator.New(simulator.DefaultKnobs())
	userAPIToken := standIn.AddUser("api-user")
	server := simulator.ListenInMemory(standIn)
	defer server.Close()
	client := connect(server)
	defer client.CloseIdleConnections()
	ctx := context.Background()

	session, err := client.Authenticate(ctx, userAPIToken, ncentral.Overrides{Access: 30 * time.Minute})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("The access token lives for", session.AccessLifetime)
	fmt.Println("The refresh token lives for", session.RefreshLifetime)
	fmt.Println("A data call with it returns the error", client.Data(ctx, session.AccessToken))

	refreshed, err := client.Refresh(ctx, session.RefreshToken, ncentral.Overrides{})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("Without an override it lives for", refreshed.AccessLifetime)

	if err := client.Logout(ctx, refreshed.AccessToken); err != nil {
		log.Fatal(err)
	}
	err = client.Validate(ctx, refreshed.AccessToken)
	fmt.Println("After the logout it is", ncentral.KindOf(err))
	// Output:
	// The access token lives for 30m0s
	// The refresh token lives for 25h0m0s
	// A data call with it returns the error <nil>
	// Without an override it lives for 1h0m0s
	// After the logout it is refused
}

// The kind of an Error says what to do next, its other fields say more.
func ExampleError() {
	standIn := simulator.New(simulator.DefaultKnobs())
	userAPIToken := standIn.AddUser("api-user")
	server := simulator.ListenInMemory(standIn)
	defer server.Close()
	client := connect(server)
	defer client.CloseIdleConnections()
	authenticate := func() *ncentral.Error {
		_, err := client.Authenticate(context.Background(), userAPIToken, ncentral.Overrides{})
		var failure *ncentral.Error
		if !errors.As(err, &failure) {
			log.Fatal(err)
		}
		return failure
	}

	standIn.FailNext(simulator.EndpointAuthenticate, 1,
		simulator.Failure{Kind: simulator.FailureStatus, Status: 429, RetryAfterSeconds: 30})
	failure := authenticate()
	fmt.Printf("%s: wait for %s\n", failure.Kind, failure.RetryAfter)

	standIn.FailNext(simulator.EndpointAuthenticate, 1,
		simulator.Failure{Kind: simulator.FailureHTML, Status: 403})
	failure = authenticate()
	fmt.Printf("%s, fault %s: the token was not judged\n", failure.Kind, failure.Fault)

	client.CloseIdleConnections() // a call on an old connection might fail in another way
	server.Stop()
	failure = authenticate()
	fmt.Printf("%s, fault %s: not sent is %t\n", failure.Kind, failure.Fault, failure.NotSent)
	// Output:
	// rate_limited: wait for 30s
	// malformed, fault in_its_place: the token was not judged
	// unreachable, fault refused: not sent is true
}
