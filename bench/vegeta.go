package main

import (
	"bytes"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	vegeta "github.com/tsenart/vegeta/v12/lib"
)

// attack drives a closed loop with vegeta and prints how many requests were answered with status 200 and their own id. It is
// a process of its own so that its processor time can be told.
func attack(addr, tool string, key int, d time.Duration) error {
	q := toolCall(modern, addr, "", tool, idArgument)
	before, after, _ := strings.Cut(q.body, idMark)
	after = strings.Replace(after, keyMark, strconv.Itoa(key), 1)
	header := http.Header{"Content-Type": {"application/json"}, "Accept": {"application/json, text/event-stream"}}
	for _, h := range q.headers {
		header.Set(h[0], h[1])
	}
	var n atomic.Int64
	target := func(t *vegeta.Target) error {
		*t = vegeta.Target{Method: http.MethodPost, URL: "http://" + addr + "/mcp", Header: header,
			Body: append(strconv.AppendInt([]byte(before), firstID+n.Add(1), 10), after...)}
		return nil
	}
	transport := &http.Transport{DisableCompression: true, MaxIdleConnsPerHost: connections, MaxConnsPerHost: connections}
	attacker := vegeta.NewAttacker(vegeta.Client(&http.Client{Transport: transport}), vegeta.Workers(connections), vegeta.MaxWorkers(connections))
	right := 0
	for r := range attacker.Attack(target, vegeta.Rate{}, d, "") {
		if r.Error == "" && r.Code == http.StatusOK && bytes.Contains(r.Body, []byte(`"content":`)) {
			right++
		}
	}
	_, err := fmt.Println(right)
	return err
}
