// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package upstream

import (
	"cmp"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-ncentral/internal/events"
	"vault-plugin-secrets-ncentral/internal/ncentral"
	"vault-plugin-secrets-ncentral/internal/store"
)

const (
	checkURL  = "check that url"
	setCACert = "set ca_cert to"
	setName   = "set tls_server_name"
	theProxy  = "the proxy that the environment names"

	proxyPassword = "the-password-of-the-proxy"
	secretPath    = "a-path-that-is-nobodys-business"
)

// site is what a config leads to.
type site struct {
	store.Config
	dial DialContext
}

// situation is a site, and what people are to be told of it: whose fault it is, and what to do.
type situation struct {
	site  func(t *testing.T) site
	told  []string
	never []string
}

// toldOf returns what the first step that fails is told by, when a config of the site is verified.
func toldOf(t *testing.T, s site) string {
	t.Helper()
	return verified(t, s).Failed.Message
}

// verified verifies a config of the site as a write does. A step fails, and what is told of it
// holds no secret.
func verified(t *testing.T, s site) *Report {
	t.Helper()
	config := s.Config
	if config.UserAPIToken == "" {
		config.UserAPIToken = "aaaaaaaaaaaa.bbbbbbbbbbbbbbbbbb.cccccccccccccccccc"
	}
	config.RequestTimeout = cmp.Or(config.RequestTimeout, store.MostRequestTimeout)
	config.MaxRequestsInFlight, config.MaxRetries = 8, 3
	logger := hclog.NewNullLogger()
	entries := store.New(&logical.InmemStorage{}, logger)
	if err := entries.Configs.Put(t.Context(), "default", &config); err != nil {
		t.Fatal(err)
	}
	stored, err := entries.Configs.Get(t.Context(), "default")
	if err != nil {
		t.Fatal(err)
	}
	registry := NewRegistry(entries, events.NewSender(nil, logger), logger, "test", s.dial)
	report, err := registry.Verify(t.Context(), stored, nil)
	if err != nil {
		t.Fatal(err)
	}
	if report.Failed == nil {
		t.Fatal("every step passed")
	}
	for _, secret := range []string{config.UserAPIToken, proxyPassword, secretPath} {
		if strings.Contains(report.Failed.Message, secret) {
			t.Error("what is told holds a secret")
		}
	}
	return report
}

func expectTold(t *testing.T, s situation, told string) {
	t.Helper()
	for _, words := range s.told {
		if !strings.Contains(told, words) {
			t.Errorf("not told: %q\nin %s", words, told)
		}
	}
	for _, words := range s.never {
		if strings.Contains(told, words) {
			t.Errorf("told in vain: %q\nin %s", words, told)
		}
	}
	t.Log(told)
}

func tellOfEach(t *testing.T, situations map[string]situation) {
	for name, s := range situations {
		t.Run(name, func(t *testing.T) { expectTold(t, s, toldOf(t, s.site(t))) })
	}
}

func at(address string) site { return site{Config: store.Config{URL: "https://" + address}} }

func (s site) trusting(authorities ...*issuer) site {
	for _, authority := range authorities {
		s.CACert += authority.pem()
	}
	return s
}

// soon is for a site from which no answer comes.
func (s site) soon() site {
	s.RequestTimeout = 2 * time.Second
	return s
}

func (s site) named(name string) site {
	s.TLSServerName = name
	return s
}

// shows is a server that shows this certificate.
func shows(t *testing.T, certificate *issuer) site {
	t.Helper()
	return at(serveHTTP(t, certificate.tls(), http.NotFoundHandler()))
}

