// Package redis is the one client of Redis or Valkey: how the servers are found, and the membership that the processes of
// one deployment share through them. Keys and scripts are of those who use it.
package redis

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/valkey-io/valkey-go"

	"millrace/internal/conf"
)

// Config is `redis:`.
type Config struct {
	Nodes    []string    `yaml:"nodes" desc:"host:port of one server, of some of a cluster, or of the Sentinels; none turns off what needs Redis."`
	Sentinel string      `yaml:"sentinel" desc:"The name of the master set, where nodes are Sentinels."`
	Username string      `yaml:"username" desc:"Whom the servers know; not needed where they know one password alone."`
	Password conf.Secret `yaml:"password" desc:"The password, of the servers and of the Sentinels."`
	TLS      bool        `yaml:"tls" desc:"Whether to speak TLS to the servers."`
	CAFile   string      `yaml:"ca_file" desc:"PEM certificates that vouch for the servers' own; the system's where it is absent."`
	Prefix   string      `yaml:"prefix" desc:"What every key and channel begins with: servers that share results have the same."`
}

// DefaultConfig has no servers.
func DefaultConfig() Config { return Config{Prefix: "millrace"} }

// Validate gives every fault, with paths relative to `redis:`.
func (c *Config) Validate() conf.Faults {
	var faults conf.Faults
	for i, node := range c.Nodes {
		if host, port, err := net.SplitHostPort(node); err != nil || host == "" || port == "" {
			faults = append(faults, conf.Fault{Path: conf.Index("nodes", i), Message: fmt.Sprintf("%q is not host:port", node), Fix: "write for example redis.internal:6379"})
		}
	}
	for path, given := range map[string]bool{"sentinel": c.Sentinel != "", "password": c.Password != "", "tls": c.TLS} {
		if given && len(c.Nodes) == 0 {
			faults = append(faults, conf.Fault{Path: path, Message: "is given and there are no nodes", Fix: "name the servers in redis.nodes, or remove it"})
		}
	}
	if c.CAFile != "" && !c.TLS {
		faults = append(faults, conf.Fault{Path: "ca_file", Message: "is given without tls", Fix: "write tls: true, or remove it"})
	}
	if c.Prefix == "" || len(c.Prefix) > 64 || !printable(c.Prefix) {
		faults = append(faults, conf.Fault{Path: "prefix", Message: fmt.Sprintf("%q cannot begin a key", c.Prefix), Fix: "use letters, digits and '-', at most 64"})
	}
	return faults
}

// printable tells whether a prefix is plain: braces would decide in which slot of a cluster a key is.
func printable(s string) bool {
	for _, r := range s {
		if r <= ' ' || r > '~' || r == '{' || r == '}' || r == '*' {
			return false
		}
	}
	return true
}

// Client is the way to the servers. It connects behind its user's back, as soon as they can be reached, and again when a
// connection breaks. Its methods are safe for concurrent use.
type Client struct {
	prefix string
	log    *slog.Logger
	conn   atomic.Pointer[valkey.Client]
	ready  chan struct{} // closed once connected for the first time
	ctx    context.Context
	cancel context.CancelFunc
	work   sync.WaitGroup
}

// How the servers are spoken to.
const (
	dialTime  = time.Second
	writeTime = 2 * time.Second // also how long a connection may be silent, though it is asked each second
	again     = 250 * time.Millisecond
	openTime  = 2 * time.Second // for the first connection, before the server goes on without it
)

