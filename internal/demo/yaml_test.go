package demo

import (
	"fmt"
	"math"
	"math/rand/v2"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
	"zombiezen.com/go/sqlite"
)

// file is the part of the configuration that the demo uses. It is decoded strictly.
type file struct {
	Version int
	Sources map[string]struct {
		SQLite struct{ Path string } `yaml:"sqlite"`
	}
	Tools     []tool
	Resources []struct {
		URI         string `yaml:"uri"`
		URITemplate string `yaml:"uriTemplate"`
		Name        string
		Description string
		Source      string
		Statement   string
		MimeType    string `yaml:"mimeType"`
	}
	Prompts []struct {
		Name, Description string
		Arguments         []struct {
			Name     string
			Required bool
			Complete struct{ Source, Statement string }
		}
		Messages []struct{ Role, Text string }
	}
	Toolsets map[string][]string
}

type tool struct {
	Name, Source, Description, Statement, Confirm string
	Updates, Invalidates                          []string
	Parameters                                    []parameter
	Annotations                                   struct {
		ReadOnly    *bool `yaml:"readOnlyHint"`
		Idempotent  *bool `yaml:"idempotentHint"`
		Destructive *bool `yaml:"destructiveHint"`
	}
	Cache *struct {
		TTL, Scope string
		Tags       []string
	}
}

type parameter struct {
	Name, Type, Description, Pattern string
	Required                         bool
	Default                          any
	Minimum, Maximum                 *float64
	MinLength                        *int `yaml:"minLength"`
	MaxLength                        *int `yaml:"maxLength"`
}

func read(t *testing.T) (f file, statements map[string]string) {
	t.Helper()
	if err := yaml.UnmarshalWithOptions(YAML, &f, yaml.Strict()); err != nil {
		t.Fatal(err)
	}
	statements = map[string]string{}
	for _, tool := range f.Tools {
		statements[tool.Name] = tool.Statement
	}
	for _, r := range f.Resources {
		statements[r.URI+r.URITemplate] = r.Statement
	}
	for _, p := range f.Prompts {
		for _, a := range p.Arguments {
			statements[p.Name+"/"+a.Name] = a.Complete.Statement
		}
	}
	return f, statements
}

func cities(t testing.TB) *sqlite.Conn {
	t.Helper()
	path, err := whole()
	if err != nil {
		t.Fatal(err)
	}
	return open(t, path)
}

func TestYAML(t *testing.T) {
	t.Parallel()
	f, _ := read(t)
	if f.Version != 1 || f.Sources["demo"].SQLite.Path != "${MILLRACE_DEMO_DB}" {
		t.Errorf("version %d, sources %v", f.Version, f.Sources)
	}
	named := regexp.MustCompile(`:([a-z_]+)`)
	readOnly := map[string]bool{}
	for _, tool := range f.Tools {
		if tool.Source != "demo" || tool.Description == "" {
			t.Errorf("%s: source %q, description %q", tool.Name, tool.Source, tool.Description)
		}
		var declared, used []string
		for _, p := range tool.Parameters {
			declared = append(declared, p.Name)
			if p.Description == "" {
				t.Errorf("%s: %s has no description", tool.Name, p.Name)
			}
		}
		for _, m := range named.FindAllStringSubmatch(tool.Statement, -1) {
			used = append(used, m[1])
		}
		slices.Sort(declared)
		slices.Sort(used)
		if used = slices.Compact(used); !slices.Equal(declared, used) {
			t.Errorf("%s declares %v and uses %v", tool.Name, declared, used)
		}
		reads := strings.HasPrefix(tool.Statement, "SELECT") || strings.HasPrefix(tool.Statement, "WITH")
		hint := tool.Annotations.ReadOnly != nil && *tool.Annotations.ReadOnly
		if hint != reads || hint != (tool.Annotations.Idempotent != nil) {
			t.Errorf("%s: annotations %+v", tool.Name, tool.Annotations)
		}
		// What is written on is cached too, since the writes say what they change.
		cached, notes := tool.Cache != nil, strings.Contains(tool.Name, "note")
		if cached != reads || notes != (cached && slices.Equal(tool.Cache.Tags, []string{"notes:{city_id}"}) || slices.Equal(tool.Invalidates, []string{"notes:{city_id}"})) {
			t.Errorf("%s: cached is %t, with %+v; invalidates %v", tool.Name, cached, tool.Cache, tool.Invalidates)
		}
		readOnly[tool.Name] = hint
	}
	for _, name := range f.Toolsets["geo"] {
		if !readOnly[name] {
			t.Errorf("toolset geo: %s is no read-only tool", name)
		}
	}
}

