// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package simulator

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"
)

// delivery is how an answer is sent to the client, if at all.
type delivery int

const (
	deliverWhole   delivery = iota
	deliverHalf             // breaks off in the middle of the body
	deliverReset            // the connection is reset before anything is sent
	deliverDrip             // the body is sent byte by byte
	deliverBomb             // a small compressed body expands to a huge one
	deliverHeaders          // the headers go on for longer than any client waits
)

// send writes the answer. Where that takes long, it stops when the client has gone and the context
// ends. The Date header is this server's own clock, right or wrong.
func (a *answer) send(ctx context.Context, writer http.ResponseWriter, date time.Time) {
	switch a.delivery {
	case deliverReset:
		reset(writer)
		return
	case deliverHeaders:
		sendHeaders(writer)
		return
	}
	header := writer.Header()
	header.Set("Date", date.UTC().Format(http.TimeFormat))
	if a.contentType != "" {
		header.Set("Content-Type", a.contentType)
	}
	if a.location != "" {
		header.Set("Location", a.location)
	}
	if a.retryAfterSeconds > 0 {
		header.Set("Retry-After", strconv.Itoa(a.retryAfterSeconds))
	}
	switch a.delivery {
	case deliverHalf:
		a.sendHalf(writer)
	case deliverDrip:
		a.sendDrip(ctx, writer)
	case deliverBomb:
		a.sendBomb(writer)
	default:
		header.Set("Content-Length", strconv.Itoa(len(a.body)))
		writer.WriteHeader(a.status)
		_, _ = writer.Write(a.body) // a client that has gone needs no answer
	}
}

// sendHalf promises one byte too many, so that even an empty body breaks off.
func (a *answer) sendHalf(writer http.ResponseWriter) {
	writer.Header().Set("Content-Length", strconv.Itoa(len(a.body)+1))
	writer.WriteHeader(a.status)
	_, _ = writer.Write(a.body[:len(a.body)/2])
	_ = http.NewResponseController(writer).Flush()
	panic(http.ErrAbortHandler)
}

func (a *answer) sendDrip(ctx context.Context, writer http.ResponseWriter) {
	writer.Header().Set("Content-Length", strconv.Itoa(len(a.body)))
	writer.WriteHeader(a.status)
	for i := range a.body {
		if http.NewResponseController(writer).Flush() != nil || !sleep(ctx, a.pace) {
			panic(http.ErrAbortHandler)
		}
		_, _ = writer.Write(a.body[i : i+1])
	}
}

// bombBytes is the size of a decompression bomb. It is compressed to a thousandth of that.
const bombBytes = 256 << 20

// sendBomb sends well-formed JSON, which a client that reads without a limit accepts.
func (a *answer) sendBomb(writer http.ResponseWriter) {
	writer.Header().Set("Content-Encoding", "gzip")
	writer.WriteHeader(a.status)
	begin, end := padding(a.body)
	zipped := gzip.NewWriter(writer)
	chunk := bytes.Repeat([]byte("x"), 64<<10)
	_, err := zipped.Write(begin)
	for sent := 0; err == nil && sent < bombBytes; sent += len(chunk) {
		_, err = zipped.Write(chunk)
	}
	_, _ = zipped.Write(end) // as above, a client that has gone needs no answer
	_ = zipped.Close()
}

// endlessHeaderBytes is more than any client accepts. It ends the answer to a client that never
// hangs up.
const endlessHeaderBytes = 64 << 20

// sendHeaders bypasses net/http, which would first collect all headers in memory.
func sendHeaders(writer http.ResponseWriter) {
	connection, _, err := http.NewResponseController(writer).Hijack()
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	defer func() { _ = connection.Close() }()
	_ = connection.SetWriteDeadline(time.Now().Add(time.Minute)) // a client may neither read nor hang up
	_, err = io.WriteString(connection, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n")
	value := bytes.Repeat([]byte("x"), 1000)
	for sent := 0; err == nil && sent < endlessHeaderBytes; sent += len(value) {
		_, err = fmt.Fprintf(connection, "X-Padding-%d: %s\r\n", sent, value)
	}
}
