// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package ncentral

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"
)

const (
	maxNamesShown = 4
	maxNameShown  = 60 // characters of each
)

// Alerts of TLS (RFC 8446, section 6.2).
const (
	alertHandshakeFailure     tls.AlertError = 40
	alertBadCertificate       tls.AlertError = 42
	alertUnsupported          tls.AlertError = 43
	alertCertificateRevoked   tls.AlertError = 44
	alertCertificateExpired   tls.AlertError = 45
	alertCertificateUnknown   tls.AlertError = 46
	alertUnknownCA            tls.AlertError = 48
	alertProtocolVersion      tls.AlertError = 70
	alertInsufficientSecurity tls.AlertError = 71
	alertUnrecognizedName     tls.AlertError = 112
	alertCertificateRequired  tls.AlertError = 116
)

// Go has no types for these errors: what they say is all there is to tell them by.
const (
	goRemote        = "remote error"
	goTLS           = "tls: "
	goX509          = "x509: "
	goVersion       = "tls: server selected unsupported protocol version"
	goCipher        = "tls: server chose an unconfigured cipher suite"
	goUnreadable    = "tls: failed to parse certificate from server: "
	goWeakKey       = "-bit keys are insecure"
	goNotItsKey     = " verification " // of a signature: an error or a failure
	goNotItsKeyType = "but have public key of type"
)

// findInHandshake tells how a TLS handshake failed for another reason than that the
// certificate was not accepted; nothing where it is not that which failed.
func findInHandshake(cause error, way *attemptError) finding {
	var (
		operation *net.OpError
		noTLS     tls.RecordHeaderError
	)
	text := innermost(cause).Error()
	switch {
	case errors.Is(cause, http.ErrSchemeMismatch), errors.As(cause, &noTLS):
		return finding{FaultNotTLS, "the server does not speak TLS on this port"}
	case errors.As(cause, &operation) && operation.Op == goRemote:
		return findInAlert(operation.Err.Error(), way)
	case strings.HasPrefix(text, goVersion):
		return findInAlert(alertProtocolVersion.Error(), way)
	case strings.HasPrefix(text, goCipher):
		return findInAlert(alertInsufficientSecurity.Error(), way)
	case strings.HasPrefix(text, goTLS) && strings.Contains(text, goWeakKey):
		return weakKey
	case strings.HasPrefix(text, goUnreadable):
		return finding{FaultCertificate, "certificate cannot be read: " + filter(strings.TrimPrefix(text, goUnreadable))}
	case strings.HasPrefix(text, goTLS):
		return finding{FaultHandshake, "the TLS handshake failed: " + filter(strings.TrimPrefix(text, goTLS))}
	}
	return finding{}
}

// findInAlert tells what the server's alert says. Those of certificates speak of the
// one that the client was to show.
func findInAlert(text string, way *attemptError) finding {
	isAny := func(alerts ...tls.AlertError) bool {
		return slices.ContainsFunc(alerts, func(alert tls.AlertError) bool { return alert.Error() == text })
	}
	switch {
	case isAny(alertCertificateRequired, alertBadCertificate, alertUnsupported, alertCertificateRevoked, alertCertificateExpired,
		alertCertificateUnknown, alertUnknownCA), isAny(alertHandshakeFailure) && way.certificateAsked:
		return finding{FaultClientCertificate, "the server demands a client certificate, and there is none to show"}
	case isAny(alertProtocolVersion):
		return finding{FaultTLSVersion, "the server speaks neither TLS 1.2 nor 1.3"}
	case isAny(alertHandshakeFailure, alertInsufficientSecurity):
		return finding{FaultNoCipher, "the TLS handshake failed, most likely because no cipher suite is accepted by both sides"}
	case isAny(alertUnrecognizedName):
		return finding{FaultUnrecognizedName, "the server has no certificate under the name that it was asked for"}
	}
	return finding{FaultHandshake, "the server broke the TLS handshake off: " + filter(strings.TrimPrefix(text, goTLS))}
}

var weakKey = finding{FaultWeakKey, "certificate has an RSA key of under 1024 bits, or the authority that signed it has: neither is accepted"}