// options gives what the library is told. The error is a fault with the whole path of its key.
func (c *Config) options() (valkey.ClientOption, error) {
	opts := valkey.ClientOption{InitAddress: c.Nodes, Username: c.Username, Password: c.Password.Reveal(), DisableCache: true, DisableRetry: true,
		// One connection for all: what it says of the order of things, and that it broke, holds for reads and messages alike.
		// A command that finds its ring full waits without regard to its deadline, so there is room for as many as a server has callers.
		PipelineMultiplex: -1, AlwaysPipelining: true, RingScaleEachConn: 14, Dialer: net.Dialer{Timeout: dialTime, KeepAlive: time.Second}, ConnWriteTimeout: writeTime}
	if c.TLS {
		opts.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	if c.TLS && c.CAFile != "" {
		pem, err := os.ReadFile(c.CAFile)
		if err != nil {
			return opts, conf.Faults{{Path: "redis.ca_file", Message: err.Error(), Fix: "name a readable file"}}
		}
		opts.TLSConfig.RootCAs = x509.NewCertPool()
		if !opts.TLSConfig.RootCAs.AppendCertsFromPEM(pem) {
			return opts, conf.Faults{{Path: "redis.ca_file", Message: c.CAFile + " holds no certificate", Fix: "name a file of PEM certificates"}}
		}
	}
	if c.Sentinel != "" {
		opts.Sentinel = valkey.SentinelOption{MasterSet: c.Sentinel, Username: c.Username, Password: c.Password.Reveal(), TLSConfig: opts.TLSConfig, Dialer: opts.Dialer}
	}
	return opts, nil
}

// CheckFiles reads the files that cfg names, as Open does.
func (c *Config) CheckFiles() error {
	_, err := c.options()
	return err
}

// Open makes a client of cfg, which has been validated. It waits for the first attempt to connect, openTime at most: who writes before could
// tell no other process of it, though those can hear. A server that cannot be reached is no error; a file that cannot be read is: a
// conf.Faults.
func Open(cfg Config, log *slog.Logger) (*Client, error) { return openWithin(cfg, log, openTime) }

func openWithin(cfg Config, log *slog.Logger, most time.Duration) (*Client, error) {
	opts, err := cfg.options()
	if err != nil {
		return nil, err
	}
	c := &Client{prefix: cfg.Prefix, log: log, ready: make(chan struct{})}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	failed := make(chan struct{})
	c.work.Go(func() { c.connect(opts, failed) })
	select {
	case <-c.ready:
	case <-failed:
	case <-time.After(most):
	}
	return c, nil
}

// connect goes on until it has reached a server once; from then on the library does. It closes failed when it could not at first.
func (c *Client) connect(opts valkey.ClientOption, failed chan<- struct{}) {
	told := false
	for {
		conn, err := valkey.NewClient(opts)
		if err == nil {
			c.conn.Store(&conn)
			close(c.ready)
			if told {
				c.log.Info("Redis is there")
			}
			c.warnOfEviction(conn)
			return
		}
		if !told {
			told = true
			c.log.Warn("Redis cannot be reached yet: the server goes on without it", "error", err)
			close(failed)
		}
		select {
		case <-time.After(again):
		case <-c.ctx.Done():
			return
		}
	}
}

// warnOfEviction looks whether a server may throw away what has no time to live when it is full: versions, of which each is worth a part of
// all that is cached. One that does not tell is asked no more.
func (c *Client) warnOfEviction(conn valkey.Client) {
	ctx, cancel := context.WithTimeout(c.ctx, dialTime)
	defer cancel()
	text, err := conn.Do(ctx, conn.B().Info().Section("memory").Build()).ToString()
	if err != nil {
		return
	}
	for line := range strings.Lines(text) {
		policy, ok := strings.CutPrefix(strings.TrimSpace(line), "maxmemory_policy:")
		if ok && strings.HasPrefix(policy, "allkeys-") {
			c.log.Warn("Redis, when it is full, evicts also what has no time to live, and with it the versions that cached results rest on, which are void then: set maxmemory-policy to volatile-lfu", "maxmemory_policy", policy)
		}
	}
}

// ErrAway says that no server has been reached yet.
var ErrAway = errors.New("no server of Redis has been reached yet")

// Conn gives the connection to all servers, or ErrAway.
func (c *Client) Conn() (valkey.Client, error) {
	if conn := c.conn.Load(); conn != nil {
		return *conn, nil
	}
	return nil, ErrAway
}

// Ready is closed once a server has been reached.
func (c *Client) Ready() <-chan struct{} { return c.ready }

// Key gives the key of a name. Keys spread over the servers of a cluster.
func (c *Client) Key(name string) string { return c.prefix + ":" + name }

// SharedKey gives the key of a name which one script can use together with others: all of them are on one server.
func (c *Client) SharedKey(name string) string { return "{" + c.prefix + "}:" + name }

// Close closes every connection. What is under way fails.
func (c *Client) Close() {
	c.cancel()
	c.work.Wait()
	if conn := c.conn.Load(); conn != nil {
		(*conn).Close()
	}
}
