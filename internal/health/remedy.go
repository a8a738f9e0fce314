// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package health

import (
	"errors"
	"net/http"
	"strings"

	"vault-plugin-secrets-ncentral/internal/ncentral"
	"vault-plugin-secrets-ncentral/internal/store"
)

// settings say what a config has set, so that no remedy asks for what is done already.
type settings struct {
	caCert, serverName, http bool
}

func settingsOf(config *store.Config) settings {
	return settings{
		caCert:     config.CACert != "",
		serverName: config.TLSServerName != "",
		http:       strings.HasPrefix(config.URL, "http:"),
	}
}

// fault returns what exactly is wrong, if the client could tell. Else it is empty.
func (f *Failure) fault() ncentral.Fault {
	if callErr, ok := errors.AsType[*ncentral.Error](f.Cause); ok {
		return callErr.Fault
	}
	return ""
}

// remedyOfFault returns the remedy for what exactly is wrong. If that is not known, it is empty,
// and the kind of the failure decides.
func (f *Failure) remedyOfFault() string {
	var callErr *ncentral.Error
	if !errors.As(f.Cause, &callErr) {
		return ""
	}
	if callErr.AtProxy {
		return f.has.remedyAtProxy(callErr.Fault)
	}
	if remedy, isTheSame := remedies[callErr.Fault]; isTheSame {
		return remedy
	}
	if callErr.Fault == ncentral.FaultWebPage {
		return f.remedyOfWebPage(callErr.Status)
	}
	return f.has.remedyOfCertificate(callErr.Fault)
}

// remedies are the remedies that depend on nothing but the fault.
var remedies = map[ncentral.Fault]string{
	ncentral.FaultNameUnknown: "check the host of url, and whether the DNS servers of this Vault node know it",
	ncentral.FaultNoDNS:       "see to the DNS servers of this Vault node",
	ncentral.FaultForbidden: "a firewall or security policy of this Vault node itself (nftables, SELinux) must let " +
		"Vault and its plugins connect to N-central",
	ncentral.FaultNoResources: "raise the limit of open files of the Vault server (LimitNOFILE), or see what uses " +
		"them up",
	ncentral.FaultCutOff: "a firewall or filter on the way must let this Vault node through, or a load balancer has " +
		"no N-central behind it: ask whoever runs them",
	ncentral.FaultClosed: "N-central, or a load balancer or firewall before it, hung up: see whether N-central is " +
		"up, and what its own log or theirs says",
	ncentral.FaultNoAnswer: "see how busy N-central is; if it is always slow, raise request_timeout",
	ncentral.FaultTimeOver: "N-central answers slowly: see how busy it is; if it is always slow, raise " +
		"request_timeout",
	ncentral.FaultNotTLS:  "give url the port on which N-central speaks https",
	ncentral.FaultNotHTTP: "give url the host and the port of N-central's web interface",
	ncentral.FaultTLSVersion: "switch TLS 1.2 or later on at N-central, or at the load balancer before it: no " +
		"setting here can replace that",
	ncentral.FaultNoCipher: "have N-central, or the load balancer before it, offer TLS 1.2 or later with cipher " +
		"suites of ECDHE: no setting here can replace that",
	ncentral.FaultHandshake: "the log of N-central, or of the load balancer before it, says why",
	ncentral.FaultClientCertificate: "ask whoever runs what is before N-central to exempt this Vault node, or " +
		"the path /api, from client certificates",

	ncentral.FaultNoName: "have it issued again with the host of url as a subject alternative name, since a common " +
		"name alone is no longer accepted: neither tls_server_name nor ca_cert can replace that",
	ncentral.FaultNotYetValid: "compare the clock of this Vault node with that of the machine that issued it: most " +
		"likely one of them is wrong",
	ncentral.FaultWeakSignature: "have it issued again, signed with SHA-256; until then ca_cert may hold the " +
		"server's own certificate, which is trusted as it is",
	ncentral.FaultWeakKey: "have it issued again, with keys of 2048 bits or more on both sides",
	ncentral.FaultIssuerNotCA: "have the server's certificate issued by an authority that may do so; until then " +
		"ca_cert may hold the server's own certificate, which is trusted as it is",
	ncentral.FaultCertificate: "have it issued again for this server, by an authority that may do so: no setting " +
		"here can replace that",

	ncentral.FaultProxyCredential: "correct user and password in HTTPS_PROXY in the environment of the Vault server " +
		"and restart it, or exempt the host of url with NO_PROXY",
	ncentral.FaultProxyForbids: "ask whoever runs the proxy to let this Vault node connect to the host and port of " +
		"url, or exempt the host with NO_PROXY in the environment of the Vault server",
	ncentral.FaultProxyFailed: "the proxy is up, but cannot reach N-central: check the host and port of url, and " +
		"whether the proxy knows them and may reach them",

	ncentral.FaultProxySilent: "either the proxy does not answer, or N-central does not answer the proxy: check " +
		"HTTPS_PROXY in the environment of the Vault server and the host and port of url, and ask whoever runs the " +
		"proxy",

	ncentral.FaultRedirect: "if N-central is there now, write that as url; otherwise something on the way wants a " +
		"login there, and must let this Vault node through",
	ncentral.FaultIntercepted: "ask whoever runs it to let this Vault node through: N-central has not judged the " +
		"User-API token, so do not generate a new one",
	ncentral.FaultAuthorizationLost: "a proxy or gateway before N-central removes or changes the Authorization " +
		"header: it must pass the header on unchanged",
}

