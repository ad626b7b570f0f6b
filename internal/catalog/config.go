// Package catalog is what is served: tools, resources, prompts and toolsets. It resolves a request to a mcp.Call: one
// look-up, the scope check, and the arguments decoded, defaulted and validated by a table that was compiled at load.
//
// A Catalog is immutable: a reload makes another. It knows nothing of transports, and of databases only sqldb.Source.
package catalog

import (
	"time"

	"millrace/internal/conf"
)

// Tool is one entry of `tools:`.
type Tool struct {
	Name          string            `yaml:"name" required:"true" desc:"What clients call: letters, digits, '_', '-' and '.', at most 128."`
	Title         string            `yaml:"title" desc:"A name for people."`
	Source        string            `yaml:"source" required:"true" desc:"One of sources: where the statement runs."`
	Description   string            `yaml:"description" required:"true" desc:"What the tool does and when to use it; agents choose by it."`
	Statement     string            `yaml:"statement" expand:"none" desc:"One SQL statement with named parameters (:name). They are bound, never spliced into the text."`
	Statements    map[string]string `yaml:"statements" expand:"none" desc:"Instead of statement: several by name, which only read and run side by side, parallel_queries of the source at a time. The result has a member of that name for each."`
	Snapshot      bool              `yaml:"snapshot" desc:"With statements: all of them read what was there at one moment. On SQLite they run one after the other then."`
	Hints         map[string]string `yaml:"hints" desc:"Settings of PostgreSQL's planner for this statement alone, such as enable_seqscan: off or work_mem: 64MB."`
	Parameters    []Parameter       `yaml:"parameters" desc:"The arguments of the tool, each used in the statement."`
	Annotations   Annotations       `yaml:"annotations" desc:"Hints for clients. readOnlyHint: true makes the tool read-only, and that is enforced; without it the tool is a write."`
	Cache         *CachePolicy      `yaml:"cache" desc:"Serve results from the cache; read-only tools only. cache: {} takes the defaults."`
	Timeout       conf.Duration     `yaml:"timeout" desc:"How long a call may take; clients can only ask for less."`
	MaxRows       int               `yaml:"max_rows" desc:"A result ends after this many rows, with a notice."`
	MaxBytes      conf.Size         `yaml:"max_bytes" desc:"A result ends before it grows beyond this, with a notice."`
	RequireScopes []string          `yaml:"require_scopes" desc:"Callers without all of these do not see the tool."`
	Confirm       string            `yaml:"confirm" desc:"Ask the user before the write is kept, with this question; {n} is the number of rows that it affects."`
	Updates       []string          `yaml:"updates" expand:"none" desc:"Addresses of resources that a call changes, with {parameters} of the tool, like city://{id}: clients that watch them are told. Not for cached resources."`
	Invalidates   []string          `yaml:"invalidates" expand:"none" desc:"Tags of cached results that a call makes void, with {parameters} of the tool, like city:{id}."`
	Writes        *Writes           `yaml:"writes" desc:"The cached read whose result a call changes: its entries are void, and the row that the call returns takes their place."`
	Shard         *ShardPolicy      `yaml:"shard" desc:"On a source with shards: the key of the rows. The statement runs on the server that has them; a read without it runs on all."`
	Batch         *BatchPolicy      `yaml:"batch" desc:"Let concurrent calls share statements; read-only tools on PostgreSQL only. batching: has the bounds."`
	Idempotency   *Idempotency      `yaml:"idempotency" desc:"Let a call that carries a key happen once: the same key again gives the first answer. 'millrace install SOURCE' makes the table of keys."`
	Output        any               `yaml:"output" expand:"none" desc:"JSON Schema of the structured result; without it, made from the statement's columns."`
}

// SetDefaults makes Tool a conf.Defaulter.
func (t *Tool) SetDefaults() {
	t.Timeout, t.MaxRows, t.MaxBytes = conf.Duration(5*time.Second), 1000, 1<<20
}

// Annotations are the hints that clients get as they are.
type Annotations struct {
	Title           string `yaml:"title" desc:"A name for people."`
	ReadOnlyHint    bool   `yaml:"readOnlyHint" desc:"The tool changes nothing. Enforced by the database."`
	DestructiveHint *bool  `yaml:"destructiveHint" desc:"The tool may change or remove what is there; clients take true where it is absent."`
	IdempotentHint  bool   `yaml:"idempotentHint" desc:"Calling it twice with the same arguments does no more than once."`
	OpenWorldHint   *bool  `yaml:"openWorldHint" desc:"The tool reaches beyond a closed domain; clients take true where it is absent."`
}