func TestAFaultyCertificateIsToldFromASettingThatIsWrong(t *testing.T) {
	authority := newAuthority(t, nil, "Example CA")
	signed := func(t *testing.T, template x509.Certificate) *issuer {
		return newIssuer(t, authority, newKey(t), template)
	}
	server := signed(t, onLoopback())
	nameless := x509.Certificate{Subject: pkix.Name{CommonName: "127.0.0.1"}}
	elsewhere := x509.Certificate{DNSNames: []string{
		"one.example.com", "two.example.com", "three.example.com",
		"four.example.com", "five.example.com",
	}}
	ends := func(from, to time.Duration) x509.Certificate {
		template := onLoopback()
		template.NotBefore, template.NotAfter = time.Now().Add(from), time.Now().Add(to)
		return template
	}
	oldName := `certificate of "127.0.0.1" has no subject alternative name`
	tellOfEach(t, map[string]situation{
		"a common name alone": {
			func(t *testing.T) site { return shows(t, signed(t, nameless)).trusting(authority) },
			[]string{oldName, "issued again with the host of url"},
			[]string{checkURL, setCACert, setName},
		},
		"a common name alone, and it is asked for": {
			func(t *testing.T) site { return shows(t, signed(t, nameless)).trusting(authority).named("127.0.0.1") },
			[]string{oldName, "issued again"},
			[]string{checkURL, setCACert, setName, "correct tls_server_name"},
		},
		"another name": {
			func(t *testing.T) site { return shows(t, signed(t, elsewhere)).trusting(authority) },
			[]string{"another name than 127.0.0.1: it holds one.example.com, two.example.com, three.example.com, " +
				"four.example.com and 1 more", setName, "correct the host of url"},
			[]string{setCACert},
		},
		"another name than the one that is set": {
			func(t *testing.T) site { return shows(t, server).trusting(authority).named("wrong.example.com") },
			[]string{"another name than wrong.example.com: it holds 127.0.0.1", "correct tls_server_name", "reset it"},
			[]string{setName, setCACert, checkURL},
		},
		"unknown authority": {
			func(t *testing.T) site { return shows(t, server) },
			[]string{`unknown authority: "Example CA"`, setCACert},
			[]string{checkURL, setName},
		},
		"unknown authority, and ca_cert holds another": {
			func(t *testing.T) site { return shows(t, server).trusting(newAuthority(t, nil, "Other CA")) },
			[]string{`unknown authority: "Example CA"`, "add the certificate of that authority to ca_cert"},
			[]string{checkURL, setName, setCACert},
		},
		"the intermediate is missing": {
			func(t *testing.T) site {
				intermediate := newAuthority(t, authority, "Example Issuing CA")
				return shows(t, newIssuer(t, intermediate, newKey(t), onLoopback())).trusting(authority)
			},
			[]string{
				`unknown authority: "Example Issuing CA"`, "ca_cert, which does not hold it", "intermediate",
				"better that the server sends it",
			},
			[]string{checkURL, setName, setCACert},
		},
		"signs itself": {
			func(t *testing.T) site { return shows(t, newIssuer(t, nil, newKey(t), onLoopback())) },
			[]string{`unknown authority: "ncentral", which signs itself`, "set ca_cert to this certificate"},
			[]string{checkURL, setName},
		},
		"signs itself, with SHA-1": { // which is no fault where it is trusted itself
			func(t *testing.T) site {
				template := onLoopback()
				template.SignatureAlgorithm = x509.SHA1WithRSA
				return shows(t, newIssuer(t, nil, newRSAKey(t, 1024), template))
			},
			[]string{"which signs itself", "set ca_cert to this certificate"},
			[]string{checkURL, setName, "SHA"},
		},
		"signs itself, and was made anew": {
			func(t *testing.T) site {
				return shows(t, newIssuer(t, nil, newKey(t), onLoopback())).trusting(authority)
			},
			[]string{"which signs itself", "ca_cert holds another certificate", "if the server has a new one"},
			[]string{checkURL, setName, "set ca_cert to this"},
		},
		"the authority was made anew": {
			func(t *testing.T) site { return shows(t, server).trusting(newAuthority(t, nil, "Example CA")) },
			[]string{`"Example CA" that is not the trusted authority of the same name`, "if the authority was renewed"},
			[]string{checkURL, setName, "unknown authority"},
		},
		"signed with SHA-1": {
			func(t *testing.T) site {
				old := newIssuer(t, nil, newRSAKey(t, 1024),
					x509.Certificate{Subject: pkix.Name{CommonName: "Old CA"}, IsCA: true})
				template := onLoopback()
				template.SignatureAlgorithm = x509.SHA1WithRSA
				return shows(t, newIssuer(t, old, newKey(t), template)).trusting(old)
			},
			[]string{`certificate of "ncentral" is signed with SHA1-RSA`, "issued again, signed with SHA-256"},
			[]string{checkURL, setName, setCACert, "unknown authority"},
		},
		"signed with MD5": {
			func(t *testing.T) site {
				old := newIssuer(t, nil, newRSAKey(t, 1024),
					x509.Certificate{Subject: pkix.Name{CommonName: "Old CA"}, IsCA: true})
				return shows(t, signedWithMD5(t, newIssuer(t, old, newRSAKey(t, 1024), onLoopback()))).trusting(old)
			},
			[]string{"is signed with MD5-RSA", "issued again, signed with SHA-256"},
			[]string{checkURL, setName, setCACert, "unknown authority"},
		},
		"the authority's key is short": {
			func(t *testing.T) site {
				t.Setenv("GODEBUG", "rsa1024min=0")
				short := newIssuer(t, nil, newRSAKey(t, 768),
					x509.Certificate{Subject: pkix.Name{CommonName: "Short CA"}, IsCA: true})
				server := newIssuer(t, short, newKey(t), onLoopback())
				t.Setenv("GODEBUG", "rsa1024min=1")
				return shows(t, server).trusting(short)
			},
			[]string{"RSA key of under 1024 bits", "2048 bits"},
			[]string{checkURL, setName, setCACert},
		},
		"its own key is short": {
			func(t *testing.T) site {
				t.Setenv("GODEBUG", "rsa1024min=0")
				key := newRSAKey(t, 768).(*rsa.PrivateKey)
				server := newIssuer(t, authority, key, onLoopback())
				t.Setenv("GODEBUG", "rsa1024min=1")
				server.key = weakSigner{key}
				config := server.tls()
				config.MaxVersion = tls.VersionTLS12
				config.Certificates[0].SupportedSignatureAlgorithms = []tls.SignatureScheme{tls.PKCS1WithSHA256}
				return at(serveHTTP(t, config, http.NotFoundHandler())).trusting(authority)
			},
			[]string{"RSA key of under 1024 bits", "2048 bits"},
			[]string{checkURL, setName, setCACert},
		},
		"has expired": {
			func(t *testing.T) site {
				return shows(t, signed(t, ends(-2*time.Hour, -time.Hour))).trusting(authority)
			},
			[]string{
				`certificate of "ncentral" has expired at 2`,
				"renew it, unless the clock of this Vault node is wrong",
			},
			[]string{checkURL, setName},
		},
		"has expired, and ca_cert is not set": {
			func(t *testing.T) site { return shows(t, signed(t, ends(-2*time.Hour, -time.Hour))) },
			[]string{"has expired at 2", "renew it on the server, unless the clock"},
			[]string{checkURL, setName, "ca_cert"},
		},
		"the authority has expired": {
			func(t *testing.T) site {
				template := ends(-2*time.Hour, -time.Hour)
				template.IsCA, template.Subject.CommonName = true, "Expired CA"
				expired := newIssuer(t, nil, newKey(t), template)
				return shows(t, newIssuer(t, expired, newKey(t), onLoopback())).trusting(expired)
			},
			[]string{
				`certificate of "Expired CA" has expired`,
				"if it is one that ca_cert holds, set ca_cert to the new one",
			},
			[]string{checkURL, setName},
		},
		"is not yet valid": {
			func(t *testing.T) site { return shows(t, signed(t, ends(time.Hour, 2*time.Hour))).trusting(authority) },
			[]string{`certificate of "ncentral" is not valid before 2`, "compare the clock of this Vault node"},
			[]string{checkURL, setName, setCACert, "renew"},
		},
		"signed by what is no authority": {
			func(t *testing.T) site {
				other := signed(t, x509.Certificate{Subject: pkix.Name{CommonName: "another server"}})
				return shows(t, newIssuer(t, other, newKey(t), onLoopback())).trusting(other)
			},
			[]string{`signed by "another server", which may not sign certificates`, "by an authority that may do so"},
			[]string{checkURL, setName, setCACert},
		},
		"made for clients": {
			func(t *testing.T) site {
				template := onLoopback()
				template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
				return shows(t, signed(t, template)).trusting(authority)
			},
			[]string{
				"certificate cannot be verified: certificate specifies an incompatible key usage",
				"issued again for this server",
			},
			[]string{checkURL, setName, setCACert},
		},
	})
}

