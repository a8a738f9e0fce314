// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package simulator_test

import (
	"fmt"
	"log"
	"net/http"

	"vault-plugin-secrets-ncentral/internal/simulator"
)

// authenticate calls the server with a User-API token and returns the status of the answer.
func authenticate(server *simulator.Server, userAPIToken string) int {
	transport := &http.Transport{DialContext: server.DialContext}
	defer transport.CloseIdleConnections()
	request, err := http.NewRequest(http.MethodPost, server.URL+"/api/auth/authenticate", http.NoBody)
	if err != nil {
		log.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer "+userAPIToken)
	response, err := (&http.Client{Transport: transport}).Do(request)
	if err != nil {
		log.Fatal(err)
	}
	defer response.Body.Close()
	return response.StatusCode
}

// A test needs a Simulator, a user and a Server. DialContext leads a client to the server.
func ExampleListenInMemory() {
	standIn := simulator.New(simulator.DefaultKnobs())
	userAPIToken := standIn.AddUser("api-user")
	server := simulator.ListenInMemory(standIn)
	defer server.Close()

	fmt.Println("Status:", authenticate(server, userAPIToken))
	fmt.Println("Open sessions:", standIn.OpenSessions())
	fmt.Println("Calls:", standIn.Counts())
	// Output:
	// Status: 200
	// Open sessions: 1
	// Calls: map[authenticate:map[ok:1]]
}

// Knobs change how the server behaves where servers differ. They can be changed while it runs.
func ExampleSimulator_Change() {
	standIn := simulator.New(simulator.DefaultKnobs())
	userAPIToken := standIn.AddUser("api-user")
	server := simulator.ListenInMemory(standIn)
	defer server.Close()

	standIn.Change(func(k *simulator.Knobs) { k.AuthenticateEndsEarlierSessions = true })
	authenticate(server, userAPIToken)
	authenticate(server, userAPIToken)
	fmt.Println("Open sessions:", standIn.OpenSessions())
	fmt.Println("The first was ended by:", standIn.Issued()[0].EndedBy)
	// Output:
	// Open sessions: 1
	// The first was ended by: authenticate
}

// Failures make the next calls of an endpoint fail, one after the other.
func ExampleSimulator_FailNext() {
	standIn := simulator.New(simulator.DefaultKnobs())
	userAPIToken := standIn.AddUser("api-user")
	server := simulator.ListenInMemory(standIn)
	defer server.Close()

	standIn.FailNext(simulator.EndpointAuthenticate, 1,
		simulator.Failure{Kind: simulator.FailureStatus, Status: 503})
	fmt.Println("Status:", authenticate(server, userAPIToken))
	fmt.Println("Status:", authenticate(server, userAPIToken))
	// Output:
	// Status: 503
	// Status: 200
}
