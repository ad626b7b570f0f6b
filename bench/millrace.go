package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// apiKey is the key of the row that sends one. It opens nothing but this run's own server.
const apiKey = "bench-0123456789abcdef0123456789abcdef"

// millraceConfig is the file that Millrace is started with: addresses, sources and tools, and every default else.
func (r *run) millraceConfig(addr, admin string, withKey bool) string {
	var b strings.Builder
	fmt.Fprintf(&b, "version: 1\nlisten: {address: %q}\nadmin: {address: %q}\n", addr, admin)
	if withKey {
		sum := sha256.Sum256([]byte(apiKey))
		fmt.Fprintf(&b, "auth: {keys: [{name: bench, sha256: %q, tenant: bench, scopes: [read]}]}\n", hex.EncodeToString(sum[:]))
	}
	if r.redis != "" {
		fmt.Fprintf(&b, "redis: {nodes: [%q]}\n", r.redis)
	}
	if r.kept != "" {
		b.WriteString("cache: {l3: {source: kept}}\n")
	}
	fmt.Fprintf(&b, "sources:\n  lite: {sqlite: {path: %q}}\n", r.sqlite)
	if r.kept != "" {
		fmt.Fprintf(&b, "  kept: {sqlite: {path: %q}}\n", r.kept)
	}
	if r.postgres != "" {
		fmt.Fprintf(&b, "  pg: {postgres: {primary: %q}}\n", r.postgres)
	}
	b.WriteString("tools:\n")
	tool := func(name, source, statement, cache string) {
		fmt.Fprintf(&b, "  - name: %s\n    source: %s\n    description: Measured by bench.\n    statement: %q\n", name, source, statement)
		b.WriteString("    parameters: [{name: id, type: integer, description: The key, required: true}]\n    annotations: {readOnlyHint: true, idempotentHint: true}\n")
		if cache != "" {
			fmt.Fprintf(&b, "    cache: %s\n", cache)
		}
	}
	const cached = "{ttl: 1h, scope: public}"
	tool("small", "lite", "SELECT body AS v FROM small WHERE id = :id", cached)
	tool("large", "lite", "SELECT body AS v FROM large WHERE id = :id", cached)
	tool("number", "lite", "SELECT :id AS v", cached)
	tool("lite_item", "lite", "SELECT id, name, value FROM items WHERE id = :id", "")
	if r.postgres != "" {
		tool("pg_item", "pg", "SELECT id, name, value FROM items WHERE id = :id", "")
	}
	return b.String()
}

// buildMillrace compiles the product and returns the binary's path.
func buildMillrace(ctx context.Context, m *machine) (string, error) {
	bin := filepath.Join(m.dir, "millrace")
	cmd := exec.CommandContext(ctx, "go", "build", "-o", bin, "./cmd/millrace")
	cmd.Dir = ".."
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build millrace (or name a binary with --millrace): %w: %s", err, clip(out))
	}
	return bin, nil
}

// startMillrace starts one server. name tells its files from those of the others.
func (r *run) startMillrace(ctx context.Context, name, gogc string, withKey bool) (*process, error) {
	addr, admin, err := freeAddrs()
	if err != nil {
		return nil, err
	}
	file := filepath.Join(r.m.dir, name+".yaml")
	if err := os.WriteFile(file, []byte(r.millraceConfig(addr, admin, withKey)), 0o600); err != nil {
		return nil, err
	}
	return r.m.start(ctx, name, addr, []string{r.millrace, "serve", "--config", file}, startOptions{gogc: gogc, dir: r.m.dir, ready: isReady(admin)})
}

// isReady is ready once a Millrace with its admin listener there says that it is.
func isReady(admin string) func(context.Context) error {
	return func(ctx context.Context) error {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+admin+"/readyz", nil)
		if err != nil {
			return err
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return err
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return fmt.Errorf("readyz: status %d", resp.StatusCode)
		}
		return nil
	}
}
