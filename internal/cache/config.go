package cache

import (
	"fmt"
	"time"

	"millrace/internal/conf"
)

// Config is `cache:`.
type Config struct {
	L1           L1Config           `yaml:"l1" desc:"The level in this process."`
	L2           L2Config           `yaml:"l2" desc:"The level that servers share in Redis or Valkey; on where redis has nodes."`
	L3           L3Config           `yaml:"l3" desc:"The level in a database, which survives a restart; off without a source."`
	Invalidation InvalidationConfig `yaml:"invalidation" desc:"What becomes of entries whose time is over."`
	Warmup       WarmupConfig       `yaml:"warmup" desc:"What is fetched before anybody asks."`
}

// L1Config bounds the level in this process, by entries and by bytes; both hold.
type L1Config struct {
	Size     int           `yaml:"size" desc:"The most entries."`
	TTL      conf.Duration `yaml:"ttl" desc:"How long an entry is fresh here at most, and how long one is fresh where its tool gives no ttl."`
	MaxBytes conf.Size     `yaml:"max_bytes" desc:"The most bytes of results."`
}

// L2Config is the level in Redis.
type L2Config struct {
	TTL     conf.Duration `yaml:"ttl" desc:"How long an entry stays there at most."`
	KeyFile string        `yaml:"key_file" desc:"A file with at least 32 random bytes: entries are encrypted and authenticated with it. All servers that share redis need the same."`
}

// L3Config is the level in a database.
type L3Config struct {
	Source   string        `yaml:"source" desc:"One of sources: where the tables millrace_cache and millrace_cache_tags are made. Without one there is no such level."`
	TTL      conf.Duration `yaml:"ttl" desc:"How long an entry is fresh there at most."`
	MaxBytes conf.Size     `yaml:"max_bytes" desc:"The most bytes of entries; those that are asked for least go first."`
}

// InvalidationConfig says when what is over is removed.
type InvalidationConfig struct {
	Every conf.Duration `yaml:"every" desc:"How often expired entries are removed from l3. They are not served, removed or not."`
}

// WarmupConfig says what is fetched before anybody asks.
type WarmupConfig struct {
	InitialLoad       int           `yaml:"initial_load" desc:"How many of the entries of l3 that were asked for most are loaded into l1 before the server is ready; 0 for none."`
	Interval          conf.Duration `yaml:"interval" desc:"How often public results that are asked for and about to expire are fetched anew; 0s for never."`
	PriorityThreshold int           `yaml:"priority_threshold" desc:"How often a result must have been asked for in an interval to be fetched anew."`
}

// DefaultConfig gives 1000 entries, 60 s and 64 MiB in the process, and what else there would be at 1 h and 1 GiB.
func DefaultConfig() Config {
	return Config{L1: L1Config{Size: 1000, TTL: conf.Duration(time.Minute), MaxBytes: 64 << 20},
		L2:           L2Config{TTL: conf.Duration(5 * time.Minute)},
		L3:           L3Config{TTL: conf.Duration(time.Hour), MaxBytes: 1 << 30},
		Invalidation: InvalidationConfig{Every: conf.Duration(time.Minute)},
		Warmup:       WarmupConfig{InitialLoad: 1000, Interval: conf.Duration(30 * time.Second), PriorityThreshold: 10}}
}

// Validate gives every fault, with paths relative to `cache:`.
func (c *Config) Validate() conf.Faults {
	var faults conf.Faults
	fault := func(path, message, fix string) {
		faults = append(faults, conf.Fault{Path: path, Message: message, Fix: fix})
	}
	if c.L1.Size < 1 || c.L1.Size > 1e9 {
		fault("l1.size", fmt.Sprintf("is %d", c.L1.Size), "give 1 to 1000000000")
	}
	if c.L1.TTL <= 0 {
		fault("l1.ttl", "must be longer than nothing", "write 60s, or leave cache: out of the tools")
	}
	if int64(c.L1.MaxBytes) < int64(c.L1.Size) {
		fault("l1.max_bytes", "is less than a byte an entry", "raise it, or lower l1.size")
	}
	if c.L2.TTL <= 0 {
		fault("l2.ttl", "must be longer than nothing", "write 300s, or leave redis.nodes out")
	}
	if c.L3.TTL <= 0 {
		fault("l3.ttl", "must be longer than nothing", "write 1h, or leave l3.source out")
	}
	if c.L3.MaxBytes <= 0 {
		fault("l3.max_bytes", "must be more than nothing", "write 1GiB, or leave l3.source out")
	}
	if c.Invalidation.Every < conf.Duration(time.Second) {
		fault("invalidation.every", "is less than a second", "write 60s")
	}
	if c.Warmup.InitialLoad < 0 || c.Warmup.InitialLoad > 1e6 {
		fault("warmup.initial_load", fmt.Sprintf("is %d", c.Warmup.InitialLoad), "give 0 to 1000000")
	}
	if c.Warmup.Interval != 0 && c.Warmup.Interval < conf.Duration(time.Second) {
		fault("warmup.interval", "is less than a second", "write 30s, or 0s for never")
	}
	if c.Warmup.PriorityThreshold < 1 {
		fault("warmup.priority_threshold", fmt.Sprintf("is %d", c.Warmup.PriorityThreshold), "give 1 or more")
	}
	return faults
}