// CachePolicy is `cache:` of a tool or resource.
type CachePolicy struct {
	TTL   *conf.Duration `yaml:"ttl" desc:"How long a result is fresh; cache.l1.ttl where it is absent."`
	Scope string         `yaml:"scope" enum:"private,tenant,public" desc:"Who shares a result: one caller, one tenant's callers of equal scopes, or everybody who may call."`
	Tags  []string       `yaml:"tags" expand:"none" desc:"What a result rests on, with {parameters}, like city:{id}: a write that names it in invalidates makes the result void. One that is null stands for nothing."`

	Query string `yaml:"query" desc:"A name under which tools of one statement share their results: all that say it have the same source, statement, parameters, bounds and cache."`

	StaleWhileRevalidate conf.Duration  `yaml:"stale_while_revalidate" desc:"How long beyond its ttl a result is served while a new one is fetched, once, behind it. Never after a write has made it void."`
	StaleIfError         conf.Duration  `yaml:"stale_if_error" desc:"How long beyond its ttl a result is served where the database is down, slow or overloaded. Never after a write has made it void."`
	NegativeTTL          *conf.Duration `yaml:"negative_ttl" desc:"How long a result without a row is fresh, at most the ttl; 5s where it is absent, 0s keeps none."`
}

// SetDefaults makes CachePolicy a conf.Defaulter.
func (c *CachePolicy) SetDefaults() { c.Scope = "private" }

// Writes is `writes:` of a tool.
type Writes struct {
	Tool string            `yaml:"tool" required:"true" desc:"A cached tool that reads one row by its parameters. Where it gives the same columns as this one returns, its result is replaced, else it is made void."`
	With map[string]string `yaml:"with" required:"true" desc:"Its parameters, each with the parameter of this tool that holds its value."`
}

// BatchPolicy is `batch:` of a tool.
type BatchPolicy struct {
	By string `yaml:"by" required:"true" desc:"The parameter in which calls of one statement may differ: a string, number, integer or boolean."`
}

// ShardPolicy is `shard:` of a tool or resource.
type ShardPolicy struct {
	By string `yaml:"by" required:"true" desc:"The parameter that is the shard key: an integer, or a string for keys that are text or uuid."`
}

// Idempotency is `idempotency:` of a tool.
type Idempotency struct {
	TTL       conf.Duration `yaml:"ttl" desc:"How long a key and its answer are kept."`
	Parameter string        `yaml:"parameter" desc:"A parameter of the tool, a string, that is the key; the statement need not use it. Without it, and in calls that leave it out, millrace/idempotencyKey in _meta is the key."`
}

// SetDefaults makes Idempotency a conf.Defaulter.
func (i *Idempotency) SetDefaults() { i.TTL = conf.Duration(24 * time.Hour) }

// Event is one entry of `events:`.
type Event struct {
	Source  string   `yaml:"source" required:"true" desc:"One of sources: where the table is."`
	Table   string   `yaml:"table" required:"true" desc:"A table whose changes are followed, whoever makes them. 'millrace events install' writes the triggers."`
	Tags    []string `yaml:"tags" expand:"none" desc:"Tags of cached results that a change of a row makes void, with {columns} of the table, like city:{id}: those of the row as it was, and as it is now."`
	Updates []string `yaml:"updates" expand:"none" desc:"Addresses of resources that a change of a row changes, with {columns} of the table: clients that watch them are told."`
}

// Parameter is one argument of a tool.
type Parameter struct {
	Name        string   `yaml:"name" required:"true" desc:"Its name in calls and, as :name, in the statement."`
	Type        string   `yaml:"type" required:"true" enum:"string,integer,number,boolean,array,object" desc:"Its JSON type. Integers are exact in 64 bits."`
	Description string   `yaml:"description" desc:"What it means; agents fill it in by this."`
	Required    bool     `yaml:"required" desc:"Calls without it are refused. An optional one without a default is NULL when absent."`
	Default     any      `yaml:"default" desc:"Its value when absent."`
	Enum        []any    `yaml:"enum" desc:"The allowed values."`
	Minimum     *float64 `yaml:"minimum" desc:"The least number allowed."`
	Maximum     *float64 `yaml:"maximum" desc:"The greatest number allowed."`
	MinLength   *int     `yaml:"minLength" desc:"The fewest characters allowed."`
	MaxLength   *int     `yaml:"maxLength" desc:"The most characters allowed."`
	Pattern     string   `yaml:"pattern" expand:"none" desc:"A regular expression (RE2) that a string must match somewhere; anchor it with ^ and $."`
	Items       any      `yaml:"items" expand:"none" desc:"JSON Schema of an array's elements."`
	Properties  any      `yaml:"properties" expand:"none" desc:"JSON Schemas of an object's properties."`
	Header      string   `yaml:"header" desc:"Clients of 2026-07-28 repeat the argument in the header Mcp-Param-NAME (x-mcp-header), for proxies to route by."`
}