func (f *Failure) remedyOfWebPage(status int) string {
	switch {
	case status >= http.StatusInternalServerError:
		return "a load balancer or web server before N-central answered in its place: N-central is being started or " +
			"upgraded, or is down; if that lasts, ask whoever runs it"
	case f.Kind == ncentral.KindBadRequest && !f.has.http:
		return "a web server or proxy before N-central answered in its place: ask whoever runs it"
	}
	return ""
}

func (s settings) remedyOfCertificate(fault ncentral.Fault) string {
	switch fault {
	case ncentral.FaultUnknownAuthority:
		if s.caCert {
			return "add the certificate of that authority to ca_cert, which does not hold it; if it is an " +
				"intermediate one, it is better that the server sends it"
		}
		return "set ca_cert to the certificate of that authority; if it is a public one, the server must send its " +
			"intermediate certificates too, and this Vault node needs the system's CA certificates"
	case ncentral.FaultSelfSigned:
		if s.caCert {
			return "ca_cert holds another certificate: if the server has a new one, set ca_cert to that"
		}
		return "set ca_cert to this certificate"
	case ncentral.FaultOtherAuthority:
		if s.caCert {
			return "ca_cert holds another certificate of that name: if the authority was renewed, set ca_cert to " +
				"its new certificate"
		}
		return "if the authority is a private one, set ca_cert to its certificate"
	case ncentral.FaultWrongName, ncentral.FaultUnrecognizedName:
		if s.serverName {
			return "correct tls_server_name, or reset it if the certificate holds the host of url"
		}
		return "correct the host of url, or set tls_server_name to a name that N-central's certificate holds"
	case ncentral.FaultExpired:
		if s.caCert {
			return "renew it, unless the clock of this Vault node is wrong; if it is one that ca_cert holds, set " +
				"ca_cert to the new one"
		}
		return "renew it on the server, unless the clock of this Vault node is wrong"
	}
	return ""
}

// remedyAtProxy returns what can be done about the connection to the proxy itself. The config's TLS
// settings apply to that connection too.
func (s settings) remedyAtProxy(fault ncentral.Fault) string {
	switch fault {
	case ncentral.FaultNotTLS:
		return "write HTTPS_PROXY in the environment of the Vault server with http:// in place of https://, and " +
			"restart the server"
	case ncentral.FaultWrongName, ncentral.FaultUnrecognizedName:
		if s.serverName {
			return "tls_server_name applies to an https proxy too: write HTTPS_PROXY in the environment of the " +
				"Vault server with http://, if the proxy speaks that, or exempt the host of url with NO_PROXY"
		}
	case ncentral.FaultUnknownAuthority, ncentral.FaultSelfSigned, ncentral.FaultOtherAuthority:
		if s.caCert {
			return "ca_cert applies to an https proxy too: add the certificate of the proxy's authority to it"
		}
		return "add the certificate of the proxy's authority to those of this Vault node's system"
	}
	return "check HTTPS_PROXY in the environment of the Vault server, that the proxy is up and its certificate in " +
		"order, and that this Vault node may reach it; exempt what needs no proxy with NO_PROXY"
}
