// Copyright (c) The vault-plugin-secrets-ncentral authors
// SPDX-License-Identifier: MPL-2.0

// A day with faults, as Prometheus sees it: what the alert rules and the dashboard in deploy are
// tested on.

package backend

import (
	"flag"
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-ncentral/internal/simulator"
)

// scrapesFile has the form of Prometheus's own tests of PromQL.
const scrapesFile = "../deploy/testdata/day.promqltest"

var writeScrapes = flag.Bool("scrapes.write", false, "write the scrapes of a day that deploy's tests use")

// day scrapes the mount once a minute.
type day struct {
	*mount
	scrapes []map[string]string // the values of the series
}

// pass lets minutes pass, with readers in each.
func (d *day) pass(minutes int) {
	d.t.Helper()
	for range minutes {
		d.use()
		d.scrape()
	}
}

// use reads tokens as applications do, whatever the answer is.
func (d *day) use() {
	for _, role := range []string{"monitoring", "reporting"} {
		_, _ = d.do(opRead, "creds/"+role, nil)
	}
	if len(d.scrapes)%10 != 0 {
		return
	}
	for _, role := range []string{"old", "long"} {
		_, _ = d.do(opRead, "creds/"+role, nil)
	}
	if response, err := d.do(opRead, "creds/worker", nil); err == nil && !response.IsError() {
		time.Sleep(time.Second)
		_ = d.revoke(response)
	}
}

// scrape has Vault's tick run, and scrapes at the end of the minute.
func (d *day) scrape() {
	d.t.Helper()
	_, _ = d.do(logical.RollbackOperation, "", nil)
	time.Sleep(time.Until(time.Now().Truncate(time.Minute).Add(time.Minute)))
	scraped := map[string]string{"up": "1"}
	for line := range strings.Lines(string(d.get("metrics")[logical.HTTPRawBody].([]byte))) {
		if strings.HasPrefix(line, "#") {
			continue
		}
		space := strings.LastIndexByte(line, ' ')
		value, err := strconv.ParseFloat(strings.TrimSpace(line[space:]), 64)
		if err != nil {
			d.t.Fatal(err)
		}
		scraped[line[:space]] = strconv.FormatFloat(value, 'f', -1, 64)
	}
	d.scrapes = append(d.scrapes, scraped)
}

func (d *day) noError(err error) {
	d.t.Helper()
	if err != nil {
		d.t.Fatal(err)
	}
}

// begin makes the mount's configs and roles. Of the three configs, default falls back to second,
// whose password nobody is warned of, and old has little time left.
func (d *day) begin() {
	d.Change(func(k *simulator.Knobs) { k.Latency, k.RefuseLongOverrides = 200*time.Millisecond, true })
	d.write("config/default", map[string]any{
		"password_max_age": "90d", "password_changed_at": time.Now().Format(time.RFC3339),
	})
	d.write("config/second", map[string]any{
		"url": d.server.URL, "user_api_token": d.AddUser("second-user"), "max_requests_in_flight": 5,
	})
	d.write("config/old", map[string]any{
		"url": d.server.URL, "user_api_token": d.AddUserExpiring("old-user", 75*time.Hour),
		"password_max_age":    "90d",
		"password_changed_at": time.Now().Add(-76*24*time.Hour + 3*time.Hour).Format(time.RFC3339),
	})
	d.write("roles/monitoring", map[string]any{"fallback_configs": "second"})
	d.write("roles/worker", map[string]any{"credential_type": "dedicated"})
	d.write("roles/reporting", map[string]any{"config": "second", "lease": false})
	d.write("roles/old", map[string]any{"config": "old", "lease": false})
	d.write("roles/long", map[string]any{"ttl": "3h", "lease": false})
	time.Sleep(time.Until(time.Now().Truncate(time.Minute).Add(time.Minute)))
}

// run lives through the day.
func (d *day) run() {
	d.begin()
	d.pass(20)
	d.reboot()
	d.pass(20)
	d.limit()
	d.pass(20)
	d.goDown()
	d.pass(30)
	d.loseUsers()
	d.pass(30)
	d.restartVault()
	d.pass(20)
	d.loseStorage()
	d.pass(20)
	d.refuse()
	d.pass(30)
}

// reboot ends all sessions, and a reader notices.
func (d *day) reboot() {
	d.Reboot()
	d.read(map[string]any{"validate": true})
}

// limit has N-central answer 429 for some minutes.
func (d *day) limit() {
	d.FailNext(simulator.EndpointAuthenticate, 12, status(429))
	d.pass(30)
}

// goDown has N-central not answer for longer than the tokens live, while a lease ends.
func (d *day) goDown() {
	opened := d.open(nil)
	d.noError(d.SetDown(true))
	_ = d.revoke(opened)
	d.pass(90)
	d.noError(d.SetDown(false))
}

