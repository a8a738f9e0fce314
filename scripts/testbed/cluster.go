// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package testbed

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"
)

// clusterPatience is how long a cluster may take until every node has a vote. Raft's autopilot
// gives a node its vote after it has been stable for ten seconds.
const clusterPatience = 2 * time.Minute

// Cluster is a Raft cluster of server processes on loopback.
type Cluster struct {
	Nodes []*Server
}

// StartCluster starts a Raft cluster with this number of nodes. It waits until each node has a
// vote, so that one may be killed. The options apply to each node, except for its id and addresses.
// The context limits only the start.
func StartCluster(ctx context.Context, options Options, nodes int) (*Cluster, error) {
	cluster := &Cluster{}
	for number := range nodes {
		options.NodeID = "node-" + strconv.Itoa(number+1)
		node, err := cluster.startNode(ctx, options)
		if err != nil {
			return nil, errors.Join(err, cluster.Stop())
		}
		cluster.Nodes = append(cluster.Nodes, node)
	}
	if err := cluster.waitForVotes(ctx); err != nil {
		return nil, errors.Join(err, cluster.Stop())
	}
	return cluster, nil
}

// Active returns the active node among those whose processes run.
func (c *Cluster) Active(ctx context.Context) (*Server, error) {
	for _, node := range c.Nodes {
		select {
		case <-node.Ended():
			continue
		default:
		}
		if leader, err := node.client.Sys().LeaderWithContext(ctx); err == nil && leader.IsSelf {
			return node, nil
		}
	}
	return nil, errors.New("the cluster has no active node")
}

// Stop stops all nodes, the last first.
func (c *Cluster) Stop() error {
	var failure error
	for _, node := range slices.Backward(c.Nodes) {
		failure = errors.Join(failure, node.Stop())
	}
	return failure
}

func (c *Cluster) startNode(ctx context.Context, options Options) (*Server, error) {
	if len(c.Nodes) == 0 {
		return StartRaft(ctx, options)
	}
	first := c.Nodes[0]
	joining := func(server *Server, address, clusterAddress string) (map[string]any, error) {
		server.leader, server.unsealKey, server.RootToken = first.Address, first.unsealKey, first.RootToken
		return raftConfiguration(server, address, clusterAddress)
	}
	return start(ctx, options, joining, (*Server).join)
}

// join unseals a node that joins an existing cluster. It cannot be unsealed before the cluster has
// let it in.
func (s *Server) join(ctx context.Context) error {
	err := s.waitUntil(ctx, "joins its cluster", func(ctx context.Context) bool {
		status, err := s.client.Sys().UnsealWithContext(ctx, s.unsealKey)
		return err == nil && !status.Sealed
	})
	if err != nil {
		return err
	}
	return s.waitUntilServing(ctx)
}

func (c *Cluster) waitForVotes(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, clusterPatience)
	defer cancel()
	ticker := time.NewTicker(250 * time.Millisecond)
	defer ticker.Stop()
	for {
		votes, err := c.votes(ctx)
		if votes == len(c.Nodes) {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting until %d nodes vote: %d do: %w", len(c.Nodes), votes,
				errors.Join(ctx.Err(), err))
		case <-ticker.C:
		}
	}
}

// votes returns the number of nodes that have a vote.
func (c *Cluster) votes(ctx context.Context) (int, error) {
	answer, err := c.Nodes[0].client.Logical().ReadWithContext(ctx, "sys/storage/raft/configuration")
	if err != nil || answer == nil {
		return 0, err
	}
	config, _ := answer.Data["config"].(map[string]any)
	servers, _ := config["servers"].([]any)
	votes := 0
	for _, server := range servers {
		if described, ok := server.(map[string]any); ok && described["voter"] == true {
			votes++
		}
	}
	return votes, nil
}