// No statement may read all cities, whatever it is asked.
func TestPlans(t *testing.T) {
	t.Parallel()
	conn := cities(t)
	_, statements := read(t)
	for name, statement := range statements {
		plan := query(t, conn, "EXPLAIN QUERY PLAN "+statement, nil)
		for _, row := range plan {
			detail := row[3]
			if regexp.MustCompile(`^SCAN (cities|notes)\b`).MatchString(detail) {
				t.Errorf("%s: %s\n%v", name, detail, plan)
			}
		}
		if name != "add_note" && !strings.Contains(fmt.Sprint(plan), "SEARCH") {
			t.Errorf("%s uses no index: %v", name, plan)
		}
	}
}

func TestTools(t *testing.T) {
	t.Parallel()
	conn := cities(t)
	_, statements := read(t)
	for _, c := range []struct {
		statement string
		args      map[string]any
		want      []string // the start of each row
	}{
		{"get_city", map[string]any{"id": 2950159}, []string{"2950159 Berlin DE 16 PPLC 3426354 52.52437 13.41053"}},
		{"get_city", map[string]any{"id": 1}, nil},
		{"city://{id}", map[string]any{"id": "2950159"}, []string{"2950159 Berlin DE"}}, // a variable of a template is text
		{"search_cities", map[string]any{"name": "bErLi", "limit": 2}, []string{"2950159 Berlin DE", "2885657 Berlin Köpenick DE"}},
		{"search_cities", map[string]any{"name": "Zür", "limit": 1}, []string{"2657896 Zürich CH"}},
		{"search_cities", map[string]any{"name": "Springfield", "country": "US", "limit": 2}, []string{"4409896 Springfield US MO", "4951788 Springfield US MA"}},
		{"search_cities", map[string]any{"name": "Berlin", "country": "FR", "limit": 2}, nil},
		{"search_cities", map[string]any{"name": "%", "limit": 10}, nil},
		{"country_statistics", map[string]any{"country": "LI"}, []string{"LI 11 "}},
		{"country_statistics", map[string]any{"country": "XX"}, nil},
		{"plan_trip/city", map[string]any{"value": "berli"}, []string{"Berlin", "Berlin Köpenick", "Berlin Treptow", "Berlicum", "Berlingo", "Berlişte", "Berlingerode"}},
		{"plan_trip/city", map[string]any{"value": ""}, nil},
		{"add_note", map[string]any{"city_id": 2950159, "text": "one"}, []string{"1 2950159 one 20"}},
		{"add_note", map[string]any{"city_id": 2950159, "text": "two"}, []string{"2 2950159 two 20"}},
		{"list_notes", map[string]any{"city_id": 2950159}, []string{"2 2950159 two 20", "1 2950159 one 20"}},
		{"delete_notes", map[string]any{"city_id": 2950159}, nil},
		{"list_notes", map[string]any{"city_id": 2950159}, nil},
	} {
		var got []string
		for _, row := range query(t, conn, statements[c.statement], c.args) {
			got = append(got, strings.Join(row, " "))
		}
		if !slices.EqualFunc(got, c.want, strings.HasPrefix) {
			t.Errorf("%s %v:\n%s\nwant\n%s", c.statement, c.args, strings.Join(got, "\n"), strings.Join(c.want, "\n"))
		}
	}
	if _, err := try(conn, statements["add_note"], map[string]any{"city_id": 1, "text": "nowhere"}); err == nil || !strings.Contains(err.Error(), "no city has this id") {
		t.Errorf("a note on no city: %v", err)
	}
}