// So much is promised by the remedies of what no setting but this one makes up for.
func TestTheServersOwnCertificateIsTrustedAsItIs(t *testing.T) {
	old := newIssuer(t, nil, newRSAKey(t, 1024), x509.Certificate{Subject: pkix.Name{CommonName: "Old CA"}, IsCA: true})
	noAuthority := newIssuer(t, nil, newKey(t), x509.Certificate{Subject: pkix.Name{CommonName: "another server"}})
	withSHA1 := onLoopback()
	withSHA1.SignatureAlgorithm = x509.SHA1WithRSA
	for name, server := range map[string]*issuer{
		"signed with SHA-1":              newIssuer(t, old, newKey(t), withSHA1),
		"signed with MD5":                signedWithMD5(t, newIssuer(t, old, newRSAKey(t, 1024), onLoopback())),
		"signed by what is no authority": newIssuer(t, noAuthority, newKey(t), onLoopback()),
		"signs itself":                   newIssuer(t, nil, newKey(t), onLoopback()),
		"signs itself, with SHA-1":       newIssuer(t, nil, newRSAKey(t, 1024), withSHA1),
	} {
		if told := toldOf(t, shows(t, server).trusting(server)); !strings.Contains(told, "(status 404)") {
			t.Errorf("%s: no answer of the server's: %s", name, told)
		}
	}
}

