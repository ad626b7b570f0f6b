package app

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/jsonschema-go/jsonschema"

	"millrace/internal/conf"
	"millrace/internal/config"
)

// TestRequiredKeys takes every line of a file that holds all required keys away: an editor, by the schema, and check must
// both miss it. "needed" ends the lines of those keys.
func TestRequiredKeys(t *testing.T) {
	t.Parallel()
	data, err := config.Schema()
	if err != nil {
		t.Fatal(err)
	}
	var s jsonschema.Schema
	if err := json.Unmarshal(data, &s); err != nil {
		t.Fatal(err)
	}
	schema, err := s.Resolve(nil)
	if err != nil {
		t.Fatal(err)
	}
	const full = `version: 1 # needed
auth:
  keys:
    - tenant: t
      name: k # needed
      sha256: 2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b # needed
sources:
  db:
    sqlite: {
      path: x.db # needed
    }
  pg:
    postgres: {
      primary: postgres://h/d # needed
    }
  spread:
    shards: {
      key: text, # needed
      tables: [{table: n, key: k}], # needed
      servers: {a: {primary: "postgres://h/d"}} # needed
    }
  wider:
    shards:
      key: text
      tables:
        - {
            table: n, # needed
            key: k # needed
          }
      servers:
        a: {
          primary: postgres://h/d # needed
        }
tools:
  - title: T
    name: t # needed
    source: db # needed
    description: d # needed
    statement: SELECT :p
    parameters:
      - description: p
        name: p # needed
        type: string # needed
  - name: read
    source: db
    description: d
    statement: SELECT :id
    parameters: [{name: id, type: string, required: true}]
    annotations: {readOnlyHint: true}
    cache: {tags: ["n:{id}"]}
  - name: write
    source: db
    description: d
    statement: DELETE FROM n WHERE id = :id
    parameters: [{name: id, type: string}]
    writes:
      tool: read # needed
      with: {id: id} # needed
  - name: batched
    source: pg
    description: d
    statement: SELECT :id AS v
    parameters: [{name: id, type: string, required: true}]
    annotations: {readOnlyHint: true}
    batch:
      by: id # needed
  - name: sharded
    source: spread
    description: d
    statement: SELECT v FROM n WHERE k = :id
    parameters: [{name: id, type: string, required: true}]
    annotations: {readOnlyHint: true}
    shard: {
      by: id # needed
    }
resources:
  - uriTemplate: "n://{id}"
    name: n
    source: spread
    statement: SELECT v FROM n WHERE k = :id
    shard: {
      by: id # needed
    }
  - uri: "r://all"
    name: r # needed
    source: db # needed
    statement: SELECT 1 # needed
events:
  - tags: ["n:{id}"]
    source: db # needed
    table: n # needed
prompts:
  - title: P
    name: p # needed
    messages: [{role: user}] # needed
    arguments:
      - description: a
        name: a # needed
  - name: q
    messages:
      - text: hello
        role: user # needed
`
	file := filepath.Join(t.TempDir(), "m.yaml")
	judge := func(text string) (byCheck conf.Faults, bySchema error) {
		writeFile(t, file, text)
		byCheck, err := Check(t.Context(), file, false)
		if err != nil {
			t.Fatal(err)
		}
		doc, faults := conf.Parse("m.yaml", []byte("x:\n  "+strings.ReplaceAll(text, "\n", "\n  ")), nil)
		var plain struct {
			X any `yaml:"x" expand:"none"`
		}
		if faults = append(faults, doc.Decode(&plain)...); len(faults) > 0 {
			t.Fatal(faults)
		}
		return byCheck, schema.Validate(plain.X)
	}
	if byCheck, bySchema := judge(full); bySchema != nil || len(byCheck) > 0 {
		t.Fatalf("the whole file: %v, %v", bySchema, byCheck)
	}
	lines, needed := strings.Split(full, "\n"), 0
	for i, line := range lines {
		if !strings.HasSuffix(line, "# needed") {
			continue
		}
		needed++
		byCheck, bySchema := judge(strings.Join(append(append([]string{}, lines[:i]...), lines[i+1:]...), "\n"))
		if bySchema == nil || len(byCheck) == 0 {
			t.Errorf("without %q: the schema says %v, check %v", strings.TrimSpace(line), bySchema, byCheck)
		}
	}
	if listed := strings.Count(fmt.Sprint(requiredOf(&s)), " ") + 1; listed != needed+2 { // parameters stand in tools and in resources
		t.Errorf("the schema requires %d keys, and the file has %d: %v", listed, needed, requiredOf(&s))
	}
}

// requiredOf gives the required keys of a schema and of all below it.
func requiredOf(s *jsonschema.Schema) (keys []string) {
	if s == nil {
		return nil
	}
	keys = append(keys, s.Required...)
	for _, p := range s.Properties {
		keys = append(keys, requiredOf(p)...)
	}
	return append(append(keys, requiredOf(s.Items)...), requiredOf(s.AdditionalProperties)...)
}
