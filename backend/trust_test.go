// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

// Which server a config trusts, and that a token is sent to that one alone.

package backend

import (
	"strings"
	"testing"

	"vault-plugin-secrets-ncentral/internal/simulator"
)

// Declarative tools compare what they gave with what is answered. What changes no trust neither
// demands the token nor retires a session.
func TestCACertIsAnsweredAsItWasGivenWhateverItsWhiteSpace(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		certificate, _ := bundle(t)
		m.write("config/default", map[string]any{"ca_cert": certificate, "user_api_token": m.token})
		token := m.expectLives(m.read(nil))
		for name, given := range map[string]string{
			"no line end":      strings.TrimSpace(certificate),
			"lines around it":  "\n\n" + certificate + "\n ",
			"of Windows":       strings.ReplaceAll(certificate, "\n", "\r\n"),
			"of an old Mac":    strings.ReplaceAll(certificate, "\n", "\r"),
			"as it was before": certificate,
		} {
			m.write("config/default", map[string]any{"ca_cert": given})
			if answered := m.get("config/default")["ca_cert"]; answered != given {
				t.Errorf("%s: %q is answered", name, answered)
			}
			if m.expectLives(m.read(nil)) != token {
				t.Errorf("%s: the session was retired", name)
			}
		}
		m.write("config/default", map[string]any{"ca_cert": "", "user_api_token": m.token})
		m.write("config/default", map[string]any{"ca_cert": " \n"})
	})
}

func TestAnotherCACertDemandsTheTokenAndRetires(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		certificate, _ := bundle(t)
		other, _ := bundle(t)
		m.write("config/default", map[string]any{"ca_cert": certificate, "user_api_token": m.token})
		token := m.expectLives(m.read(nil))
		text := m.fails(400, opWrite, "config/default", map[string]any{"ca_cert": certificate + other})
		if !strings.HasPrefix(text, "ca_cert: ") {
			t.Error(text)
		}
		m.write("config/default", map[string]any{"ca_cert": certificate + other, "user_api_token": m.token})
		if m.expectLives(m.read(nil)) == token {
			t.Error("the session was not retired")
		}
	})
}

// A private key among the certificates would be stored, replicated, and answered to whoever may
// read the config.
func TestAPrivateKeyIsNeitherStoredNorQuoted(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		certificate, withKey := bundle(t)
		key := strings.TrimPrefix(withKey, certificate)
		secret := strings.Split(key, "\n")[1]
		for name, given := range map[string]string{
			"after the certificate":  withKey,
			"before the certificate": key + certificate,
			"of another kind":        strings.ReplaceAll(withKey, "PRIVATE KEY", "ENCRYPTED PRIVATE KEY"),
			"without its beginning":  certificate + strings.TrimPrefix(key, "-----BEGIN PRIVATE KEY-----\n"),
			"with Windows's lines":   strings.ReplaceAll(withKey, "\n", "\r\n"),
		} {
			text, code := m.failure(opWrite, "config/default", map[string]any{
				"ca_cert": given, "user_api_token": m.token,
			})
			if code != 400 || !strings.HasPrefix(text, "ca_cert: ") || !strings.Contains(text, "leave the key out") ||
				strings.Contains(text, secret) {
				t.Errorf("%s: %d %s", name, code, text)
			}
		}
		if stored := m.get("config/default")["ca_cert"]; stored != "" {
			t.Error("it was stored")
		}
	})
}

// tls_server_name is answered in clear, and sent in clear at each handshake: no token may get in.
func TestTLSServerNameTakesHostNamesAlone(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		label := strings.Repeat("a", 63)
		longest := label + "." + label + "." + label + "." + strings.Repeat("a", 61)
		for _, name := range []string{
			"ncentral", "ncentral.example.com", "N-Central.Example.COM", "1.example.com", "ncentral.example.com.",
			"xn--bcher-kva.example",
			longest, "192.0.2.1", "2001:db8::1", "",
		} {
			m.write("config/default", map[string]any{"tls_server_name": name, "user_api_token": m.token})
			if answered := m.get("config/default")["tls_server_name"]; answered != name {
				t.Errorf("%q became %q", name, answered)
			}
		}
		for _, given := range []string{
			m.token, "eyJhbGciOiJub25lIn0.eyJzdWIiOiJhIn0.c2lnbmF0dXJl", label + "a.example.com", longest + "a",
			"https://ncentral.example.com",
			"ncentral.example.com:443", "ncentral.example.com/", "user@example.com", "a b", "a..b", ".a",
			"-a.example.com", "a-.example.com", "a_b.example.com",
			"[2001:db8::1]", "fe80::1%eth0", "*.example.com", "bücher.example", "a\x00b", ".",
		} {
			text, code := m.failure(opWrite, "config/default", map[string]any{
				"tls_server_name": given, "user_api_token": m.token,
			})
			if code != 400 || !strings.HasPrefix(text, "tls_server_name: not a host name") ||
				strings.Contains(text, given) && len(given) > 5 {
				t.Errorf("%q: %d %s", given, code, text)
			}
		}
	})
}

func TestRepointedConfigSendsNothingOfTheOldServer(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		m.read(nil)
		old := m.Secrets()
		m.fails(400, opWrite, "config/default", map[string]any{"url": "http://localhost:81"}, "user_api_token")
		// The in-memory network leads every address to one server: what it hears from now on, the
		// new server hears.
		other := simulator.New(simulator.DefaultKnobs())
		token := other.AddUser("api-user")
		m.server.Close()
		m.server = simulator.ListenInMemory(other)
		defer m.server.Close()
		m.write("config/default", map[string]any{"url": "http://localhost:81", "user_api_token": token})
		answer := m.read(nil)
		if answer["url"] != "http://localhost:81" || !other.AccessTokenLives(answer["access_token"].(string)) {
			t.Error("the token is not of the new server")
		}
		response, err := m.do(opDelete, "sessions/monitoring", nil)
		if err != nil || response == nil || len(response.Warnings) != 1 ||
			!strings.Contains(response.Warnings[0], "another url") {
			t.Errorf("want a warning on the token of the old server, got %v %v", response, err)
		}
		for _, secret := range old {
			if other.Received(secret) {
				t.Fatal("a secret of the old server was sent to the new one")
			}
		}
	})
}
