// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

package simulator

import (
	"crypto/rand"
	"encoding/json"
	"mime"
	"net/http"
	"strings"
	"time"
)

// links returns where the authentication calls are: all five [S], or the three that older servers
// and the documentation have [D].
func (s *Simulator) links() *answer {
	links := map[string]string{"authenticate": authenticatePath, "refresh": refreshPath, "validate": validatePath}
	if !s.knobs.ThreeLinks && !s.knobs.LogoutAbsent {
		links["logout"], links["sso"] = logoutPath, ssoPath
	}
	if s.knobs.LinksNested {
		return okAnswer(map[string]any{"_links": links})
	}
	return okAnswer(links)
}

func (s *Simulator) authenticate(incoming call) *answer {
	token, refusal := bearerToken(incoming)
	if refusal != nil {
		return refusal
	}
	u := s.userOfToken(token)
	if u == nil || s.refusesLogin(u) {
		return s.coreError(http.StatusUnauthorized,
			"DmsLoginException: Login failed. Unable to obtain the login sessionId. Check the user and its token.")
	}
	access, refresh, refusal := s.grants(incoming)
	if refusal != nil {
		return refusal
	}
	if again := s.newestPairOf(u.name); again != nil && incoming.failure.Kind == FailureSameTokens {
		return s.sameTokensAnswer(again)
	}
	if s.knobs.AuthenticateEndsEarlierSessions {
		s.endSessionsOf(u.name, EndedByAuthenticate)
	}
	return s.tokensAnswer(s.issue(EndpointAuthenticate, u.name, rand.Text(), access, refresh), access, refresh)
}

func (s *Simulator) refresh(incoming call) *answer {
	if !s.knobs.LenientRefreshContentType && !isPlainText(incoming.contentType) {
		return errorAnswer(http.StatusUnsupportedMediaType,
			"HttpMediaTypeNotSupportedException: Content-Type is not supported.")
	}
	if incoming.body == "" {
		return errorAnswer(http.StatusBadRequest, "HttpMessageNotReadableException: Required request body is missing.")
	}
	old := s.pairByRefresh(incoming.body)
	if old == nil {
		return unauthorized()
	}
	access, refresh, refusal := s.grants(incoming)
	if refusal != nil {
		return refusal
	}
	if again := s.newestPairOf(old.user); again != nil && incoming.failure.Kind == FailureSameTokens {
		return s.sameTokensAnswer(again)
	}
	if s.knobs.SingleUseRefreshTokens {
		delete(s.sessions.byRefresh, old.refresh)
	}
	if s.knobs.RefreshEndsPredecessor {
		s.endAccessTokensOf(old.chain)
	}
	return s.tokensAnswer(s.issue(EndpointRefresh, old.user, old.chain, access, refresh), access, refresh)
}

// refusesLogin reports whether the user gets no session, even with a valid token.
func (s *Simulator) refusesLogin(u *user) bool {
	isBarred := u.disabled || u.locked || u.twoFactorType != noTwoFactor
	return isBarred && !s.knobs.BarredUsersAuthenticate ||
		u.passwordExpired && s.knobs.ExpiredPasswordRefusesAuthenticate
}

func isPlainText(contentType string) bool {
	mediaType, _, err := mime.ParseMediaType(contentType)
	return err == nil && mediaType == "text/plain"
}

// logout ends the pair, or everything that was refreshed from the same authenticate [?].
func (s *Simulator) logout(p *pair) *answer {
	s.end(p, EndedByLogout)
	if s.knobs.LogoutEndsChain {
		s.endChain(p.chain)
	}
	return &answer{outcome: OutcomeOK, status: http.StatusOK}
}

// bearerToken reads authenticate's Authorization header. A header that is present but not
// understood is a 500, strange as that is [O].
func bearerToken(incoming call) (token string, refusal *answer) {
	if incoming.authorization == "" {
		return "", errorAnswer(http.StatusBadRequest,
			"MissingRequestHeaderException: Required request header 'Authorization' for method parameter type String "+
				"is not present")
	}
	token, ok := strings.CutPrefix(incoming.authorization, bearerPrefix)
	if !ok {
		return "", errorAnswer(http.StatusInternalServerError,
			"AuthException: Authentication header is malformed or unsupported.")
	}
	return token, nil
}

type tokenBody struct {
	Token         string      `json:"token"`
	Type          string      `json:"type"`
	ExpirySeconds json.Number `json:"expirySeconds,omitempty"`
}

type tokensBody struct {
	Tokens struct {
		Access  tokenBody `json:"access"`
		Refresh tokenBody `json:"refresh"`
	} `json:"tokens"`
	Refresh  string `json:"refresh"`
	Validate string `json:"validate"`
}

// tokensAnswer returns the answer to authenticate and refresh [D].
func (s *Simulator) tokensAnswer(p *pair, access, refresh grant) *answer {
	body := tokensBody{Refresh: refreshPath, Validate: validatePath}
	body.Tokens.Access = tokenBody{Token: p.access, Type: "Bearer", ExpirySeconds: access.stated}
	body.Tokens.Refresh = tokenBody{Token: p.refresh, Type: "Body", ExpirySeconds: refresh.stated}
	if s.knobs.OmitExpirySeconds {
		body.Tokens.Access.ExpirySeconds, body.Tokens.Refresh.ExpirySeconds = "", ""
	}
	answered := okAnswer(body)
	answered.issued = p.issued
	return answered
}

// sameTokensAnswer returns a pair again, with the rest of its lifetimes.
func (s *Simulator) sameTokensAnswer(p *pair) *answer {
	same := s.tokensAnswer(p, newGrant(time.Until(p.accessUntil)), newGrant(time.Until(p.refreshUntil)))
	same.outcome = OutcomeFailed
	return same
}
