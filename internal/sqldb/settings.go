package sqldb

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"millrace/internal/conf"
	"millrace/internal/mcp"
)

// settings are what is set in the transaction of a statement before it runs, and is gone when that ends: the caller's names for
// row-level security, and hints for the planner. All of them are set by one SELECT, whose parameters are the values.
type settings struct {
	names  []string
	values []string // as the file has them: ofTenant and ofSubject stand for the caller's
	sql    string
}

// What stands for the caller in db_settings.
const (
	ofTenant  = "$tenant"
	ofSubject = "$subject"
)

// newSettings gives the settings of a statement: those of its source, and its own hints over them. It is nil where there are none.
func newSettings(source, hints map[string]string) *settings {
	all := maps.Clone(source)
	if all == nil {
		all = map[string]string{}
	}
	maps.Copy(all, hints)
	if len(all) == 0 {
		return nil
	}
	s := &settings{}
	var b strings.Builder
	names := slices.Sorted(maps.Keys(all))
	if i := slices.IndexFunc(names, isRole); i >= 0 { // last: it may not be allowed to set the others
		role := names[i]
		names = append(slices.Delete(names, i, i+1), role)
	}
	for i, name := range names {
		if i == 0 {
			b.WriteString("SELECT ")
		} else {
			b.WriteString(", ")
		}
		s.names = append(s.names, name)
		s.values = append(s.values, all[name])
		b.WriteString("pg_catalog.set_config('" + name + "', $" + strconv.Itoa(i+1) + ", true)") // a name is safe: validateSettings
	}
	s.sql = b.String()
	return s
}

func isRole(name string) bool { return strings.EqualFold(name, "role") }

// refuse says why nothing may run for a caller: "none" is no role, but the way back from one.
func (s *settings) refuse(tool string, c *mcp.Caller) error {
	last := len(s.names) - 1
	if v := s.values[last]; !isRole(s.names[last]) || v != ofTenant && v != ofSubject || string(s.of(c)[last]) != "none" {
		return nil
	}
	return sqlFailure(tool, `db_settings takes the caller's name for a role, and "none" is none`, nil)
}

// of gives the values for a caller, nil for nobody, whose names are empty.
func (s *settings) of(c *mcp.Caller) [][]byte {
	out := make([][]byte, len(s.values))
	for i, v := range s.values {
		switch named := c != nil && c.Principal != nil; {
		case v == ofTenant && named:
			v = c.Tenant
		case v == ofSubject && named:
			v = c.Subject
		case v == ofTenant, v == ofSubject:
			v = ""
		}
		out[i] = append([]byte{}, v...) // nil would be NULL, which leaves the setting as it is
	}
	return out
}

// constant gives the part of the settings that is the same for all callers; nil where there is none.
func (s *settings) constant() *settings {
	same := map[string]string{}
	for i, name := range s.names {
		if v := s.values[i]; v != ofTenant && v != ofSubject {
			same[name] = v
		}
	}
	return newSettings(same, nil)
}

// widest is the widest scope in which results may be shared that were read under these settings of a source.
func widest(source map[string]string) mcp.Scope {
	scope := mcp.ScopePublic
	for _, v := range source {
		switch v {
		case ofSubject:
			return mcp.ScopePrivate
		case ofTenant:
			scope = mcp.ScopeTenant
		}
	}
	return scope
}

var settingName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*$`)

// ownSettings are those that results and the read-only guarantee rest on, and what a statement means.
var ownSettings = []string{"client_encoding", "datestyle", "timezone", "intervalstyle", "extra_float_digits", "bytea_output", "session_authorization",
	"standard_conforming_strings", "search_path"}

// hintPrefixes and hintNames are the settings of PostgreSQL's planner and of what a statement may use.
var (
	hintPrefixes = []string{"enable_", "jit", "geqo", "parallel_", "min_parallel_", "max_parallel_workers_per_gather", "pg_hint_plan."}
	hintNames    = []string{"work_mem", "hash_mem_multiplier", "plan_cache_mode", "from_collapse_limit", "join_collapse_limit", "seq_page_cost", "random_page_cost",
		"cpu_tuple_cost", "cpu_index_tuple_cost", "cpu_operator_cost", "effective_cache_size", "effective_io_concurrency", "constraint_exclusion",
		"cursor_tuple_fraction", "recursive_worktable_factor"}
)

// validateSettings gives the faults of db_settings.
func validateSettings(source map[string]string) (fs conf.Faults) {
	for _, name := range slices.Sorted(maps.Keys(source)) {
		at, lower := conf.Key("db_settings", name), strings.ToLower(name)
		switch v := source[name]; {
		case !settingName.MatchString(name):
			fs = append(fs, conf.Fault{Path: at, Message: fmt.Sprintf("%q is no name of a setting", name), Fix: "write for example app.tenant: a name with a dot is your own"})
		case lower == "search_path":
			fs = append(fs, conf.Fault{Path: at, Message: "says what a statement means, which is settled before there is a caller",
				Fix: "set it for all in the connection URL: ?options=-c%20search_path%3DNAME"})
		case slices.Contains(ownSettings, lower), strings.HasPrefix(lower, "transaction_"), strings.HasPrefix(lower, "default_transaction_"):
			fs = append(fs, conf.Fault{Path: at, Message: "is set by Millrace itself", Fix: "remove it"})
		case v != ofTenant && v != ofSubject && (strings.HasPrefix(v, "$") || strings.Contains(v, ofTenant) || strings.Contains(v, ofSubject)):
			fs = append(fs, conf.Fault{Path: at, Message: fmt.Sprintf("%q stands for nothing", v), Fix: "write " + ofTenant + ", " + ofSubject + " or a value; put them together in SQL"})
		case strings.IndexByte(v, 0) >= 0:
			fs = append(fs, conf.Fault{Path: at, Message: "holds a zero byte", Fix: "remove it"})
		}
	}
	return fs
}

// validateHints gives the faults of a statement's hints.
func validateHints(hints map[string]string) (fs conf.Faults) {
	for _, name := range slices.Sorted(maps.Keys(hints)) {
		isPrefix := func(prefix string) bool { return strings.HasPrefix(name, prefix) }
		if at := conf.Key("hints", name); !settingName.MatchString(name) || !slices.Contains(hintNames, name) && !slices.ContainsFunc(hintPrefixes, isPrefix) {
			fs = append(fs, conf.Fault{Path: at, Message: fmt.Sprintf("%q is no setting of the planner", name),
				Fix: "write for example enable_seqscan: off, or work_mem: 64MB; settings for all statements of a source are its db_settings"})
		} else if v := hints[name]; strings.HasPrefix(v, "$") || strings.IndexByte(v, 0) >= 0 {
			fs = append(fs, conf.Fault{Path: at, Message: fmt.Sprintf("%q is no value of a setting", v), Fix: "write a value: a hint is the same for all callers"})
		}
	}
	return fs
}
