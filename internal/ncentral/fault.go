// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package ncentral

// Fault is what is wrong, and so who can put it right, where that is plain to see.
type Fault string

// The faults of the network and of this machine.
const (
	FaultNameUnknown       Fault = "name_unknown" // DNS has no such host
	FaultNoDNS             Fault = "no_dns"       // DNS does not answer, or fails
	FaultNoRoute           Fault = "no_route"     // there is no route to the address
	FaultForbidden         Fault = "forbidden"    // this machine forbids the connection
	FaultNoResources       Fault = "no_files"     // this machine has no file descriptor or port left
	FaultRefused           Fault = "refused"      // nothing listens at the address
	FaultCutOff            Fault = "cut_off"      // closed while the connection was being made
	FaultClosed            Fault = "closed"       // closed before an answer came
	FaultNoAnswer          Fault = "no_answer"    // the request was sent, and no answer came in time
	FaultTimeOver          Fault = "time_over"    // the server was reached, but the time for the whole call ran out
	FaultNotTLS            Fault = "not_tls"      // the port does not speak TLS
	FaultNotHTTP           Fault = "not_http"     // the port does not speak HTTP
	FaultTLSVersion        Fault = "tls_version"  // the server speaks only TLS 1.1 or older
	FaultNoCipher          Fault = "no_cipher"    // the server and this client have no cipher suite in common
	FaultHandshake         Fault = "handshake"    // the TLS handshake failed for another reason
	FaultUnrecognizedName  Fault = "nameless"     // the server has no certificate for the name it is asked for
	FaultClientCertificate Fault = "wants_client" // the server demands a client certificate
)

// The faults of certificates.
const (
	FaultUnknownAuthority Fault = "unknown_authority" // signed by an authority that is not trusted
	FaultSelfSigned       Fault = "self_signed"       // signed by itself, and not trusted
	FaultOtherAuthority   Fault = "other_authority"   // a trusted authority has the issuer's name, but did not sign it
	FaultIssuerNotCA      Fault = "no_authority"      // signed by a certificate that may not sign others
	FaultWrongName        Fault = "wrong_name"        // issued for other names
	FaultNoName           Fault = "no_name"           // without a subject alternative name
	FaultExpired          Fault = "expired"
	FaultNotYetValid      Fault = "not_yet_valid"
	FaultWeakSignature    Fault = "weak_signature" // signed with SHA-1 or MD5
	FaultWeakKey          Fault = "weak_key"       // an RSA key of under 1024 bits
	FaultCertificate      Fault = "certificate"    // any other fault of a certificate
)

// The faults of a proxy from the environment. The faults above may also be a proxy's: see
// Error.AtProxy.
const (
	FaultProxyCredential Fault = "proxy_credential" // 407: the user and password are missing or wrong
	FaultProxyForbids    Fault = "proxy_forbids"    // another 4xx in answer to CONNECT
	FaultProxySilent     Fault = "proxy_silent"     // no connection through the proxy in time
	FaultProxyFailed     Fault = "proxy_failed"     // the proxy could not connect
)

// The faults of answers.
const (
	FaultRedirect          Fault = "redirect"           // to another server that speaks HTTPS
	FaultWebPage           Fault = "web_page"           // HTML with a status of 400 or more, not from N-central's API
	FaultIntercepted       Fault = "in_its_place"       // a 401 or 403 that did not come from N-central
	FaultAuthorizationLost Fault = "authorization_lost" // N-central did not receive the Authorization header
)

// isPermanent reports whether another attempt would meet the same fault. A proxy that is shown a
// wrong password again and again may also lock its user.
func (f Fault) isPermanent() bool {
	switch f {
	case FaultTLSVersion, FaultNoCipher, FaultUnrecognizedName, FaultClientCertificate,
		FaultUnknownAuthority, FaultSelfSigned, FaultOtherAuthority, FaultIssuerNotCA, FaultWrongName, FaultNoName,
		FaultExpired, FaultNotYetValid, FaultWeakSignature, FaultWeakKey, FaultCertificate,
		FaultProxyCredential, FaultProxyForbids:
		return true
	}
	return false
}