func TestAHandshakeThatFailsIsToldByTheSideThatMustChange(t *testing.T) {
	authority := newAuthority(t, nil, "Example CA")
	server := newIssuer(t, authority, newKey(t), onLoopback())
	handshake := func(change func(*tls.Config)) func(t *testing.T) site {
		return func(t *testing.T) site {
			config := server.tls()
			change(config)
			return at(serveHTTP(t, config, http.NotFoundHandler())).trusting(authority)
		}
	}
	// As a server answers that knows no newer version than TLS 1.0, and does not know that the
	// client offers none as old.
	helloOfTLS10 := "\x16\x03\x01\x00\x2a\x02\x00\x00\x26\x03\x01" + strings.Repeat("r", 32) + "\x00\xc0\x13\x00"
	notInVain := []string{checkURL, setName, setCACert, "unknown authority"}
	old := []string{
		"the server speaks neither TLS 1.2 nor 1.3",
		"switch TLS 1.2 or later on at N-central, or at the load balancer",
	}
	client := []string{"the server demands a client certificate", "exempt this Vault node"}
	tellOfEach(t, map[string]situation{
		"TLS 1.1 at most": {handshake(func(c *tls.Config) {
			c.MinVersion, c.MaxVersion = tls.VersionTLS10,
				tls.VersionTLS11
		}), old, notInVain},
		"TLS 1.0 whatever is offered": {func(t *testing.T) site {
			return at(serveRaw(t, func(c *net.TCPConn) {
				_, _ = io.WriteString(c, helloOfTLS10)
				_,
					_ = io.Copy(io.Discard, c)
			}))
		}, old, notInVain},
		"no cipher suite in common": {
			handshake(func(c *tls.Config) {
				c.MaxVersion, c.CipherSuites = tls.VersionTLS12, []uint16{tls.TLS_RSA_WITH_AES_128_CBC_SHA}
			}),
			[]string{"no cipher suite is accepted by both sides", "offer TLS 1.2 or later with cipher suites of ECDHE"},
			notInVain,
		},
		"no certificate under that name": {
			handshake(func(c *tls.Config) { c.Certificates = nil; c.GetCertificate = noCertificate }),
			[]string{"no certificate under the name that it was asked for", "correct the host of url", setName},
			[]string{setCACert},
		},
		"no certificate under the name that is set": {
			func(t *testing.T) site {
				return handshake(func(c *tls.Config) {
					c.Certificates, c.GetCertificate = nil, noCertificate
				})(t).named("wrong.example.com")
			},
			[]string{"no certificate under the name that it was asked for", "correct tls_server_name"},
			[]string{setCACert, setName, checkURL},
		},
		"another alert": {
			handshake(func(c *tls.Config) {
				c.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) { return nil, io.ErrNoProgress }
			}),
			[]string{
				"the server ended the TLS handshake: internal error",
				"the log of N-central, or of the load balancer",
			},
			notInVain,
		},
		"a client certificate over TLS 1.2": {
			handshake(func(c *tls.Config) { c.MaxVersion, c.ClientAuth = tls.VersionTLS12, tls.RequireAnyClientCert }),
			client, notInVain,
		},
		"a client certificate over TLS 1.3": {
			handshake(func(c *tls.Config) { c.ClientAuth = tls.RequireAnyClientCert }), client, notInVain,
		},
		"http spoken on the port of https": {
			func(t *testing.T) site { return at(serveHTTP(t, nil, http.NotFoundHandler())) },
			[]string{"does not speak TLS on this port", "give url the port on which N-central speaks https"},
			notInVain,
		},
		"https spoken on the port of http": {
			func(t *testing.T) site {
				return site{Config: store.Config{URL: "http://" + serveHTTP(t, server.tls(), http.NotFoundHandler())}}
			},
			[]string{"(status 400)", "write url with https"},
			notInVain,
		},
		"an alert in answer to http": {
			func(t *testing.T) site {
				return site{Config: store.Config{URL: "http://" + serveRaw(t, func(c *net.TCPConn) {
					_, _ = io.WriteString(c, "\x15\x03\x01\x00\x02\x02\x28\r\n\r\n")
				})}}
			},
			[]string{
				"the server at this address does not speak HTTP", "host and the port of N-central's web interface",
			},
			notInVain,
		},
	})
}