// nearest_cities answers as a look at every city does: on land, at sea, at the poles and across the 180th meridian.
func TestNearest(t *testing.T) {
	t.Parallel()
	conn := cities(t)
	_, statements := read(t)
	type city struct{ lat, lon float64 }
	var all []city
	for _, row := range query(t, conn, "SELECT latitude, longitude FROM cities", nil) {
		lat, _ := strconv.ParseFloat(row[0], 64)
		lon, _ := strconv.ParseFloat(row[1], 64)
		all = append(all, city{lat, lon})
	}
	points := [][2]float64{
		{52.52, 13.41}, {0, 0}, {90, 0}, {-90, 0}, {90, 180}, {-16.8, 179.99}, {-16.8, -179.99}, {65, 180}, {65, -180},
		{-48.88, -123.39}, {35, -175}, {89.6, 12}, {-89.4, 0}, {-45, 179.9}, {30, -40},
	}
	rnd := rand.New(rand.NewPCG(1, 2))
	for range 25 {
		points = append(points, [2]float64{math.Asin(2*rnd.Float64()-1) * 180 / math.Pi, 360*rnd.Float64() - 180})
	}
	const radian = math.Pi / 180
	for i, p := range points {
		limit := []int{1, 10, 100}[i%3]
		distance := func(c city) float64 { // by vectors, not by the statement's haversine
			x := math.Cos(c.lat*radian)*math.Cos(c.lon*radian) - math.Cos(p[0]*radian)*math.Cos(p[1]*radian)
			y := math.Cos(c.lat*radian)*math.Sin(c.lon*radian) - math.Cos(p[0]*radian)*math.Sin(p[1]*radian)
			z := math.Sin(c.lat*radian) - math.Sin(p[0]*radian)
			return 2 * 6371.0088 * math.Asin(min(1, math.Sqrt(x*x+y*y+z*z)/2))
		}
		want := make([]float64, len(all))
		for k, c := range all {
			want[k] = distance(c)
		}
		slices.Sort(want)
		rows := query(t, conn, statements["nearest_cities"], map[string]any{"latitude": p[0], "longitude": p[1], "limit": limit})
		if len(rows) != limit {
			t.Errorf("%v: %d rows, want %d", p, len(rows), limit)
			continue
		}
		for k, row := range rows {
			got, _ := strconv.ParseFloat(row[len(row)-1], 64)
			if math.Abs(got-want[k]) > 0.001 {
				t.Errorf("%v: row %d is %v, want one at %v km", p, k, row, want[k])
				break
			}
		}
	}
}

// BenchmarkStatements tells what the tools cost at the database, with the dearest arguments that a caller may give.
func BenchmarkStatements(b *testing.B) {
	conn := cities(b)
	var f file
	if err := yaml.Unmarshal(YAML, &f); err != nil {
		b.Fatal(err)
	}
	for name, args := range map[string]map[string]any{
		"get_city":           {"id": 2950159},
		"search_cities":      {"name": "S", "limit": 100},
		"nearest_cities":     {"latitude": 36.556, "longitude": -40.188, "limit": 100},
		"country_statistics": {"country": "US"},
	} {
		i := slices.IndexFunc(f.Tools, func(t tool) bool { return t.Name == name })
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := try(conn, f.Tools[i].Statement, args); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkPrepare tells how long a first start waits for its data.
func BenchmarkPrepare(b *testing.B) {
	for b.Loop() {
		if _, err := Prepare(b.Context(), b.TempDir()); err != nil {
			b.Fatal(err)
		}
	}
}
