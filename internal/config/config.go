// Package config is the file: every package's Config in one tree. It reads, decodes and validates, and gives every
// fault at once, each with line and column.
package config

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"millrace/internal/admin"
	"millrace/internal/cache"
	"millrace/internal/catalog"
	"millrace/internal/conf"
	"millrace/internal/front"
	"millrace/internal/identity"
	"millrace/internal/redis"
	"millrace/internal/session"
	"millrace/internal/sqldb"
)

// Config is the whole file.
type Config struct {
	Version   int                     `yaml:"version" required:"true" desc:"The version of this format: 1."`
	Listen    front.Config            `yaml:"listen" desc:"Where clients reach the server: MCP at /mcp, toolsets at /mcp/NAME. Changes need a restart."`
	Admin     admin.Config            `yaml:"admin" desc:"The listener for operators: health, metrics, profiles. Changes need a restart."`
	Probes    admin.ProbesConfig      `yaml:"probes" desc:"A listener for kubelets and scrapers. Changes need a restart."`
	Auth      identity.Config         `yaml:"auth" desc:"Who may call."`
	Sessions  session.Config          `yaml:"sessions" desc:"Bounds on what legacy clients need remembered. Changes need a restart."`
	Redis     redis.Config            `yaml:"redis" desc:"The Redis or Valkey that servers share: the second level of the cache. Changes need a restart."`
	Cache     cache.Config            `yaml:"cache" desc:"Where results of tools with cache: are kept."`
	Batching  sqldb.BatchingConfig    `yaml:"batching" desc:"How calls of tools with batch: share statements."`
	Sources   map[string]sqldb.Config `yaml:"sources" desc:"Databases by name."`
	Tools     []catalog.Tool          `yaml:"tools" desc:"SQL statements that agents can call."`
	Resources []catalog.Resource      `yaml:"resources" desc:"Rows that clients can read by address."`
	Prompts   []catalog.Prompt        `yaml:"prompts" desc:"Texts that clients can fill in and use."`
	Events    []catalog.Event         `yaml:"events" desc:"Tables that others change too: what a change of a row means for cached results and watched resources."`
	Toolsets  map[string][]string     `yaml:"toolsets" desc:"Names of tools, served together at /mcp/NAME."`
}

// Default is what holds where the file says nothing.
func Default() Config {
	return Config{Listen: front.DefaultConfig(), Admin: admin.DefaultConfig(), Auth: identity.DefaultConfig(),
		Sessions: session.DefaultConfig(), Redis: redis.DefaultConfig(), Cache: cache.DefaultConfig(), Batching: sqldb.DefaultBatching()}
}

// Loaded is a configuration with where its keys stand.
type Loaded struct {
	Config
	Hash string // of the file's bytes
	file string
	doc  *conf.Document
	told map[string]bool // the paths of what could not be read
}

// Locate adds line and column to faults that know their path. It leaves those out that are about a value which could not
// be read: that has been told, and what stands in its place is not what the file says.
func (l *Loaded) Locate(faults conf.Faults) conf.Faults {
	return l.doc.Locate(slices.DeleteFunc(faults, func(f conf.Fault) bool { return f.Path != "" && l.told[f.Path] }))
}

// Where says where in the file a key is: file, line and column.
func (l *Loaded) Where(path string) string {
	p := l.doc.Position(path)
	return fmt.Sprintf("%s:%d:%d", l.file, p.Line, p.Column)
}

// Unread tells that there is something at path that could not be read.
func (l *Loaded) Unread(path string) bool { return l.told[path] }

// Load reads the file's bytes. lookup gives the environment. The faults are all that can be found without the catalog.
func Load(file string, data []byte, lookup func(string) (string, bool)) (*Loaded, conf.Faults) {
	doc, faults := conf.Parse(file, data, lookup)
	l := &Loaded{Config: Default(), file: file, doc: doc}
	sum := sha256.Sum256(data)
	l.Hash = hex.EncodeToString(sum[:8])
	if !doc.Read() {
		return l, faults // of a file that was not read, nothing is missing
	}
	faults = append(faults, doc.Decode(&l.Config)...)
	l.told = make(map[string]bool, len(faults))
	for _, f := range faults {
		l.told[f.Path] = true
	}
	return l, append(faults, l.Locate(l.validate())...)
}

var sourceName = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)

func (l *Loaded) validate() conf.Faults {
	var faults conf.Faults
	add := func(prefix string, fs conf.Faults) {
		for _, f := range fs {
			if f.Path == "" {
				f.Path = prefix
			} else {
				f.Path = prefix + "." + f.Path
			}
			faults = append(faults, f)
		}
	}
	if l.Version == 0 {
		faults = append(faults, conf.Fault{Path: "version", Message: "is missing or 0", Fix: "write version: 1"})
	} else if l.Version != 1 {
		faults = append(faults, conf.Fault{Path: "version", Message: fmt.Sprintf("is %d", l.Version), Fix: "write version: 1"})
	}
	add("listen", l.Listen.Validate())
	add("admin", l.Admin.Validate())
	add("probes", l.Probes.Validate())
	add("auth", l.Auth.Validate())
	add("sessions", l.Sessions.Validate())
	add("batching", l.Batching.Validate())
	add("redis", l.Redis.Validate())
	add("cache", l.Cache.Validate())
	if l.Cache.L2.KeyFile != "" && len(l.Redis.Nodes) == 0 && !l.told["redis"] && !l.told["redis.nodes"] {
		add("cache", conf.Faults{{Path: "l2.key_file", Message: "is given and there is no Redis", Fix: "name servers in redis.nodes, or remove it"}})
	}
	if name := l.Cache.L3.Source; name != "" {
		if source, ok := l.Sources[name]; !ok && !l.told["sources"] && !l.told[conf.Key("sources", name)] {
			add("cache", conf.Faults{{Path: "l3.source", Message: fmt.Sprintf("there is no source %q", name), Fix: "name one of sources"}})
		} else if source.Shards != nil {
			add("cache", conf.Faults{{Path: "l3.source", Message: fmt.Sprintf("source %q is spread over servers", name), Fix: "name one that is one database"}})
		}
	}
	for _, name := range slices.Sorted(maps.Keys(l.Sources)) {
		source := l.Sources[name]
		at := conf.Key("sources", name)
		if !sourceName.MatchString(name) {
			add(at, conf.Faults{{Message: fmt.Sprintf("%q is no name of a source", name), Fix: "use letters, digits, '_' and '-', at most 64"}})
		}
		add(at, source.Validate())
	}
	return append(faults, l.Apart()...)
}