// loseUsers has the password of a user expire, and then that of the next one.
func (d *day) loseUsers() {
	d.noError(d.SetPasswordExpired("api-user", true))
	d.pass(20)
	d.noError(d.SetPasswordExpired("second-user", true))
	d.pass(20)
	d.noError(d.ChangePassword("second-user"))
	d.noError(d.ChangePassword("api-user"))
	for _, config := range []string{"default", "second"} {
		_, err := d.do(opWrite, "config/"+config+"/check", nil)
		d.noError(err)
	}
}

// restartVault has nobody scrape for a while, and the counters begin anew.
func (d *day) restartVault() {
	for range 15 {
		time.Sleep(time.Minute)
		d.scrapes = append(d.scrapes, map[string]string{"up": "0"})
	}
	d.start()
}

// loseStorage has a stored config not be readable for a while.
func (d *day) loseStorage() {
	kept, err := d.storage.Get(d.t.Context(), "config/old")
	d.noError(err)
	d.damage("config/old")
	d.start()
	d.pass(15)
	d.noError(d.storage.Put(d.t.Context(), kept))
	d.start()
}

// refuse has N-central refuse refreshes and then a User-API token, and somebody find that a password
// is older than was said.
func (d *day) refuse() {
	d.FailNext(simulator.EndpointRefresh, 3, status(401))
	d.pass(60)
	token, err := d.RegenerateUserAPIToken("old-user")
	d.noError(err)
	d.must(opDelete, "sessions/old", nil)
	d.pass(20)
	d.write("config/old", map[string]any{
		"user_api_token": token, "password_changed_at": time.Now().Add(-88 * 24 * time.Hour).Format(time.RFC3339),
	})
}

// text returns the scrapes as Prometheus loads them.
func (d *day) text() string {
	var text strings.Builder
	fmt.Fprintf(&text, "# A day with faults, scraped once a minute. Written by\n"+
		"# go test ./backend -run %s -scrapes.write\nload 1m\n", d.t.Name())
	for _, series := range d.series() {
		fmt.Fprintf(&text, "  %s %s\n", series, strings.Join(d.valuesOf(series), " "))
	}
	return text.String()
}

func (d *day) series() []string {
	all := map[string]string{}
	for _, scraped := range d.scrapes {
		maps.Copy(all, scraped)
	}
	return slices.Sorted(maps.Keys(all))
}

// valuesOf returns the series' values, those that are repeated or grow evenly in one word, as in
// 0x3 (0 0 0 0) or 5+2x2 (5 7 9).
func (d *day) valuesOf(series string) (words []string) {
	values := make([]string, len(d.scrapes))
	for i, scraped := range d.scrapes {
		value, there := scraped[series]
		switch {
		case there:
			values[i] = value
		case i > 0 && values[i-1] != "_" && values[i-1] != "stale":
			values[i] = "stale"
		default:
			values[i] = "_"
		}
	}
	for len(values) > 0 {
		word, count := firstWord(values)
		words, values = append(words, word), values[count:]
	}
	return words
}

// firstWord returns a word for the first values, and how many these are.
func firstWord(values []string) (word string, count int) {
	repeated := 1
	for repeated < len(values) && values[repeated] == values[0] {
		repeated++
	}
	first, err := strconv.Atoi(values[0])
	switch {
	case values[0] == "_":
		return fmt.Sprintf("_x%d", repeated), repeated
	case repeated > 1 && values[0] != "stale":
		return fmt.Sprintf("%sx%d", values[0], repeated-1), repeated
	case err != nil || len(values) < 2:
		return values[0], 1
	}
	second, err := strconv.Atoi(values[1])
	if err != nil {
		return values[0], 1
	}
	count = 2
	for count < len(values) && values[count] == strconv.Itoa(first+count*(second-first)) {
		count++
	}
	return fmt.Sprintf("%d%+dx%d", first, second-first, count-1), count
}

var versionLabel = regexp.MustCompile(`version="[^"]*"`)

// seriesIn returns the series of such a text, whatever the plugin's version was.
func seriesIn(text string) (series []string) {
	for line := range strings.Lines(text) {
		if name, _, found := strings.Cut(strings.TrimPrefix(line, "  "), " "); found && strings.HasPrefix(line, "  ") {
			series = append(series, versionLabel.ReplaceAllString(name, "version"))
		}
	}
	return series
}

// Values may differ, for pauses between attempts are random.
func TestTheScrapesThatDeployIsTestedOnHaveTheSeriesOfToday(t *testing.T) {
	inBubble(t, nil, func(m *mount) {
		d := &day{mount: m}
		d.run()
		if *writeScrapes {
			d.noError(os.WriteFile(scrapesFile, []byte(d.text()), 0o600))
		}
		stored, err := os.ReadFile(scrapesFile)
		d.noError(err)
		if diff := cmp.Diff(seriesIn(string(stored)), seriesIn(d.text())); diff != "" {
			t.Errorf("run this test with -scrapes.write, and then deploy's: %s", diff)
		}
	})
}
