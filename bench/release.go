package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
)

// compareRelease puts HEAD beside the last release: `make bench ARGS="release [COMMIT]"`. COMMIT stands in for the last tag.
func compareRelease(ctx context.Context, args []string) error {
	if len(args) > 1 {
		return errors.New("release takes one commit at most")
	}
	base := ""
	if len(args) == 1 {
		base = args[0]
	} else if out, err := exec.CommandContext(ctx, "git", "describe", "--tags", "--abbrev=0").Output(); err != nil {
		return errors.New("there is no release tag yet: name a commit, as in make bench ARGS='release main~10'")
	} else {
		base = strings.TrimSpace(string(out))
	}
	r, stop, err := newRun(ctx, "0:1", "")
	if err != nil {
		return err
	}
	defer stop()
	m := r.m
	old, err := buildAt(ctx, m, base)
	if err != nil {
		return err
	}
	addr, err := freeAddr()
	if err != nil {
		return err
	}
	admin, err := freeAddr()
	if err != nil {
		return err
	}
	server := func(binary string) string {
		bin, args := m.server([]string{binary, "serve", "--listen", addr, "--admin", admin, "--data", m.dir, "--log-level", "warn"})
		return strings.Join(append([]string{bin}, args...), " ")
	}
	name, argv := m.load([]string{r.millrace, "compare", "--ab", server(old), server(r.millrace), "--url", "http://" + addr + "/mcp", "--users", strconv.Itoa(connections),
		"--duration", "5s", "--tool", "get_city", "--arguments", `{"id":{"zipf":[2950000,2950999],"exponent":1}}`})
	fmt.Fprintf(os.Stderr, "%s against HEAD\n", base)
	cmd := command(ctx, name, argv...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	return cmd.Run()
}

// buildAt compiles the product as it was at a commit.
func buildAt(ctx context.Context, m *machine, commit string) (string, error) {
	dir := filepath.Join(m.dir, "base")
	if out, err := exec.CommandContext(ctx, "git", "worktree", "add", "--detach", dir, commit).CombinedOutput(); err != nil {
		return "", fmt.Errorf("check %s out: %w: %s", commit, err, clip(out))
	}
	defer func() {
		if out, err := exec.Command("git", "worktree", "remove", "--force", dir).CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "bench: remove %s: %v: %s\n", dir, err, clip(out))
		}
	}()
	bin := filepath.Join(m.dir, "millrace-base")
	cmd := exec.CommandContext(ctx, "go", "build", "-o", bin, "./cmd/millrace")
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build millrace at %s: %w: %s", commit, err, clip(out))
	}
	return bin, nil
}