// Apart gives the faults of listeners that want one port.
func (c *Config) Apart() conf.Faults {
	var faults conf.Faults
	listeners := []struct{ key, address string }{{"listen.address", c.Listen.Address}, {"admin.address", c.Admin.Address}, {"probes.address", c.Probes.Address}}
	for i, a := range listeners {
		for _, b := range listeners[:i] {
			if collide(a.address, b.address) {
				faults = append(faults, conf.Fault{Path: a.key, Message: fmt.Sprintf("%s is taken by %s (%s)", a.address, b.key, b.address),
					Fix: "give each listener a port of its own"})
				break
			}
		}
	}
	return faults
}

// collide tells whether only one of two addresses can be listened on: one port, on one host or on all. Port 0 is any free
// one. An address that is none has been told.
func collide(a, b string) bool {
	hostA, portA, errA := net.SplitHostPort(a)
	hostB, portB, errB := net.SplitHostPort(b)
	if errA != nil || errB != nil || portA != portB || portA == "0" {
		return false
	}
	all := func(host string) bool {
		ip := net.ParseIP(host)
		return host == "" || ip != nil && ip.IsUnspecified()
	}
	return all(hostA) || all(hostB) || strings.EqualFold(hostA, hostB)
}

// Schema gives the JSON Schema of the file.
func Schema() ([]byte, error) {
	c := Default()
	return conf.Schema(&c)
}

// HashOf tells two values of the configuration apart. Secrets count with their content.
func HashOf(v any) string {
	sum := sha256.Sum256([]byte(plain(reflect.ValueOf(v))))
	return hex.EncodeToString(sum[:])
}

// plain writes a value with all it holds: a Secret would hide itself from encoding/json.
func plain(v reflect.Value) string {
	switch v.Kind() {
	case reflect.Pointer, reflect.Interface:
		if v.IsNil() {
			return "null"
		}
		return plain(v.Elem())
	case reflect.Struct:
		var b strings.Builder
		for i := range v.NumField() {
			fmt.Fprintf(&b, "%s{%s}", v.Type().Field(i).Name, plain(v.Field(i)))
		}
		return b.String()
	case reflect.String:
		return strconv.Quote(v.String())
	case reflect.Slice:
		var b strings.Builder
		for i := range v.Len() {
			fmt.Fprintf(&b, "[%s]", plain(v.Index(i)))
		}
		return b.String()
	case reflect.Map:
		keys := v.MapKeys()
		slices.SortFunc(keys, func(a, b reflect.Value) int { return strings.Compare(plain(a), plain(b)) })
		var b strings.Builder
		for _, k := range keys {
			fmt.Fprintf(&b, "[%s:%s]", plain(k), plain(v.MapIndex(k)))
		}
		return b.String()
	case reflect.Int, reflect.Int64, reflect.Int32:
		return strconv.FormatInt(v.Int(), 10)
	default:
		data, err := json.Marshal(v.Interface())
		if err != nil {
			return fmt.Sprint(v)
		}
		return string(data)
	}
}

// Numbers gives the effective value of every configured number by its path: durations in seconds, sizes in bytes.
// Entries of lists go by their name.
func (c *Config) Numbers() map[string]float64 {
	out := map[string]float64{}
	numbers(out, "", reflect.ValueOf(*c))
	return out
}

func numbers(out map[string]float64, path string, v reflect.Value) {
	switch d := v.Interface().(type) {
	case conf.Duration:
		out[path] = d.Std().Seconds()
		return
	}
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			numbers(out, path, v.Elem())
		}
	case reflect.Struct:
		for i := range v.NumField() {
			key := v.Type().Field(i).Tag.Get("yaml")
			if key == "" || key == "-" {
				continue
			}
			if path != "" {
				key = path + "." + key
			}
			numbers(out, key, v.Field(i))
		}
	case reflect.Map:
		for _, k := range v.MapKeys() {
			if v.Type().Elem().Kind() == reflect.Struct {
				numbers(out, path+"."+k.String(), v.MapIndex(k))
			}
		}
	case reflect.Slice:
		for i := range v.Len() {
			e := v.Index(i)
			if e.Kind() == reflect.Struct && e.FieldByName("Name").IsValid() {
				numbers(out, path+"["+e.FieldByName("Name").String()+"]", e)
			}
		}
	case reflect.Int, reflect.Int64:
		out[path] = float64(v.Int())
	case reflect.Float64:
		out[path] = v.Float()
	}
}
