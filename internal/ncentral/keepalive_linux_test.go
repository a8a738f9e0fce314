// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package ncentral

import (
	"net"
	"syscall"
	"testing"
	"time"
)

// HTTP/1.1 has no pings, so TCP asks whether the other end is still there.
func TestTCPDropsALostConnectionAsSoonAsPingsDo(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	connection, err := newDialer().DialContext(t.Context(), "tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = connection.Close() }()
	raw, err := connection.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	option := func(fd uintptr, name int) int {
		value, err := syscall.GetsockoptInt(int(fd), syscall.IPPROTO_TCP, name)
		if err != nil {
			t.Fatal(err)
		}
		return value
	}
	err = raw.Control(func(fd uintptr) {
		idle, interval, probes := option(fd, syscall.TCP_KEEPIDLE), option(fd, syscall.TCP_KEEPINTVL),
			option(fd, syscall.TCP_KEEPCNT)
		lostAfter := time.Duration(idle+interval*probes) * time.Second
		if lostAfter != silenceBeforeProbe+probeTimeout {
			t.Errorf("a lost connection is dropped after %s, want %s", lostAfter, silenceBeforeProbe+probeTimeout)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
}