// findInCertificate tells why a certificate was not accepted; nothing where that is not
// what failed.
func findInCertificate(cause error) finding {
	var (
		unverified *tls.CertificateVerificationError
		unknown    x509.UnknownAuthorityError
		otherName  x509.HostnameError
		invalid    x509.CertificateInvalidError
	)
	switch {
	case errors.As(cause, &unknown):
		return findInUnknownAuthority(unknown)
	case errors.As(cause, &otherName):
		return findInNames(otherName)
	case errors.As(cause, &invalid) && invalid.Reason == x509.Expired:
		return findInValidity(invalid.Cert)
	case errors.As(cause, &invalid) && invalid.Reason == x509.NotAuthorizedToSign:
		return finding{FaultIssuerNotCA, fmt.Sprintf("certificate is signed by %s, which may not sign certificates", nameOf(invalid.Cert.Subject))}
	case errors.As(cause, &invalid):
		return finding{FaultCertificate, "certificate cannot be verified: " + filter(strings.TrimPrefix(invalid.Error(), goX509))}
	case errors.As(cause, &unverified):
		return finding{FaultCertificate, "certificate cannot be verified: " + filter(strings.TrimPrefix(unverified.Err.Error(), goX509))}
	}
	return finding{}
}

func findInUnknownAuthority(unknown x509.UnknownAuthorityError) finding {
	hint := unknown.Error()
	issuer := nameOf(unknown.Cert.Issuer)
	signsItself := slices.Equal(unknown.Cert.RawIssuer, unknown.Cert.RawSubject)
	switch {
	case !signsItself && isWeak(unknown.Cert.SignatureAlgorithm):
		return finding{FaultWeakSignature, fmt.Sprintf("certificate of %s is signed with %s, which is not accepted any more",
			nameOf(unknown.Cert.Subject), unknown.Cert.SignatureAlgorithm)}
	case strings.Contains(hint, goWeakKey):
		return weakKey
	case strings.Contains(hint, x509.ConstraintViolationError{}.Error()):
		return finding{FaultIssuerNotCA, fmt.Sprintf("certificate is signed by %s, which may not sign certificates", issuer)}
	case strings.Contains(hint, goNotItsKey), strings.Contains(hint, goNotItsKeyType):
		return finding{FaultOtherAuthority, fmt.Sprintf("certificate is signed by an authority %s that is another than the trusted one of that name", issuer)}
	case signsItself:
		return finding{FaultSelfSigned, fmt.Sprintf("certificate signed by an unknown authority: %s, which signs itself", issuer)}
	}
	return finding{FaultUnknownAuthority, "certificate signed by an unknown authority: " + issuer}
}

func isWeak(algorithm x509.SignatureAlgorithm) bool {
	switch algorithm {
	case x509.MD2WithRSA, x509.MD5WithRSA, x509.SHA1WithRSA, x509.DSAWithSHA1, x509.ECDSAWithSHA1:
		return true
	}
	return false
}

// findInNames tells which names the certificate holds. They are public: whoever
// connects to the server is shown them.
func findInNames(otherName x509.HostnameError) finding {
	names := slices.Clone(otherName.Certificate.DNSNames)
	for _, address := range otherName.Certificate.IPAddresses {
		names = append(names, address.String())
	}
	wanted := filter(otherName.Host)
	if len(names) == 0 {
		return finding{FaultNoName, fmt.Sprintf("certificate of %s has no subject alternative name, without which it is good for no host",
			nameOf(otherName.Certificate.Subject))}
	}
	var shown []string
	for _, name := range names[:min(len(names), maxNamesShown)] {
		shown = append(shown, filterHost(name[:min(len(name), maxNameShown)]))
	}
	if more := len(names) - len(shown); more > 0 {
		return finding{FaultWrongName, fmt.Sprintf("certificate is for another name than %s: it holds %s and %d more", wanted, strings.Join(shown, ", "), more)}
	}
	return finding{FaultWrongName, fmt.Sprintf("certificate is for another name than %s: it holds %s", wanted, strings.Join(shown, ", "))}
}

func findInValidity(certificate *x509.Certificate) finding {
	name := nameOf(certificate.Subject)
	if time.Now().Before(certificate.NotBefore) {
		return finding{FaultNotYetValid, fmt.Sprintf("certificate of %s is not valid before %s, which is in the future by this machine's clock",
			name, certificate.NotBefore.UTC().Format(time.RFC3339))}
	}
	return finding{FaultExpired, fmt.Sprintf("certificate of %s has expired at %s, by this machine's clock",
		name, certificate.NotAfter.UTC().Format(time.RFC3339))}
}

// nameOf returns a name by which people know a certificate.
func nameOf(name pkix.Name) string {
	return fmt.Sprintf("%q", filter(cmp.Or(name.CommonName, strings.Join(name.Organization, ", "), name.String(), "nobody")))
}