func noCertificate(*tls.ClientHelloInfo) (*tls.Certificate, error) { return nil, nil }

func TestAWayThatEndsIsToldByWhereItEnds(t *testing.T) {
	authority := newAuthority(t, nil, "Example CA")
	server := newIssuer(t, authority, newKey(t), onLoopback())
	over := func(handler http.HandlerFunc) func(t *testing.T) site {
		return func(t *testing.T) site { return at(serveHTTP(t, server.tls(), handler)).trusting(authority) }
	}
	tellOfEach(t, map[string]situation{
		"no such host": {
			func(t *testing.T) site {
				s := at("ncentral.invalid")
				s.dial = serveDNS(t, 3)
				return s
			},
			[]string{"the host name cannot be resolved", "check the host of url", "DNS servers of this Vault node"},
			[]string{"that the server is up"},
		},
		"DNS fails": {
			func(t *testing.T) site {
				s := at("ncentral.invalid")
				s.dial = serveDNS(t, 2)
				return s
			},
			[]string{"DNS fails", "see to the DNS servers of this Vault node"},
			[]string{checkURL, "the host of url"},
		},
		"nothing listens": {
			func(t *testing.T) site {
				listener := listen(t)
				_ = listener.Close()
				return at(listener.Addr().String())
			},
			[]string{"connection refused", "that the server is up"},
			[]string{"DNS", "proxy"},
		},
		"no route": { // no packet is sent to an address of this sort
			func(*testing.T) site { return at("255.255.255.255") },
			[]string{"there is no route to the host", "this Vault node may reach it"},
			nil,
		},
		"cut off": {
			func(t *testing.T) site { return at(serveRaw(t, func(c *net.TCPConn) { _ = c.SetLinger(0) })) },
			[]string{"cut off while it was made", "a firewall or filter on the way"},
			[]string{checkURL, setCACert},
		},
		"nothing comes of the connection": {
			func(t *testing.T) site {
				return at(serveRaw(t, func(c *net.TCPConn) { _, _ = io.Copy(io.Discard, c) })).soon()
			},
			[]string{"no connection was made in time", "this Vault node may reach it"},
			nil,
		},
		"hung up on": {
			over(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }),
			[]string{"closed before an answer came", "see whether N-central is up"},
			[]string{checkURL, setCACert},
		},
		"no answer": {
			func(t *testing.T) site {
				return over(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })(t).soon()
			},
			[]string{"the request was sent, and no answer came", "raise request_timeout"},
			[]string{checkURL, setCACert},
		},
	})
}

