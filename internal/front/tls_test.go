package front

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// pair is a certificate that signs itself, in PEM form.
type pair struct{ cert, key []byte }

func newPair(t *testing.T, name string) pair {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return pair{pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw})}
}

// volume is a directory laid out as Kubernetes lays out a ConfigMap or Secret: the files are symbolic links through
// ..data, which is swapped as one.
type volume struct {
	t   *testing.T
	dir string
	n   int
}

func newVolume(t *testing.T, files map[string][]byte) *volume {
	v := &volume{t: t, dir: t.TempDir()}
	v.swap(files)
	for name := range files {
		if err := os.Symlink(filepath.Join("..data", name), v.path(name)); err != nil {
			t.Fatal(err)
		}
	}
	return v
}

func (v *volume) path(name string) string { return filepath.Join(v.dir, name) }

func (v *volume) swap(files map[string][]byte) {
	v.t.Helper()
	v.n++
	data := "..v" + strings.Repeat("i", v.n)
	if err := os.Mkdir(v.path(data), 0o700); err != nil {
		v.t.Fatal(err)
	}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(v.path(data), name), content, 0o600); err != nil {
			v.t.Fatal(err)
		}
	}
	if err := os.Symlink(data, v.path("..next")); err != nil {
		v.t.Fatal(err)
	}
	if err := os.Rename(v.path("..next"), v.path("..data")); err != nil {
		v.t.Fatal(err)
	}
}

func pool(certs ...[]byte) *x509.CertPool {
	p := x509.NewCertPool()
	for _, c := range certs {
		p.AppendCertsFromPEM(c)
	}
	return p
}

func TestTLSProtocols(t *testing.T) {
	p := newPair(t, "a")
	v := newVolume(t, map[string][]byte{"tls.crt": p.cert, "tls.key": p.key})
	http1 := client(t, func(tr *http.Transport, ps *http.Protocols) {
		tr.TLSClientConfig = &tls.Config{RootCAs: pool(p.cert)}
		ps.SetHTTP1(true)
	})
	http2 := client(t, func(tr *http.Transport, ps *http.Protocols) {
		tr.TLSClientConfig = &tls.Config{RootCAs: pool(p.cert)}
		ps.SetHTTP1(true)
		ps.SetHTTP2(true)
	})
	old := client(t, func(tr *http.Transport, ps *http.Protocols) {
		tr.TLSClientConfig = &tls.Config{RootCAs: pool(p.cert), MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}
		ps.SetHTTP1(true)
	})
	for _, on := range []bool{true, false} {
		cfg := DefaultConfig()
		cfg.HTTP2 = on
		cfg.TLS = TLSConfig{CertFile: v.path("tls.crt"), KeyFile: v.path("tls.key")}
		url := "https://" + serve(t, cfg, echoProto)
		if got, err := post(http1, url); got != "HTTP/1.1 {}" {
			t.Errorf("http2 %v, HTTP/1.1: %q, %v", on, got, err)
		}
		want := map[bool]string{true: "HTTP/2.0 {}", false: "HTTP/1.1 {}"}[on]
		if got, err := post(http2, url); got != want {
			t.Errorf("http2 %v: %q, %v; want %q", on, got, err, want)
		}
		if got, err := post(old, url); err == nil {
			t.Errorf("TLS 1.1: %q", got)
		}
	}
}

// handshake tells the name in the certificate that f's configuration shows, and the error on the server's side.
func handshake(f *tlsFiles, client *tls.Config) (name string, err error) {
	mine, theirs := net.Pipe()
	defer mine.Close()
	done := make(chan error, 1)
	go func() {
		s := tls.Server(theirs, f.config())
		err := s.Handshake()
		theirs.Close()
		done <- err
	}()
	c := tls.Client(mine, client)
	if err := c.Handshake(); err == nil {
		name = c.ConnectionState().PeerCertificates[0].Subject.CommonName
		io.Copy(io.Discard, c)
	}
	mine.Close()
	return name, <-done
}

func TestTLSFilesAreReadAgain(t *testing.T) {
	a, b, ca, otherCA := newPair(t, "a"), newPair(t, "b"), newPair(t, "client"), newPair(t, "other client")
	files := func(cert, key, authority []byte) map[string][]byte {
		return map[string][]byte{"tls.crt": cert, "tls.key": key, "ca.crt": authority}
	}
	v := newVolume(t, files(a.cert, a.key, ca.cert))
	var logged strings.Builder
	f, err := newTLSFiles(TLSConfig{CertFile: v.path("tls.crt"), KeyFile: v.path("tls.key"), ClientCAFile: v.path("ca.crt")},
		[]string{"http/1.1"}, slog.New(slog.NewTextHandler(&logged, nil)))
	if err != nil {
		t.Fatal(err)
	}
	f.every = 0
	cert := func(p pair) []tls.Certificate {
		c, err := tls.X509KeyPair(p.cert, p.key)
		if err != nil {
			t.Fatal(err)
		}
		return []tls.Certificate{c}
	}
	roots := pool(a.cert, b.cert)
	known := &tls.Config{RootCAs: roots, ServerName: "127.0.0.1", Certificates: cert(ca)}
	unknown := &tls.Config{RootCAs: roots, ServerName: "127.0.0.1", Certificates: cert(otherCA)}
	nobody := &tls.Config{RootCAs: roots, ServerName: "127.0.0.1"}
	expect := func(when, want string, good, bad *tls.Config) {
		t.Helper()
		if name, err := handshake(f, good); name != want || err != nil {
			t.Errorf("%s: certificate %q, %v; want %q", when, name, err, want)
		}
		for _, c := range []*tls.Config{bad, nobody} {
			if _, err := handshake(f, c); err == nil {
				t.Errorf("%s: a client without a valid certificate came in", when)
			}
		}
	}

	expect("at start", "a", known, unknown)
	v.swap(files(b.cert, a.key, ca.cert))
	expect("with a key of another certificate", "a", known, unknown)
	if n := strings.Count(logged.String(), "do not load"); n != 1 {
		t.Errorf("logged %d times, want once:\n%s", n, logged.String())
	}
	v.swap(files(b.cert, b.key, []byte("nothing")))
	expect("with authorities that are none", "a", known, unknown)
	v.swap(map[string][]byte{})
	expect("with the files gone", "a", known, unknown)
	if n := strings.Count(logged.String(), "do not load"); n != 3 {
		t.Errorf("logged %d times, want three times:\n%s", n, logged.String())
	}
	v.swap(files(b.cert, b.key, ca.cert))
	expect("after the repair", "b", known, unknown)
	v.swap(files(b.cert, b.key, otherCA.cert))
	expect("with other authorities", "b", unknown, known)

	f.every = time.Hour
	v.swap(files(a.cert, a.key, otherCA.cert))
	expect("within the pause between looks", "b", unknown, known)
}

func TestListenNamesTheFileThatFails(t *testing.T) {
	cfg := DefaultConfig()
	cfg.Address = "127.0.0.1:0"
	cfg.TLS = TLSConfig{CertFile: "/nonexistent/tls.crt", KeyFile: "/nonexistent/tls.key"}
	if _, err := Listen(cfg, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), "/nonexistent/tls.crt") {
		t.Errorf("%v", err)
	}
}
