// Package identity finds out who calls. It knows API keys: random texts of 128 bits or more, of which the configuration
// holds the SHA-256, so that a look-up by hash is as good as a slow derivation and leaks nothing through timing.
//
// It is the first stop of the request path, before anything that costs more.
package identity

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"slices"
	"strings"

	"millrace/internal/conf"
	"millrace/internal/mcp"
)

// Config is `auth:`.
type Config struct {
	Keys         []Key  `yaml:"keys" desc:"API keys. With none, everybody who reaches the listener may call, so it listens on loopback only."`
	KeysFile     string `yaml:"keys_file" desc:"A YAML file with a list 'keys:' in the same form, added to these."`
	StateKeyFile string `yaml:"state_key_file" desc:"A file with at least 32 random bytes that sign what clients carry between two tries of a call. Without it a random key is made at each start."`
}

// Key is one API key.
type Key struct {
	Name   string   `yaml:"name" required:"true" desc:"Who holds the key: the subject of its calls."`
	SHA256 string   `yaml:"sha256" required:"true" desc:"SHA-256 of the key in hexadecimal: printf %s \"$KEY\" | sha256sum. Make keys at random, of 128 bits or more."`
	Tenant string   `yaml:"tenant" desc:"The tenant on whose behalf the holder calls."`
	Scopes []string `yaml:"scopes" desc:"What the holder may do; tools name the scopes that they require."`
}

// DefaultConfig has no keys.
func DefaultConfig() Config { return Config{} }

type keysFile struct {
	Keys []Key `yaml:"keys"`
}

// Validate gives every fault, with paths relative to `auth:`.
func (c *Config) Validate() conf.Faults {
	var faults conf.Faults
	validate(&faults, c.Keys, map[string]string{})
	return faults
}

// hashOfNothing comes of hashing a variable that was not set.
const hashOfNothing = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

func validate(faults *conf.Faults, keys []Key, seen map[string]string) {
	for i, k := range keys {
		at := fmt.Sprintf("keys[%d]", i)
		if k.Name == "" {
			*faults = append(*faults, conf.Fault{Path: at, Message: "the key has no name", Fix: "add name: who holds it"})
		}
		if b, err := hex.DecodeString(k.SHA256); err != nil || len(b) != sha256.Size {
			*faults = append(*faults, conf.Fault{Path: at + ".sha256", Message: "not a SHA-256 in hexadecimal (64 digits)",
				Fix: `take the output of: printf %s "$KEY" | sha256sum`})
			continue
		}
		hash := strings.ToLower(k.SHA256)
		if hash == hashOfNothing {
			*faults = append(*faults, conf.Fault{Path: at + ".sha256", Message: "is the SHA-256 of nothing: no caller can have this key",
				Fix: `set KEY before: printf %s "$KEY" | sha256sum`})
		}
		if other, twice := seen[hash]; twice {
			*faults = append(*faults, conf.Fault{Path: at + ".sha256", Message: fmt.Sprintf("is the key of %q too", other),
				Fix: "give each holder a key of their own"})
		}
		seen[hash] = k.Name
	}
}

// Keyring knows the API keys. It is immutable.
type Keyring struct {
	principals map[[sha256.Size]byte]*mcp.Principal
	hash       [sha256.Size]byte
}

// Hash tells the content of one keys_file from that of another. It is the same for all that have none.
func (r *Keyring) Hash() [sha256.Size]byte { return r.hash }

// New reads the keys of cfg, which has been validated, and of its keys_file. Where a file is named there is a key, or an
// error: faults of that file, or one at auth.keys_file.
func New(cfg Config) (*Keyring, error) {
	keys := slices.Clone(cfg.Keys)
	var content []byte
	if cfg.KeysFile != "" {
		data, err := os.ReadFile(cfg.KeysFile)
		if err != nil {
			return nil, conf.Faults{{Path: "auth.keys_file", Message: err.Error(), Fix: "name a file that this user may read"}}
		}
		doc, faults := conf.Parse(cfg.KeysFile, data, os.LookupEnv)
		if len(faults) > 0 {
			return nil, faults
		}
		var file keysFile
		if faults = doc.Decode(&file); len(faults) == 0 {
			seen := map[string]string{}
			for _, k := range keys {
				seen[strings.ToLower(k.SHA256)] = k.Name
			}
			validate(&faults, file.Keys, seen)
			if len(keys)+len(file.Keys) == 0 {
				// Who names a file wants callers to be known: one that was emptied must not let everybody in.
				faults = append(faults, conf.Fault{Path: "keys", Message: "the file holds no key, so everybody could call",
					Fix: "add one, or leave auth.keys_file out"})
			}
			faults = doc.Locate(faults)
		}
		if len(faults) > 0 {
			return nil, faults
		}
		keys, content = append(keys, file.Keys...), data
	}
	r := &Keyring{principals: make(map[[sha256.Size]byte]*mcp.Principal, len(keys)), hash: sha256.Sum256(content)}
	for _, k := range keys {
		hash, err := hex.DecodeString(k.SHA256)
		if err != nil || len(hash) != sha256.Size {
			return nil, fmt.Errorf("auth.keys: the sha256 of %q is none", k.Name)
		}
		r.principals[[sha256.Size]byte(hash)] = mcp.NewPrincipal(k.Tenant, k.Name, k.Scopes)
	}
	return r, nil
}

// Open tells whether no key is configured: everybody is anonymous.
func (r *Keyring) Open() bool { return len(r.principals) == 0 }

// Find names the caller by the value of its Authorization header ("" for none). It is false for a caller that must be
// turned away.
func (r *Keyring) Find(authorization string) (*mcp.Principal, bool) {
	if len(r.principals) == 0 {
		return mcp.Anonymous, true
	}
	const scheme = "bearer "
	if len(authorization) <= len(scheme) || !strings.EqualFold(authorization[:len(scheme)], scheme) {
		return nil, false
	}
	// Keys of more than 4 KiB are no keys: hashing them would only be work for an attacker to ask for.
	key := authorization[len(scheme):]
	if len(key) > 4096 {
		return nil, false
	}
	p, ok := r.principals[sum(key)]
	return p, ok
}

// sum is the SHA-256 of a key. Keys of usual length are copied to the stack first: a conversion would allocate.
func sum(key string) [sha256.Size]byte {
	var short [128]byte
	if len(key) <= len(short) {
		return sha256.Sum256(short[:copy(short[:], key)])
	}
	return sha256.Sum256([]byte(key))
}