// A token that N-central may have given to nobody is one that may have ended others.
func TestWhatFoundNoConnectionCannotHaveArrived(t *testing.T) {
	authority := newAuthority(t, nil, "Example CA")
	server := newIssuer(t, authority, newKey(t), onLoopback())
	served := func(config *tls.Config, do func(*http.Request)) site {
		return at(serveHTTP(t, config, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			do(r)
			panic(http.ErrAbortHandler)
		}))).trusting(authority)
	}
	demanding := server.tls()
	demanding.ClientAuth = tls.RequireAnyClientCert
	for name, test := range map[string]struct {
		site    site
		arrived bool
	}{
		"cut off":             {at(serveRaw(t, func(c *net.TCPConn) { _ = c.SetLinger(0) })), false},
		"no connection":       {at(serveRaw(t, func(c *net.TCPConn) { _, _ = io.Copy(io.Discard, c) })).soon(), false},
		"not trusted":         {at(serveHTTP(t, server.tls(), http.NotFoundHandler())), false},
		"no TLS":              {at(serveHTTP(t, nil, http.NotFoundHandler())), false},
		"client certificates": {served(demanding, func(*http.Request) {}), false},
		"hung up on":          {served(server.tls(), func(*http.Request) {}), true},
		"no answer":           {served(server.tls(), func(r *http.Request) { <-r.Context().Done() }).soon(), true},
	} {
		if report := verified(t, test.site); mayHaveArrived(report.failure) != test.arrived {
			t.Errorf("%s: taken to have arrived: %t (%s)", name, !test.arrived, report.Failed.Message)
		}
	}
}

// answering puts a page in the place of N-central's answers to one path.
func answering(path string, page http.HandlerFunc) func(t *testing.T) site {
	return func(t *testing.T) site {
		authority := newAuthority(t, nil, "Example CA")
		handler, token := newNCentral()
		s := at(serveHTTP(t, newIssuer(t, authority, newKey(t), onLoopback()).tls(),
			http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if strings.HasSuffix(r.URL.Path, path) {
					page(w, r)
					return
				}
				handler.ServeHTTP(w, r)
			}))).trusting(authority)
		s.UserAPIToken = token
		return s
	}
}

// without takes the Authorization out of the requests for one path.
func without(path string) func(t *testing.T) site {
	return func(t *testing.T) site {
		authority := newAuthority(t, nil, "Example CA")
		handler, token := newNCentral()
		s := at(serveHTTP(t, newIssuer(t, authority, newKey(t), onLoopback()).tls(),
			http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if strings.HasSuffix(r.URL.Path, path) {
					r.Header.Del("Authorization")
				}
				handler.ServeHTTP(w, r)
			}))).trusting(authority)
		s.UserAPIToken = token
		return s
	}
}

func page(status int, mediaType, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", mediaType)
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
}

func redirect(to string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Location", to)
		w.WriteHeader(http.StatusFound)
	}
}

