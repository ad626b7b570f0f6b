package admin

import (
	"fmt"
	"net"
	"strconv"

	"millrace/internal/conf"
	"millrace/internal/front"
)

// Config is the `admin` part of the configuration. Changes to it need a restart, apart from the token in the file.
type Config struct {
	Address   string `yaml:"address" desc:"host:port of metrics, health and profiles; an address that is not loopback needs token_file"`
	TokenFile string `yaml:"token_file" desc:"file with the bearer token that everything but /healthz and /readyz asks for"`
}

// ProbesConfig is the `probes` part of the configuration: a second listener with nothing but /healthz, /readyz and /metrics,
// for kubelets and scrapers, which have no token.
type ProbesConfig struct {
	Address string `yaml:"address" desc:"host:port that serves only /healthz, /readyz and /metrics, without a token; none without it"`
}

// DefaultConfig is what holds where the file says nothing.
func DefaultConfig() Config { return Config{Address: "127.0.0.1:9090"} }

// DefaultProbesConfig is what holds where the file says nothing: no listener for probes.
func DefaultProbesConfig() ProbesConfig { return ProbesConfig{} }

// Validate reports every fault, with paths below `admin`. It opens no file.
func (c Config) Validate() conf.Faults {
	if !validAddress(c.Address) {
		return conf.Faults{{Path: "address", Message: fmt.Sprintf("%q is not host:port", c.Address), Fix: "write host:port, such as 127.0.0.1:9090"}}
	}
	if c.TokenFile == "" && !front.IsLoopback(c.Address) {
		return conf.Faults{{Path: "address", Message: fmt.Sprintf("%q can be reached by others, and there is no token", c.Address),
			Fix: "add token_file, or listen on 127.0.0.1 and give kubelets and scrapers probes.address"}}
	}
	return nil
}

// Validate reports every fault, with paths below `probes`.
func (c ProbesConfig) Validate() conf.Faults {
	if c.Address != "" && !validAddress(c.Address) {
		return conf.Faults{{Path: "address", Message: fmt.Sprintf("%q is not host:port", c.Address), Fix: "write host:port, such as :9091"}}
	}
	return nil
}

func validAddress(address string) bool {
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		return false
	}
	_, err = strconv.ParseUint(port, 10, 16)
	return err == nil
}
