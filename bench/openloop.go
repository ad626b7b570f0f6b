package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	vegeta "github.com/tsenart/vegeta/v12/lib"
)

// openRate is the open loop's requests per second.
const openRate = 10_000

// openJob is what the open loop's process is told, as JSON in a file: it is a process of its own so that it can be
// pinned like wrk.
type openJob struct {
	Addr     string
	Headers  [][2]string
	Body     string
	Mode     keyMode
	First    int
	Count    int
	Text     string // every answer must contain it
	Rate     int
	Duration time.Duration
}

// openResult is what that process prints. Latencies are in microseconds, from the moment each request was due: waiting
// for a late sender or a free connection counts.
type openResult struct {
	Requests int
	Wrong    int
	First    string // the first wrong answer
	Rate     float64
	P50      float64
	P95      float64
	P99      float64
	Max      float64
}

// attack drives the job with vegeta.
func attack(job openJob) openResult {
	before, after, _ := strings.Cut(job.Body, idMark)
	middle, end, keyed := strings.Cut(after, keyMark)
	header := http.Header{"Content-Type": {"application/json"}, "Accept": {"application/json, text/event-stream"}}
	for _, h := range job.Headers {
		header.Set(h[0], h[1])
	}
	var n atomic.Int64
	target := func(t *vegeta.Target) error {
		i := int(n.Add(1))
		key := job.First + i%job.Count
		if job.Mode == randomKeys {
			key = job.First + rand.IntN(job.Count)
		}
		b := make([]byte, 0, len(job.Body)+2*idDigits)
		b = append(strconv.AppendInt(append(b, before...), int64(firstID+i), 10), middle...)
		if keyed {
			b = append(strconv.AppendInt(b, int64(key), 10), end...)
		}
		*t = vegeta.Target{Method: http.MethodPost, URL: "http://" + job.Addr + "/mcp", Header: header, Body: b}
		return nil
	}
	transport := &http.Transport{DisableCompression: true, MaxIdleConnsPerHost: connections, MaxConnsPerHost: connections}
	attacker := vegeta.NewAttacker(vegeta.Client(&http.Client{Transport: transport, Timeout: 10 * time.Second}), vegeta.Workers(connections))
	hist := hdrhistogram.New(1, 60_000_000, 3)
	want := []byte(job.Text)
	var res openResult
	var last time.Time
	began := time.Now()
	for r := range attacker.Attack(target, vegeta.Rate{Freq: job.Rate, Per: time.Second}, job.Duration, "") {
		res.Requests++
		if r.Error != "" || r.Code != http.StatusOK || !bytes.Contains(r.Body, want) || bytes.Contains(r.Body, []byte(`"isError":true`)) {
			if res.Wrong++; res.Wrong == 1 {
				res.First = fmt.Sprintf("status %d, error %q: %s", r.Code, r.Error, clip(r.Body))
			}
		}
		due := began.Add(time.Duration(r.Seq) * time.Second / time.Duration(job.Rate))
		end := r.Timestamp.Add(r.Latency)
		hist.RecordValue(max(end.Sub(due), r.Latency).Microseconds())
		if end.After(last) {
			last = end
		}
	}
	res.Rate = float64(res.Requests) / last.Sub(began).Seconds()
	res.P50, res.P95, res.P99 = float64(hist.ValueAtQuantile(50)), float64(hist.ValueAtQuantile(95)), float64(hist.ValueAtQuantile(99))
	res.Max = float64(hist.Max())
	return res
}

// attackMain is the process: job file in, result on standard output.
func attackMain(file string) error {
	b, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var job openJob
	if err := json.Unmarshal(b, &job); err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(attack(job))
}

// runOpen starts that process and returns what it measured.
func runOpen(ctx context.Context, m *machine, q request, k keys, text string, d time.Duration) (openResult, error) {
	var res openResult
	job, err := json.Marshal(openJob{q.addr, q.headers, q.body, k.mode, k.first, k.count, text, openRate, d})
	if err != nil {
		return res, err
	}
	file := filepath.Join(m.dir, "open.json")
	if err := os.WriteFile(file, job, 0o600); err != nil {
		return res, err
	}
	self, err := os.Executable()
	if err != nil {
		return res, err
	}
	name, args := m.load([]string{self, "attack", file})
	cmd := exec.CommandContext(ctx, name, args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	cmd.Env = environment(gogcTuned) // the sender's own collector is not what is measured
	if err := cmd.Run(); err != nil {
		return res, fmt.Errorf("open loop: %w: %s", err, clip(errs.Bytes()))
	}
	if err := json.Unmarshal(out.Bytes(), &res); err != nil {
		return res, fmt.Errorf("open loop: %w: %s", err, clip(out.Bytes()))
	}
	return res, nil
}
