// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package ncentral

// Fault says what is wrong, and so whose it is to mend, where that is plain to see.
type Fault string

// The faults of the network, as far as this machine.
const (
	FaultNameUnknown       Fault = "name_unknown" // DNS has no such host
	FaultNoDNS             Fault = "no_dns"       // DNS does not answer, or fails
	FaultNoRoute           Fault = "no_route"     // no way to the address
	FaultForbidden         Fault = "forbidden"    // this machine forbids the connection
	FaultNoResources       Fault = "no_files"     // this machine has no file or port left
	FaultRefused           Fault = "refused"      // nothing listens there
	FaultCutOff            Fault = "cut_off"      // closed before there was a connection to send anything on
	FaultClosed            Fault = "closed"       // closed in place of an answer
	FaultNoAnswer          Fault = "no_answer"    // sent, and nothing came in time
	FaultTimeOver          Fault = "time_over"    // the server is there, and the time for several calls was over
	FaultNotTLS            Fault = "not_tls"      // the port speaks something else than TLS
	FaultNotHTTP           Fault = "not_http"     // the port speaks something else than HTTP
	FaultTLSVersion        Fault = "tls_version"  // the server speaks TLS 1.1 or older
	FaultNoCipher          Fault = "no_cipher"    // the server has no cipher suite in common with this client
	FaultHandshake         Fault = "handshake"    // TLS went wrong otherwise
	FaultUnrecognizedName  Fault = "nameless"     // the server has nothing under the name that it is asked for
	FaultClientCertificate Fault = "wants_client" // the server demands a client certificate
)

// The faults of certificates.
const (
	FaultUnknownAuthority Fault = "unknown_authority" // whoever signed it is not trusted
	FaultSelfSigned       Fault = "self_signed"       // it signs itself and is not trusted
	FaultOtherAuthority   Fault = "other_authority"   // an authority of that name is trusted, but did not sign it
	FaultIssuerNotCA      Fault = "no_authority"      // whoever signed it may not sign
	FaultWrongName        Fault = "wrong_name"        // it holds other names
	FaultNoName           Fault = "no_name"           // it holds no name that counts
	FaultExpired          Fault = "expired"
	FaultNotYetValid      Fault = "not_yet_valid"
	FaultWeakSignature    Fault = "weak_signature" // signed with SHA-1 or MD5
	FaultWeakKey          Fault = "weak_key"       // an RSA key of under 1024 bits
	FaultCertificate      Fault = "certificate"    // any other
)

// The faults of a proxy that the environment names. Those above may be a proxy's too:
// see Error.AtProxy.
const (
	FaultProxyCredential Fault = "proxy_credential" // 407: user and password are missing or wrong
	FaultProxyForbids    Fault = "proxy_forbids"    // another 4xx to CONNECT
	FaultProxySilent     Fault = "proxy_silent"     // nothing came of the connection in time
	FaultProxyFailed     Fault = "proxy_failed"     // the proxy could not connect
)

// The faults of answers.
const (
	FaultRedirect          Fault = "redirect"           // to another server that speaks https
	FaultWebPage           Fault = "web_page"           // HTML, which N-central's API never answers, with status 400 or more
	FaultIntercepted       Fault = "in_its_place"       // a 401 or 403 that is not N-central's
	FaultAuthorizationLost Fault = "authorization_lost" // N-central did not get the Authorization that was sent
)

// stands reports whether another attempt would meet the fault again. A proxy that is
// shown a wrong password again and again may lock its user.
func (f Fault) stands() bool {
	switch f {
	case FaultTLSVersion, FaultNoCipher, FaultUnrecognizedName, FaultClientCertificate,
		FaultUnknownAuthority, FaultSelfSigned, FaultOtherAuthority, FaultIssuerNotCA, FaultWrongName, FaultNoName,
		FaultExpired, FaultNotYetValid, FaultWeakSignature, FaultWeakKey, FaultCertificate,
		FaultProxyCredential, FaultProxyForbids:
		return true
	}
	return false
}
