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
	maxNameShown  = 60 // characters of each name
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

// Go has no types for these errors: their texts are all that distinguishes them.
const (
	goRemote        = "remote error"
	goTLS           = "tls: "
	goX509          = "x509: "
	goVersion       = "tls: server selected unsupported protocol version"
	goCipher        = "tls: server chose an unconfigured cipher suite"
	goUnreadable    = "tls: failed to parse certificate from server: "
	goWeakKey       = "-bit keys are insecure"
	goNotItsKey     = " verification " // of a signature: a verification error or a verification failure
	goNotItsKeyType = "but have public key of type"
)

// diagnoseHandshake says how a TLS handshake failed other than by a certificate that was not
// accepted. It returns the zero diagnosis where the handshake is not what failed.
func diagnoseHandshake(cause error, attempt *attemptError) diagnosis {
	var (
		operation *net.OpError
		noTLS     tls.RecordHeaderError
	)
	text := innermost(cause).Error()
	switch {
	case errors.Is(cause, http.ErrSchemeMismatch), errors.As(cause, &noTLS):
		return diagnosis{FaultNotTLS, "the server does not speak TLS on this port"}
	case errors.As(cause, &operation) && operation.Op == goRemote:
		return diagnoseAlert(operation.Err.Error(), attempt)
	case strings.HasPrefix(text, goVersion):
		return diagnoseAlert(alertProtocolVersion.Error(), attempt)
	case strings.HasPrefix(text, goCipher):
		return diagnoseAlert(alertInsufficientSecurity.Error(), attempt)
	case strings.HasPrefix(text, goTLS) && strings.Contains(text, goWeakKey):
		return weakKey
	case strings.HasPrefix(text, goUnreadable):
		return diagnosis{FaultCertificate, "certificate cannot be read: " +
			filter(strings.TrimPrefix(text, goUnreadable))}
	case strings.HasPrefix(text, goTLS):
		return diagnosis{FaultHandshake, "the TLS handshake failed: " + filter(strings.TrimPrefix(text, goTLS))}
	}
	return diagnosis{}
}

// diagnoseAlert says what an alert from the server means. An alert about a certificate concerns the
// client certificate, which the server asked for.
func diagnoseAlert(text string, attempt *attemptError) diagnosis {
	isAny := func(alerts ...tls.AlertError) bool {
		return slices.ContainsFunc(alerts, func(alert tls.AlertError) bool { return alert.Error() == text })
	}
	switch {
	case isAny(alertCertificateRequired, alertBadCertificate, alertUnsupported, alertCertificateRevoked,
		alertCertificateExpired, alertCertificateUnknown, alertUnknownCA), isAny(alertHandshakeFailure) &&
		attempt.certificateAsked:
		return diagnosis{FaultClientCertificate, "the server demands a client certificate, and there is none to show"}
	case isAny(alertProtocolVersion):
		return diagnosis{FaultTLSVersion, "the server speaks neither TLS 1.2 nor 1.3"}
	case isAny(alertHandshakeFailure, alertInsufficientSecurity):
		return diagnosis{
			FaultNoCipher,
			"the TLS handshake failed, most likely because no cipher suite is accepted by both sides",
		}
	case isAny(alertUnrecognizedName):
		return diagnosis{FaultUnrecognizedName, "the server has no certificate under the name that it was asked for"}
	}
	return diagnosis{FaultHandshake, "the server ended the TLS handshake: " +
		filter(strings.TrimPrefix(text, goTLS))}
}

var weakKey = diagnosis{
	FaultWeakKey,
	"certificate has an RSA key of under 1024 bits, or the authority that signed it has: neither is accepted",
}

// diagnoseCertificate says why a certificate was not accepted. It returns the zero diagnosis where
// that is not what failed.
func diagnoseCertificate(cause error) diagnosis {
	var (
		unverified *tls.CertificateVerificationError
		unknown    x509.UnknownAuthorityError
		otherName  x509.HostnameError
		invalid    x509.CertificateInvalidError
	)
	switch {
	case errors.As(cause, &unknown):
		return diagnoseUnknownAuthority(unknown)
	case errors.As(cause, &otherName):
		return diagnoseNames(otherName)
	case errors.As(cause, &invalid) && invalid.Reason == x509.Expired:
		return diagnoseValidity(invalid.Cert)
	case errors.As(cause, &invalid) && invalid.Reason == x509.NotAuthorizedToSign:
		return diagnosis{
			FaultIssuerNotCA,
			fmt.Sprintf("certificate is signed by %s, which may not sign certificates", nameOf(invalid.Cert.Subject)),
		}
	case errors.As(cause, &invalid):
		return diagnosis{FaultCertificate, "certificate cannot be verified: " +
			filter(strings.TrimPrefix(invalid.Error(), goX509))}
	case errors.As(cause, &unverified):
		return diagnosis{FaultCertificate, "certificate cannot be verified: " +
			filter(strings.TrimPrefix(unverified.Err.Error(), goX509))}
	}
	return diagnosis{}
}

