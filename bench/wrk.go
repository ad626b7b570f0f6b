package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"
)

// wrkResult is what the script's done() prints. Latencies are in microseconds.
type wrkResult struct {
	Requests int     `json:"requests"`
	Duration float64 `json:"duration_us"`
	Bytes    int     `json:"bytes"`
	P50      float64 `json:"p50"`
	P95      float64 `json:"p95"`
	P99      float64 `json:"p99"`
	Errors   struct {
		Connect int `json:"connect"`
		Read    int `json:"read"`
		Write   int `json:"write"`
		Status  int `json:"status"`
		Timeout int `json:"timeout"`
	} `json:"errors"`
}

// fault names what went wrong during the run, if anything did.
func (r wrkResult) fault() error {
	if e := r.Errors; e.Connect+e.Read+e.Write+e.Status+e.Timeout > 0 {
		return fmt.Errorf("wrk counted errors: connect %d, read %d, write %d, status beyond 399 %d, time-out %d", e.Connect, e.Read, e.Write, e.Status, e.Timeout)
	}
	if r.Requests == 0 {
		return fmt.Errorf("wrk completed no request")
	}
	return nil
}

// wrkMark begins the one line of wrk's output that is read.
const wrkMark = "BENCH "

// parseWrk reads the script's line out of wrk's output.
func parseWrk(out []byte) (wrkResult, error) {
	for line := range bytes.Lines(out) {
		if data, ok := bytes.CutPrefix(line, []byte(wrkMark)); ok {
			var r wrkResult
			if err := json.Unmarshal(data, &r); err != nil {
				return r, fmt.Errorf("read wrk's result: %w", err)
			}
			return r, nil
		}
	}
	return wrkResult{}, fmt.Errorf("wrk printed no result: %s", clip(out))
}

// wrkScript is the Lua that sends the request. It returns whole requests as strings, as wrk.format costs wrk more than
// the sending itself; it defines no response(), which would make wrk parse every header for Lua. Answers are judged by
// status alone.
func wrkScript(r request, k keys, run int) string {
	first := strconv.Itoa(k.first)
	head, middle, tail := r.parts(len(first))
	var key string
	switch k.mode {
	case cycleKeys:
		key = fmt.Sprintf("%d + n %% %d", k.first, k.count)
	case randomKeys:
		key = fmt.Sprintf("random(%d, %d)", k.first, k.first+k.count-1)
	}
	hole := ".. (" + key + ") .. tail"
	if !hasKey(r) {
		hole = ""
	}
	return fmt.Sprintf(`local head, middle, tail = %s, %s, %s
local random, n, base = math.random, -1, %d
math.randomseed(%d)
function request()
  n = n + 1
  return head .. (base + n) .. middle %s
end
function done(summary, latency)
  local e = summary.errors
  io.write(string.format('%s{"requests":%%d,"duration_us":%%d,"bytes":%%d,"p50":%%d,"p95":%%d,"p99":%%d,"errors":{"connect":%%d,"read":%%d,"write":%%d,"status":%%d,"timeout":%%d}}\n',
    summary.requests, summary.duration, summary.bytes, latency:percentile(50), latency:percentile(95), latency:percentile(99),
    e.connect, e.read, e.write, e.status, e.timeout))
end
`, luaString(head), luaString(middle), luaString(tail), firstID+run%1000*10_000_000, run+1, hole, wrkMark)
}

func hasKey(r request) bool { return bytes.Contains([]byte(r.body), []byte(keyMark)) }

// luaString quotes a string for Lua, every byte that is not plain as a decimal escape.
func luaString(s string) string {
	b := []byte{'"'}
	for i := range len(s) {
		if c := s[i]; c >= ' ' && c < 0x7f && c != '"' && c != '\\' {
			b = append(b, c)
		} else {
			b = fmt.Appendf(b, `\%03d`, c)
		}
	}
	return string(append(b, '"'))
}

// runWrk sends the request from 64 connections for the duration. One thread of wrk keeps ids unique, and makes twice the load that a server on one core answers.
func runWrk(ctx context.Context, m *machine, r request, k keys, run int, d time.Duration) (wrkResult, error) {
	wrk, err := exec.LookPath("wrk")
	if err != nil {
		return wrkResult{}, fmt.Errorf("wrk is missing: install Debian's package wrk")
	}
	script := filepath.Join(m.dir, "request.lua")
	if err := os.WriteFile(script, []byte(wrkScript(r, k, run)), 0o600); err != nil {
		return wrkResult{}, err
	}
	seconds := max(1, int(d.Round(time.Second)/time.Second))
	name, args := m.load([]string{wrk, "-t", "1", "-c", strconv.Itoa(connections), "-d", strconv.Itoa(seconds) + "s", "--timeout", "10s", "-s", script, "http://" + r.addr + "/mcp"})
	out, err := command(ctx, name, args...).CombinedOutput()
	if err != nil {
		return wrkResult{}, fmt.Errorf("wrk: %w: %s", err, clip(out))
	}
	res, err := parseWrk(out)
	if err != nil {
		return res, err
	}
	return res, res.fault()
}
