package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

func TestMedian(t *testing.T) {
	for _, c := range []struct {
		values []float64
		want   float64
	}{{nil, 0}, {[]float64{3}, 3}, {[]float64{9, 1, 5}, 5}, {[]float64{4, 1, 3, 2}, 2.5}} {
		before := slices.Clone(c.values)
		if got := median(c.values); got != c.want {
			t.Errorf("median(%v) = %v, want %v", c.values, got, c.want)
		}
		if !slices.Equal(before, c.values) {
			t.Errorf("median changed its argument to %v", c.values)
		}
	}
}

func TestMediansTakesEachFigureByItself(t *testing.T) {
	got := medians([]sample{{rate: 1, cpu: 30}, {rate: 2, cpu: 10}, {rate: 3, cpu: 20}})
	if got.rate != 2 || got.cpu != 20 {
		t.Errorf("got %+v, want rate 2 and cpu 20", got)
	}
}

func TestReportDividesWithinRounds(t *testing.T) {
	cpu := func(v ...float64) (s []sample) {
		for _, c := range v {
			s = append(s, sample{cpu: c})
		}
		return s
	}
	of := func(name, kind string, limit float64, s []sample) *live {
		return &live{work: work{name: name, kind: kind, gogc: "100", floorOf: hitModern, limit: limit}, samples: s}
	}
	lines, bars := report([]*live{
		of("floor", kindFloor, 0, cpu(10, 20, 40)),
		of(hitModern, kindMillrace, 1.4, cpu(15, 28, 48)), // 1.5, 1.4, 1.2
		of(hitKeyed, kindKeyed, 0, cpu(16, 30, 50)),       // 0.1, 0.1, 0.05 more
	})
	if len(lines) != 3 || lines[0].ratio != 1 || lines[1].ratio != 1.4 {
		t.Errorf("lines %+v", lines)
	}
	if len(bars) != 2 || !bars[0].met || bars[1].met || bars[1].measured != "0.10 of the floor" {
		t.Errorf("bars %+v", bars)
	}
}

func TestParseWrk(t *testing.T) {
	out := []byte(`Running 1s test @ http://127.0.0.1:1/mcp
  1 threads and 64 connections
Requests/sec:  26842.11
BENCH {"requests":26900,"duration_us":1002000,"bytes":8770000,"p50":2090,"p95":7090,"p99":14120,"errors":{"connect":0,"read":0,"write":0,"status":0,"timeout":0}}
`)
	r, err := parseWrk(out)
	if err != nil || r.fault() != nil {
		t.Fatal(err, r.fault())
	}
	if r.Requests != 26900 || r.P95 != 7090 || r.Duration != 1002000 {
		t.Errorf("got %+v", r)
	}
	r, err = parseWrk([]byte(`BENCH {"requests":1,"errors":{"status":2}}`))
	if err != nil || r.fault() == nil {
		t.Errorf("two answers beyond 399 passed: %v", err)
	}
	if _, err := parseWrk([]byte("unable to connect")); err == nil {
		t.Error("output without a result passed")
	}
}

func TestRequestsAreWellFormedAndOfOneLength(t *testing.T) {
	for _, w := range plan(nil, true) {
		q := toolCall(w.era, "127.0.0.1:1", "s", w.tool, w.args)
		last := w.keys.first + w.keys.count - 1
		a, b := q.render(firstID, w.keys.first), q.render(probeID+7, last)
		if len(a) != len(b) {
			t.Errorf("%s: lengths %d and %d", w.id(), len(a), len(b))
		}
		r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(b)))
		if err != nil {
			t.Fatalf("%s: %v", w.id(), err)
		}
		if _, body, _ := strings.Cut(b, "\r\n\r\n"); r.ContentLength != int64(len(body)) {
			t.Errorf("%s: Content-Length %d, body %d", w.id(), r.ContentLength, len(body))
		}
		if r.Header.Get("Accept-Encoding") != "" {
			t.Errorf("%s asks for compression", w.id())
		}
	}
}

func TestCheckCall(t *testing.T) {
	check := checkCall("item "+keyMark, "hit")
	good := `{"jsonrpc":"2.0","id":7,"result":{"content":[{"type":"text","text":"item 42"}],"_meta":{"millrace/cache":{"status":"hit"}}}}`
	for body, ok := range map[string]bool{
		good:                                     true,
		"event: message\ndata: " + good + "\n\n": true,
		strings.Replace(good, "7", "8", 1):       false,
		strings.Replace(good, "42", "43", 1):     false,
		strings.Replace(good, "hit", "miss", 1):  false,
		strings.Replace(good, `"content"`, `"isError":true,"content"`, 1):      false,
		`{"jsonrpc":"2.0","id":7,"error":{"code":-32602,"message":"item 42"}}`: false,
		"item 42": false,
	} {
		if err := check(7, 42, answer{status: 200, body: []byte(body)}); (err == nil) != ok {
			t.Errorf("%s: %v", body, err)
		}
	}
}