// Resource is one entry of `resources:`.
type Resource struct {
	URI           string            `yaml:"uri" desc:"The address of one resource. Excludes uriTemplate."`
	URITemplate   string            `yaml:"uriTemplate" desc:"Addresses with {variables}, each a part without '/' (RFC 6570, level 1). Each is a parameter of the statement."`
	Name          string            `yaml:"name" required:"true" desc:"A short name."`
	Title         string            `yaml:"title" desc:"A name for people."`
	Description   string            `yaml:"description" desc:"What it holds."`
	MimeType      string            `yaml:"mimeType" desc:"The type of its content; rows are application/json."`
	Source        string            `yaml:"source" required:"true" desc:"One of sources: where the statement runs."`
	Statement     string            `yaml:"statement" required:"true" expand:"none" desc:"One reading SQL statement; the template's variables are its parameters. From a template, no row means not found."`
	Hints         map[string]string `yaml:"hints" desc:"Settings of PostgreSQL's planner for this statement alone."`
	Shard         *ShardPolicy      `yaml:"shard" desc:"On a source with shards: the variable that is the key of the rows."`
	Parameters    []Parameter       `yaml:"parameters" desc:"Types and bounds of the template's variables; a string where absent."`
	Cache         *CachePolicy      `yaml:"cache" desc:"Serve it from the cache, and let clients keep it as long."`
	Timeout       conf.Duration     `yaml:"timeout" desc:"How long a read may take."`
	MaxRows       int               `yaml:"max_rows" desc:"The most rows."`
	MaxBytes      conf.Size         `yaml:"max_bytes" desc:"The most bytes."`
	RequireScopes []string          `yaml:"require_scopes" desc:"Callers without all of these do not see the resource."`
}

// SetDefaults makes Resource a conf.Defaulter.
func (r *Resource) SetDefaults() {
	r.Timeout, r.MaxRows, r.MaxBytes, r.MimeType = conf.Duration(5*time.Second), 1000, 1<<20, "application/json"
}

// Prompt is one entry of `prompts:`.
type Prompt struct {
	Name          string           `yaml:"name" required:"true" desc:"What clients ask for."`
	Title         string           `yaml:"title" desc:"A name for people."`
	Description   string           `yaml:"description" desc:"What the prompt is for."`
	Arguments     []PromptArgument `yaml:"arguments" desc:"What stands in for {name} in the messages."`
	Messages      []PromptMessage  `yaml:"messages" required:"true" desc:"The messages, in order."`
	RequireScopes []string         `yaml:"require_scopes" desc:"Callers without all of these do not see the prompt."`
}

// PromptArgument is one argument of a prompt. All are strings.
type PromptArgument struct {
	Name        string    `yaml:"name" required:"true" desc:"Its name; {name} in a message stands for its value."`
	Description string    `yaml:"description" desc:"What it means."`
	Required    bool      `yaml:"required" desc:"Requests without it are refused."`
	Complete    *Complete `yaml:"complete" desc:"Where suggestions come from while the user types."`
}

// Complete says where completions come from.
type Complete struct {
	Source    string   `yaml:"source" desc:"One of sources."`
	Statement string   `yaml:"statement" expand:"none" desc:"A reading statement whose first column is the suggestions; :value is what was typed."`
	Values    []string `yaml:"values" desc:"Fixed suggestions, instead of a statement."`
}

// PromptMessage is one message of a prompt.
type PromptMessage struct {
	Role string `yaml:"role" required:"true" enum:"user,assistant" desc:"Who speaks."`
	Text string `yaml:"text" expand:"none" desc:"What is said; {name} stands for an argument."`
}