func TestAnAnswerThatIsNotNCentralsIsToldByWhoGaveIt(t *testing.T) {
	const html, json = "text/html", "application/json"
	generate := "generate a new User-API token"
	secrets := "/" + secretPath + "?token=" + secretPath
	tellOfEach(t, map[string]situation{
		"a firewall's page": {
			answering("/authenticate", page(403, html, "<html>blocked</html>")),
			[]string{
				"a proxy, firewall or web filter",
				"has not judged the User-API token, so do not generate a new one",
			},
			[]string{checkURL, generate},
		},
		"a redirect to another server": {
			answering("/auth", redirect("https://user:"+proxyPassword+"@login.example.com:8443"+secrets)),
			[]string{"(status 302): a redirect to https://login.example.com:8443;", "write that as url"},
			[]string{"(302)", checkURL, "user:"},
		},
		"a redirect to what cannot be url": {
			answering("/auth", redirect("http://login.example.com"+secrets)),
			[]string{"(status 302): a redirect to http://login.example.com;", "no proxy or login page"},
			[]string{"write that as url"},
		},
		"a redirect within the server": {
			answering("/auth", redirect(secrets)),
			[]string{"(status 302): a redirect within the same server;", "without /api"},
			[]string{"(302)"},
		},
		"a 500 at authenticate": {
			answering("/authenticate", page(500, json,
				`{"status":500,"message":"INTERNAL SERVER ERROR: Unable to validate UI session"}`)),
			[]string{
				"Unable to validate UI session", "N-central itself fails, or the API user's password has expired",
				generate,
			},
			[]string{checkURL},
		},
		"maintenance": {
			answering("/auth", page(503, html, "<html>back soon</html>")),
			[]string{
				"(status 503)", "a load balancer or web server before N-central answered in its place",
				"upgraded",
			},
			[]string{checkURL, "password"},
		},
		"a web server's 500 at authenticate": {
			answering("/authenticate", page(500, html, "<html>oops</html>")),
			[]string{"a load balancer or web server before N-central answered in its place"},
			[]string{checkURL, "password"},
		},
		"a web server that wants a client certificate": {
			answering("/auth", page(400, html, "<html>No required SSL certificate was sent</html>")),
			[]string{"a web server or proxy before N-central answered in its place"},
			[]string{checkURL, "https"},
		},
		"a proxy that takes the Authorization out": {
			without("/authenticate"),
			[]string{"removes or changes the Authorization header", "must pass the header on unchanged"},
			[]string{checkURL, generate, "password"},
		},
		"a proxy that takes it out of some calls": {
			without("/validate"),
			[]string{"removes or changes the Authorization header", "must pass the header on unchanged"},
			[]string{checkURL, generate, "password"},
		},
	})
}

// That N-central missed the header says nothing of the token that was in it.
func TestATokenThatWasTakenOutIsNotFoundDead(t *testing.T) {
	s := without("/validate")(t)
	transport, err := ncentral.NewTransport(ncentral.TransportOptions{CACert: s.CACert})
	if err != nil {
		t.Fatal(err)
	}
	defer transport.CloseIdleConnections()
	client := ncentral.New(ncentral.Options{BaseURL: s.URL, Transport: transport})
	session, err := client.Authenticate(t.Context(), s.UserAPIToken, ncentral.Overrides{})
	if err != nil {
		t.Fatal(err)
	}
	if err := client.Validate(t.Context(), session.AccessToken); ncentral.KindOf(err) != ncentral.KindBadRequest {
		t.Errorf("got %v", err)
	}
}

// proxied is a situation whose proxy is at the address that proxy returns.
type proxied struct {
	situation
	proxy func(t *testing.T) (httpsProxy string)
}