func TestPayloadSizes(t *testing.T) {
	for _, size := range []int{smallPayload, largePayload} {
		if got := len(`{"rows":[{"v":"` + payload(123, size) + `"}]}`); got != size {
			t.Errorf("payload of %d bytes has %d", size, got)
		}
	}
}

func TestOnly(t *testing.T) {
	works := plan(regexp.MustCompile("PostgreSQL"), true)
	if len(works) != 4 {
		t.Errorf("got %d works, want both eras at both settings", len(works))
	}
	if len(plan(regexp.MustCompile("^millrace"), false)) != 0 {
		t.Error("Millrace is planned without Millrace")
	}
}

func TestOpenBar(t *testing.T) {
	good := loadResult{P95: 9999, Rate: openRate}
	slow, wrong, late := good, good, good
	slow.P95, wrong.Wrong, late.Rate = 10_000, 1, 0.98*openRate
	for _, c := range []struct {
		res loadResult
		met bool
	}{{good, true}, {slow, false}, {wrong, false}, {late, false}} {
		if b := openBar("x", c.res); b.met != c.met {
			t.Errorf("%+v: met %v", c.res, b.met)
		}
	}
}

func TestLoadResult(t *testing.T) {
	var run loadRun
	text := `{"invalid":["a","b"],"phases":[{"done":7,"errors":{"tool":2,"http 503":1},"throughput":5,"latency":{"p50":0.001,"p95":0.002,"p99":0.003,"max":0.004}}]}`
	if err := json.Unmarshal([]byte(text), &run); err != nil {
		t.Fatal(err)
	}
	want := loadResult{Requests: 10, Wrong: 3, Errors: "http 503 1, tool 2", Invalid: "a; b", Rate: 5, P50: 1000, P95: 2000, P99: 3000, Max: 4000}
	if got := run.result(); got != want {
		t.Errorf("%+v", got)
	}
}

func TestStatusBytes(t *testing.T) {
	status := []byte("Name:\tx\nVmHWM:\t   2048 kB\nVmRSS:\t    1024 kB\n")
	if a, b := statusBytes(status, "VmRSS"), statusBytes(status, "VmHWM"); a != 1<<20 || b != 2<<20 {
		t.Errorf("got %d and %d", a, b)
	}
}

func TestLuaString(t *testing.T) {
	if got := luaString("a\"\\\r\n\x01"); got != `"a\034\092\013\010\001"` {
		t.Error(got)
	}
}

// What a floor answers is an error that millrace load takes for right, as long as it was told to be.
func TestFloorAnswer(t *testing.T) {
	for _, size := range []int{100, 377, 8485} {
		b := floorAnswer(size)
		var m struct{ Error struct{ Code int } }
		if err := json.Unmarshal(b, &m); err != nil || len(b) != size || "rpc "+strconv.Itoa(m.Error.Code) != floorError {
			t.Errorf("%d bytes: %d, %v, %+v", size, len(b), err, m)
		}
	}
}

// Every call of a work is longer than what a floor takes for its client's handshake.
func TestScenarios(t *testing.T) {
	for _, w := range plan(nil, true) {
		shortest := len(`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"","arguments":}}`) + len(w.tool) + len(w.args)
		if w.era == legacy && shortest < floorHandshake {
			t.Errorf("%s: a call may have %d bytes", w.id(), shortest)
		}
		var s struct {
			Operations []struct{ Arguments map[string]map[string][]any }
			Phases     []struct{ Users int }
		}
		data, err := w.scenario(closed(time.Second))
		if err != nil || json.Unmarshal(data, &s) != nil || s.Phases[0].Users != connections {
			t.Fatalf("%s: %v: %s", w.id(), err, data)
		}
		for name, values := range s.Operations[0].Arguments {
			for kind, v := range values {
				last := fmt.Sprint(v[len(v)-1])
				if want := map[string]int{"choice": w.keys.count, "sequence": 2, "uniform": 2}[kind]; len(v) != want || !strings.Contains(last, strconv.Itoa(w.keys.first+w.keys.count-1)) {
					t.Errorf("%s: %s: %d of %s, the last %s", w.id(), name, len(v), kind, last)
				}
			}
		}
	}
}
