// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"

	"vault-plugin-secrets-ncentral/internal/simulator"
)

type options struct {
	listen           string
	adminListen      string
	plainHTTP        bool
	caCertFile       string
	user             string
	userAPITokenFile string
	knobs            simulator.Knobs
}

// parseOptions parses the flags. For -h it prints the usage and returns flag.ErrHelp.
func parseOptions(arguments []string, stderr io.Writer) (options, error) {
	parsed := options{knobs: simulator.DefaultKnobs()}
	flags := parsed.flagSet()
	var usage bytes.Buffer
	flags.SetOutput(&usage) // otherwise every error would print pages of usage
	err := flags.Parse(arguments)
	if errors.Is(err, flag.ErrHelp) {
		_, _ = stderr.Write(usage.Bytes())
	}
	if err != nil {
		return options{}, err
	}
	if flags.NArg() > 0 {
		return options{}, fmt.Errorf("unexpected argument %q: there are flags only, see -h", flags.Arg(0))
	}
	return parsed, parsed.check()
}

func (o *options) flagSet() *flag.FlagSet {
	flags := flag.NewFlagSet("ncentral-simulator", flag.ContinueOnError)
	flags.StringVar(&o.listen, "listen", "127.0.0.1:0",
		"loopback address of the N-central API; port 0 takes a free one")
	flags.StringVar(&o.adminListen, "admin-listen", "127.0.0.1:0",
		"loopback address for control at run time, over plain HTTP and without credentials")
	flags.BoolVar(&o.plainHTTP, "plain-http", false,
		"serve the N-central API over plain HTTP, instead of HTTPS with a certificate made at the start")
	flags.StringVar(&o.caCertFile, "ca-cert-file", "",
		"`file` to write the certificate to that clients have to trust, in PEM")
	flags.StringVar(&o.user, "user", "api-user", "name of the API user; more can be added at the admin address")
	flags.StringVar(&o.userAPITokenFile, "user-api-token-file", "",
		"`file` to write the user's User-API token to, with mode 0600")
	o.knobs.RegisterFlags(flags)
	return flags
}

func (o *options) check() error {
	if err := checkLoopback(o.listen); err != nil {
		return fmt.Errorf("-listen: %w", err)
	}
	if err := checkLoopback(o.adminListen); err != nil {
		return fmt.Errorf("-admin-listen: %w", err)
	}
	if o.plainHTTP && o.caCertFile != "" {
		return errors.New("-ca-cert-file: there is no certificate with -plain-http")
	}
	if o.user == "" {
		return errors.New("-user: must not be empty")
	}
	if err := o.knobs.Check(); err != nil {
		return errors.New("-" + strings.ReplaceAll(err.Error(), "_", "-")) // the knob's name as a flag
	}
	return nil
}

func checkLoopback(address string) error {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return fmt.Errorf("%q is not host:port", address)
	}
	if host == "localhost" {
		return nil
	}
	if ip, err := netip.ParseAddr(host); err != nil || !ip.IsLoopback() {
		return fmt.Errorf("%q is not a loopback address: use 127.0.0.1, [::1] or localhost", address)
	}
	return nil
}