func TestAProxyIsToldFromWhatIsBehindIt(t *testing.T) {
	authority := newAuthority(t, nil, "Example CA")
	server := newIssuer(t, authority, newKey(t), x509.Certificate{DNSNames: []string{"ncentral.invalid"}})
	behind := func(*testing.T) site { return at("ncentral.invalid").trusting(authority) }
	trustingOthers := func(*testing.T) site { return at("ncentral.invalid") }
	withPassword := func(scheme, address string) string { return scheme + "://user:" + proxyPassword + "@" + address }
	answers := func(status int) func(t *testing.T) string {
		return func(t *testing.T) string {
			return withPassword("http", serveHTTP(t, nil,
				http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) })))
		}
	}
	showing := func(certificate *issuer) func(t *testing.T) string {
		return func(t *testing.T) string {
			return withPassword("https", serveHTTP(t, certificate.tls(), http.NotFoundHandler()))
		}
	}
	proxysOwn := newIssuer(t, newAuthority(t, nil, "Proxy CA"), newKey(t), onLoopback())
	notInVain := []string{checkURL, setCACert, setName}
	for name, s := range map[string]proxied{
		"407": {situation{
			behind,
			[]string{theProxy, "(status 407)", "correct user and password in HTTPS_PROXY"},
			notInVain,
		}, answers(407)},
		"403": {situation{behind, []string{
			theProxy + " refuses the connection (status 403)", "whoever runs the proxy",
			"NO_PROXY",
		}, notInVain}, answers(403)},
		"502": {situation{behind, []string{
			theProxy + " could not connect (status 502)",
			"whether the proxy knows them",
		}, notInVain}, answers(502)},
		"cannot be reached": {situation{behind, []string{
			theProxy + " cannot be used: connection refused",
			"check HTTPS_PROXY",
		}, notInVain}, func(t *testing.T) string {
			listener := listen(t)
			_ = listener.Close()
			return withPassword("http", listener.Addr().String())
		}},
		"does not answer": {
			situation{
				func(t *testing.T) site { return behind(t).soon() },
				[]string{"through " + theProxy, "check HTTPS_PROXY", "whoever runs the proxy"},
				notInVain,
			},
			func(t *testing.T) string {
				return withPassword("http", serveRaw(t, func(c *net.TCPConn) { _, _ = io.Copy(io.Discard, c) }))
			},
		},
		"cuts off": {situation{behind, []string{
			"cut off while it was made, by " + theProxy + " or behind it",
			"firewall or filter",
		}, notInVain}, func(t *testing.T) string {
			return withPassword("http", serveRaw(t, func(c *net.TCPConn) { _ = c.SetLinger(0) }))
		}},
		"a SOCKS proxy that does not connect": {
			situation{
				behind,
				[]string{theProxy + " did not connect: ", "unreachable", "whether the proxy knows them"},
				notInVain,
			},
			func(t *testing.T) string {
				return withPassword("socks5", serveRaw(t, func(c *net.TCPConn) {
					_, _ = io.WriteString(c, "\x05\x00")
					_, _ = c.Read(make([]byte, 512))
					_, _ = io.WriteString(c, "\x05\x04\x00\x01\x00\x00\x00\x00\x00\x00")
				}))
			},
		},
		"a SOCKS proxy that refuses the password": {
			situation{
				behind,
				[]string{theProxy + " did not connect: ", "correct user and password in HTTPS_PROXY"},
				notInVain,
			},
			func(t *testing.T) string {
				return withPassword("socks5", serveRaw(t, func(c *net.TCPConn) {
					_, _ = io.WriteString(c, "\x05\x02")
					_, _ = c.Read(make([]byte, 512))
					_, _ = io.WriteString(c, "\x01\x01")
				}))
			},
		},
		"speaks no TLS": {situation{behind, []string{
			theProxy, "does not speak TLS",
			"with http:// in place of https://",
		}, notInVain}, func(t *testing.T) string {
			return withPassword("https", serveHTTP(t, nil, http.NotFoundHandler()))
		}},
		"shows a certificate that is not trusted": {
			situation{
				trustingOthers,
				[]string{
					theProxy + ` cannot be used: certificate signed by an unknown authority: "Proxy CA"`,
					"this Vault node's system",
				},
				notInVain,
			}, showing(proxysOwn),
		},
		"shows a certificate that ca_cert does not hold": {
			situation{behind, []string{theProxy, `"Proxy CA"`, "ca_cert applies to an https proxy too"}, notInVain},
			showing(proxysOwn),
		},
		"is asked for N-central's name": {
			situation{
				func(*testing.T) site { return at("ncentral.invalid").trusting(authority).named("ncentral.invalid") },
				[]string{theProxy, "tls_server_name applies to an https proxy too"},
				notInVain,
			}, showing(newIssuer(t, authority, newKey(t), onLoopback())),
		},
		"leads to a server with another certificate": {
			situation{
				trustingOthers,
				[]string{`certificate signed by an unknown authority: "Example CA"`, setCACert},
				[]string{"proxy", checkURL},
			},
			func(t *testing.T) string {
				return withPassword("http", serveHTTP(t, nil,
					connectingProxy(t, serveHTTP(t, server.tls(), http.NotFoundHandler()))))
			},
		},
		"leads to a server that is no N-central": {
			situation{behind, []string{"(status 404)"}, []string{theProxy}},
			func(t *testing.T) string {
				return withPassword("http", serveHTTP(t, nil,
					connectingProxy(t, serveHTTP(t, server.tls(), http.NotFoundHandler()))))
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			if !inItsOwnProcess(t) {
				return
			}
			t.Setenv("HTTPS_PROXY", s.proxy(t))
			expectTold(t, s.situation, toldOf(t, s.site(t)))
		})
	}
}
