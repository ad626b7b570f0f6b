package sqldb

import (
	"fmt"
	"strings"
	"sync"
	"testing"

	"millrace/internal/mcp"
)

// Each run has its own caller's names and its own statement's hints, in round trips that are shared too, and leaves nothing behind.
func TestSettings(t *testing.T) {
	t.Parallel()
	s, _ := postgres(t, "CREATE TABLE seen (tenant text, subject text)", func(c *Config) {
		c.Pool.Size, c.Pool.Overflow = 3, 0
		c.Settings = map[string]string{"app.tenant": ofTenant, "app.user": ofSubject, "app.fixed": "it's $1", "work_mem": "2MB"}
	})
	if got := s.Widest(); got != mcp.ScopePrivate {
		t.Errorf("may be shared as %s", got)
	}
	const seen = "SELECT current_setting('app.tenant', true) AS t, current_setting('app.user', true) AS u, current_setting('app.fixed', true) AS f, current_setting('work_mem') AS m"
	compile := func(spec Spec) Query {
		spec.Name, spec.MaxRows = "tool", 10
		q, err := s.Compile(spec)
		if err != nil {
			t.Fatal(err)
		}
		return q
	}
	plain, hinted := compile(Spec{Text: seen}), compile(Spec{Text: seen, Hints: map[string]string{"work_mem": "3MB"}})
	own := compile(Spec{Text: seen, Own: true})
	write := compile(Spec{Text: "INSERT INTO seen SELECT current_setting('app.tenant'), current_setting('app.user') RETURNING *", Mode: ReadWrite})
	var wg sync.WaitGroup
	for n := range 32 {
		wg.Go(func() {
			caller := &mcp.Caller{Principal: mcp.NewPrincipal(fmt.Sprint("acme", n), fmt.Sprint("o'neill", n), nil)}
			if n == 0 {
				caller = nil
			}
			tenant, subject := fmt.Sprint("acme", n), fmt.Sprint("o'neill", n)
			if caller == nil {
				tenant, subject = "", ""
			}
			for i := range 40 {
				q, want := plain, fmt.Sprintf(`{"rows":[{"t":%q,"u":%q,"f":"it's $1","m":"2MB"}]}`, tenant, subject)
				switch {
				case i%5 == 4:
					q, want = write, fmt.Sprintf(`{"rows":[{"tenant":%q,"subject":%q}]}`, tenant, subject)
				case i%3 == 1:
					q, want = hinted, strings.Replace(want, "2MB", "3MB", 1)
				}
				out, _, err := q.Run(t.Context(), nil, &Execution{Caller: caller})
				if err != nil || string(out) != want {
					t.Errorf("%s, %v; want %s", out, err, want)
					return
				}
				if i%8 == 7 {
					out, _, err = own.Run(t.Context(), nil, &Execution{Caller: caller})
					for _, none := range []string{`"t":null,"u":null,"f":null,"m":"4MB"`, `"t":"","u":"","f":"","m":"4MB"`} { // empty once it was set before
						if err == nil && strings.Contains(string(out), none) {
							out = nil
						}
					}
					if err != nil || out != nil {
						t.Errorf("a statement of our own sees %s, %v", out, err)
						return
					}
				}
			}
		})
	}
	wg.Wait()
}

// A setting that the server does not take is told by what asks about the statement, before anybody calls it.
func TestSettingsAreDescribed(t *testing.T) {
	t.Parallel()
	s, _ := postgres(t, "", func(c *Config) { c.Settings = map[string]string{"role": ofSubject} })
	for hint, want := range map[string]string{"": "", "enable_nothing": "unrecognized configuration parameter", "work_mem": "invalid value for parameter"} {
		spec := Spec{Name: "tool", Text: "SELECT 1 AS v"}
		if hint != "" {
			spec.Hints = map[string]string{hint: "some"}
		}
		q, err := s.Compile(spec)
		if err != nil {
			t.Fatal(err)
		}
		if _, err = q.Describe(t.Context()); (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", hint, err, want)
		}
	}
}

func TestSettingsAreValidated(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		settings map[string]string
		want     string
	}{
		"a name":           {map[string]string{"app.x', true); DROP TABLE n; --": "1"}, "is no name of a setting"},
		"somebody unknown": {map[string]string{"app.user": "$user"}, "$tenant, $subject or a value"},
		"a part":           {map[string]string{"app.tenant": "t:$tenant"}, "put them together in SQL"},
		"our own":          {map[string]string{"Transaction_read_only": "off"}, "is set by Millrace itself"},
		"the search path":  {map[string]string{"search_path": "$tenant"}, "in the connection URL"},
		"what is right":    {map[string]string{"app.tenant": "$tenant", "role": "app", "statement_timeout": "3s"}, ""},
	} {
		cfg := DefaultConfig()
		cfg.Postgres, cfg.Settings = &PostgresConfig{Primary: "postgres://h/d"}, c.settings
		if err := cfg.Validate().Err(); (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
	cfg := DefaultConfig()
	cfg.SQLite, cfg.Settings = &SQLiteConfig{Path: "f.db"}, map[string]string{"app.tenant": "$tenant"}
	if err := cfg.Validate().Err(); err == nil || !strings.Contains(err.Error(), "SQLite has none") {
		t.Errorf("on SQLite: %v", err)
	}
	for hint, want := range map[string]string{"app.tenant": "is no setting of the planner", "enable_x'": "is no setting of the planner", "work_mem": "is no value"} {
		if err := validateHints(map[string]string{hint: "$tenant"}).Err(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", hint, err, want)
		}
	}
}