func diagnoseUnknownAuthority(unknown x509.UnknownAuthorityError) diagnosis {
	hint := unknown.Error()
	issuer := nameOf(unknown.Cert.Issuer)
	signsItself := slices.Equal(unknown.Cert.RawIssuer, unknown.Cert.RawSubject)
	switch {
	case !signsItself && isWeak(unknown.Cert.SignatureAlgorithm):
		return diagnosis{
			FaultWeakSignature,
			fmt.Sprintf("certificate of %s is signed with %s, which is not accepted any more",
				nameOf(unknown.Cert.Subject), unknown.Cert.SignatureAlgorithm),
		}
	case strings.Contains(hint, goWeakKey):
		return weakKey
	case strings.Contains(hint, x509.ConstraintViolationError{}.Error()):
		return diagnosis{
			FaultIssuerNotCA,
			fmt.Sprintf("certificate is signed by %s, which may not sign certificates", issuer),
		}
	case strings.Contains(hint, goNotItsKey), strings.Contains(hint, goNotItsKeyType):
		return diagnosis{
			FaultOtherAuthority,
			fmt.Sprintf("certificate is signed by an authority %s that is not the trusted authority of the "+
				"same name", issuer),
		}
	case signsItself:
		return diagnosis{
			FaultSelfSigned,
			fmt.Sprintf("certificate signed by an unknown authority: %s, which signs itself", issuer),
		}
	}
	return diagnosis{FaultUnknownAuthority, "certificate signed by an unknown authority: " + issuer}
}

func isWeak(algorithm x509.SignatureAlgorithm) bool {
	switch algorithm {
	case x509.MD2WithRSA, x509.MD5WithRSA, x509.SHA1WithRSA, x509.DSAWithSHA1, x509.ECDSAWithSHA1:
		return true
	}
	return false
}

// diagnoseNames lists the names that the certificate holds. They are public: the server shows them
// to everybody who connects.
func diagnoseNames(otherName x509.HostnameError) diagnosis {
	names := slices.Clone(otherName.Certificate.DNSNames)
	for _, address := range otherName.Certificate.IPAddresses {
		names = append(names, address.String())
	}
	wanted := filter(otherName.Host)
	if len(names) == 0 {
		return diagnosis{
			FaultNoName,
			fmt.Sprintf("certificate of %s has no subject alternative name, and without one it is valid for no host",
				nameOf(otherName.Certificate.Subject)),
		}
	}
	var shown []string
	for _, name := range names[:min(len(names), maxNamesShown)] {
		shown = append(shown, filterHost(name[:min(len(name), maxNameShown)]))
	}
	if more := len(names) - len(shown); more > 0 {
		return diagnosis{
			FaultWrongName,
			fmt.Sprintf("certificate is for another name than %s: it holds %s and %d more", wanted,
				strings.Join(shown, ", "), more),
		}
	}
	return diagnosis{
		FaultWrongName,
		fmt.Sprintf("certificate is for another name than %s: it holds %s", wanted, strings.Join(shown, ", ")),
	}
}

func diagnoseValidity(certificate *x509.Certificate) diagnosis {
	name := nameOf(certificate.Subject)
	if time.Now().Before(certificate.NotBefore) {
		return diagnosis{
			FaultNotYetValid,
			fmt.Sprintf("certificate of %s is not valid before %s, which is in the future by this machine's clock",
				name, certificate.NotBefore.UTC().Format(time.RFC3339)),
		}
	}
	return diagnosis{FaultExpired, fmt.Sprintf("certificate of %s has expired at %s, by this machine's clock",
		name, certificate.NotAfter.UTC().Format(time.RFC3339))}
}

// nameOf returns the name by which people know a certificate.
func nameOf(name pkix.Name) string {
	known := cmp.Or(name.CommonName, strings.Join(name.Organization, ", "), name.String(), "nobody")
	return fmt.Sprintf("%q", filter(known))
}
