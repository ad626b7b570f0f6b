package front

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// tlsCheckEvery is how often the TLS files are looked at, while there are handshakes.
const tlsCheckEvery = time.Second

// tlsFiles keeps a tls.Config in step with the files that it comes from. A handshake looks whether the files changed, at
// most once a second: three stat calls, against a goroutine with a watcher that has to follow the symbolic links of
// ConfigMaps. A pair that does not load is logged once, tried again each second (it may be half written), and the old
// one goes on.
type tlsFiles struct {
	cfg    TLSConfig
	protos []string
	log    *slog.Logger
	every  time.Duration

	current atomic.Pointer[tls.Config]
	checked atomic.Int64 // nanoseconds since start of the last look
	start   time.Time

	mu     sync.Mutex // guards the rest; a handshake that finds it locked uses current
	loaded []os.FileInfo
	failed []os.FileInfo // the files of the last failure that was logged
}

// newTLSFiles loads the files for the first time. The protocols are those of ALPN, best first.
func newTLSFiles(cfg TLSConfig, protos []string, log *slog.Logger) (*tlsFiles, error) {
	f := &tlsFiles{cfg: cfg, protos: protos, log: log, every: tlsCheckEvery, start: time.Now()}
	var err error
	if f.loaded, err = f.stat(); err != nil {
		return nil, err
	}
	c, err := f.load()
	if err != nil {
		return nil, err
	}
	f.current.Store(c)
	return f, nil
}

// config is what a listener needs: each handshake asks for the newest.
func (f *tlsFiles) config() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		NextProtos: f.protos,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			f.refresh()
			return f.current.Load(), nil
		},
	}
}

func (f *tlsFiles) refresh() {
	now := int64(time.Since(f.start))
	if now-f.checked.Load() < int64(f.every) || !f.mu.TryLock() {
		return
	}
	defer f.mu.Unlock()
	f.checked.Store(now)
	seen, err := f.stat()
	if err == nil && slices.EqualFunc(seen, f.loaded, sameFile) {
		return
	}
	var c *tls.Config
	if err == nil {
		c, err = f.load()
	}
	if err != nil {
		if f.failed == nil || !slices.EqualFunc(seen, f.failed, sameFile) {
			f.log.Error("new TLS files do not load, the old ones stay in use", "err", err)
			f.failed = append([]os.FileInfo{}, seen...)
		}
		return
	}
	f.loaded, f.failed = seen, nil
	f.current.Store(c)
	f.log.Info("TLS files loaded again", "cert_file", f.cfg.CertFile)
}

// stat looks at the files, through symbolic links. It is asked before they are read: a change in between is seen next time.
func (f *tlsFiles) stat() ([]os.FileInfo, error) {
	var infos []os.FileInfo
	for _, name := range []string{f.cfg.CertFile, f.cfg.KeyFile, f.cfg.ClientCAFile} {
		if name == "" {
			continue
		}
		info, err := os.Stat(name)
		if err != nil {
			return nil, fmt.Errorf("TLS file: %w", err)
		}
		infos = append(infos, info)
	}
	return infos, nil
}

func sameFile(a, b os.FileInfo) bool {
	return os.SameFile(a, b) && a.Size() == b.Size() && a.ModTime().Equal(b.ModTime())
}

func (f *tlsFiles) load() (*tls.Config, error) {
	pair, err := tls.LoadX509KeyPair(f.cfg.CertFile, f.cfg.KeyFile)
	if err != nil {
		return nil, fmt.Errorf("TLS certificate %s with key %s: %w", f.cfg.CertFile, f.cfg.KeyFile, err)
	}
	c := &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: f.protos, Certificates: []tls.Certificate{pair}}
	if f.cfg.ClientCAFile == "" {
		return c, nil
	}
	pem, err := os.ReadFile(f.cfg.ClientCAFile)
	if err != nil {
		return nil, fmt.Errorf("TLS client authorities: %w", err)
	}
	c.ClientCAs = x509.NewCertPool()
	if !c.ClientCAs.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("TLS client authorities %s: %w", f.cfg.ClientCAFile, errors.New("no certificate in PEM form"))
	}
	c.ClientAuth = tls.RequireAndVerifyClientCert
	return c, nil
}
