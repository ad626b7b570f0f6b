package front

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"syscall"
	"time"
)

// maxHeaderBytes bounds a request's header; net/http adds 4 KiB of its own.
const maxHeaderBytes = 32 << 10

// Listen opens the listener that cfg describes: TCP without delay, with TCP keep-alive, the configured buffers and, where
// configured, TLS. The backlog is the kernel's greatest (net.core.somaxconn), as Go has it.
func Listen(cfg Config, log *slog.Logger) (net.Listener, error) {
	var secure *tlsFiles
	if cfg.TLS.Enabled() {
		var err error
		if secure, err = newTLSFiles(cfg.TLS, protocolNames(cfg), log); err != nil {
			return nil, err
		}
	}
	lc := net.ListenConfig{KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 15 * time.Second, Interval: 15 * time.Second, Count: 9}}
	if cfg.TCPBuffer > 0 {
		// On the listening socket, whose options the accepted ones inherit: the window is then right from the first
		// packet on, and accepting costs nothing more.
		lc.Control = func(_, _ string, raw syscall.RawConn) error {
			got, err := setBuffers(raw, int(cfg.TCPBuffer))
			if err == nil && got < int(cfg.TCPBuffer) {
				log.Warn("the kernel allows smaller TCP buffers than configured (net.core.rmem_max, wmem_max)",
					"configured", int(cfg.TCPBuffer), "effective", got)
			}
			return err
		}
	}
	l, err := lc.Listen(context.Background(), "tcp", cfg.Address)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", cfg.Address, err)
	}
	l = lazyListener{l}
	if secure != nil {
		l = tls.NewListener(l, secure.config())
	}
	return l, nil
}

func protocolNames(cfg Config) []string {
	if cfg.HTTP2 {
		return []string{"h2", "http/1.1"}
	}
	return []string{"http/1.1"}
}

// NewHTTPServer makes the server for what Listen opens; Serve is the method to run, with and without TLS. Its time-outs
// are those of a plain request: a handler that streams or works for longer moves its own deadlines through
// http.ResponseController.
func NewHTTPServer(cfg Config, h http.Handler, log *slog.Logger) *http.Server {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(cfg.HTTP2)
	protocols.SetUnencryptedHTTP2(cfg.HTTP2)
	s := &http.Server{
		Handler:           h,
		Protocols:         protocols,
		ReadHeaderTimeout: cfg.HeaderTimeout.Std(),
		ReadTimeout:       cfg.BodyTimeout.Std(),
		WriteTimeout:      cfg.BodyTimeout.Std(),
		IdleTimeout:       cfg.IdleTimeout.Std(),
		MaxHeaderBytes:    maxHeaderBytes,
		// What goes here is clients' doing: failed handshakes, malformed headers. At info, anybody could fill the disk.
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams: 250,
			// What one connection can make us hold before a handler reads it.
			MaxReceiveBufferPerConnection: 1 << 20,
			MaxReceiveBufferPerStream:     256 << 10,
			// A peer that is gone without a word is found after 45 s, also where event streams keep it from being idle.
			SendPingTimeout:  30 * time.Second,
			PingTimeout:      15 * time.Second,
			WriteByteTimeout: cfg.BodyTimeout.Std(),
		},
	}
	s.SetKeepAlivesEnabled(cfg.KeepAlive)
	return s
}
