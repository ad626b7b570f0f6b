package load

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os/exec"
	"path/filepath"
	"runtime"
	"time"

	"millrace/internal/client"
	"millrace/internal/proc"
)

// AB starts two servers by turns, puts each under the same load, and does so as often as it takes to tell them apart.
type AB struct {
	// Commands start the old and the new server: each is one command, with a shell's quoting and variables.
	Commands [2]string
	Options  // of each run; the endpoint is where both servers listen, and Watch.Metrics, where set, where both have metrics
	// Threshold is the least change that counts, as a share.
	Threshold float64
	// Rounds is the most that are made; each is a run of either server.
	Rounds int
	Output io.Writer // of the servers, both streams
	Keep   string    // a directory for each run's JSON; "" for none
}

// looks are the numbers of rounds after which an AB asks whether it has seen enough: not after each one, since who looks
// often enough sees anything.
func (ab *AB) looks() (out []int) {
	for n := 4; n < ab.Rounds; n *= 2 {
		out = append(out, n)
	}
	return append(out, ab.Rounds)
}

// Times that a server has.
const (
	startTime = 30 * time.Second // until it answers
	stopTime  = 40 * time.Second // until it has ended by itself
)

// Run makes the rounds and says what they came to. A run that is not valid is made again, once: two are an
// error.
func (ab *AB) Run(ctx context.Context) (*Comparison, error) {
	if ab.Rounds < leastRounds {
		return nil, fmt.Errorf("%d rounds tell nothing: allow at least %d", ab.Rounds, leastRounds)
	}
	var sides [2][]*Run
	looks := ab.looks()
	seed := ab.Scenario.Seed
	for round := 0; ; round++ {
		ab.Scenario.Seed = seed + uint64(round) // both sides are asked for the same
		for i := range 2 {
			side := (i + round) % 2 // ABBA: what drifts hits both alike
			run, err := ab.side(ctx, side)
			if err != nil {
				return nil, fmt.Errorf("round %d, %s: %w", round+1, sideNames[side], err)
			}
			sides[side] = append(sides[side], run)
			if ab.Keep != "" {
				if err := run.Write(filepath.Join(ab.Keep, fmt.Sprintf("%02d-%c.json", round+1, 'A'+side))); err != nil {
					return nil, err
				}
			}
		}
		if n := round + 1; n == looks[0] {
			looks = looks[1:]
			c, err := compareRounds(sides[0], sides[1], ab.Threshold, len(ab.looks()))
			if err != nil {
				return nil, err
			}
			if len(looks) == 0 || c.count(Worse) > 0 || c.count(Unclear) == 0 {
				return c, nil
			}
			if ab.Note != nil {
				ab.Note(fmt.Sprintf("after %d rounds %d figures are unclear: going on", n, c.count(Unclear)))
			}
		}
	}
}

var sideNames = [2]string{"server A", "server B"}

// side makes one run of one server.
func (ab *AB) side(ctx context.Context, side int) (*Run, error) {
	for again := false; ; again = true {
		run, err := ab.once(ctx, side)
		switch {
		case err != nil:
			return nil, err
		case run.Interrupted:
			return nil, errors.New("interrupted")
		case len(run.Invalid) == 0:
			return run, nil
		case again:
			return nil, fmt.Errorf("two runs were not valid, one after the other: %s", run.Invalid[0])
		}
		if ab.Note != nil {
			ab.Note(fmt.Sprintf("a run of %s is not valid and is made again: %s", sideNames[side], run.Invalid[0]))
		}
	}
}

func (ab *AB) once(ctx context.Context, side int) (*Run, error) {
	if err := ab.free(ctx); err != nil {
		return nil, err
	}
	cmd := exec.Command("/bin/sh", "-c", "exec "+ab.Commands[side])
	cmd.Stdout, cmd.Stderr = ab.Output, ab.Output
	cmd.WaitDelay = time.Second
	proc.Group(cmd)
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", ab.Commands[side], err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }() // ends with the process, which stop sees to
	defer func() {
		proc.Terminate(cmd)
		select {
		case <-ended:
		case <-time.After(stopTime):
			proc.Kill(cmd)
			<-ended
		}
	}()
	if err := ab.ready(ctx, cmd, ended); err != nil {
		return nil, err
	}
	opts := ab.Options
	if runtime.GOOS == "linux" { // elsewhere a process cannot be looked at
		opts.Watch.PID = cmd.Process.Pid
	}
	return Execute(ctx, opts)
}

// free makes sure that nobody else answers in place of the server.
func (ab *AB) free(ctx context.Context) error {
	u, err := url.Parse(ab.Endpoint.URL)
	if err != nil || u.Port() == "" {
		return fmt.Errorf("%q: write http://HOST:PORT/PATH, where both servers listen", ab.Endpoint.URL)
	}
	d := net.Dialer{Timeout: time.Second}
	if conn, err := d.DialContext(ctx, "tcp", u.Host); err == nil {
		conn.Close()
		return fmt.Errorf("something listens at %s before the server is started: end it, or give both servers another port", u.Host)
	}
	return nil
}

// ready waits until the server answers.
func (ab *AB) ready(ctx context.Context, cmd *exec.Cmd, ended chan error) error {
	wait, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	cfg := ab.Endpoint.config(ab.Scenario, firstRevision(ab.Scenario))
	for {
		s, err := client.Open(wait, cfg)
		if err == nil {
			_, err = list(wait, s, "tools/list")
			s.Close()
			if err == nil {
				return nil
			}
		}
		select {
		case e := <-ended:
			ended <- e
			return fmt.Errorf("it ended before it answered: %s", cmd.ProcessState)
		case <-wait.Done():
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			return fmt.Errorf("it did not answer at %s within %s: %w", ab.Endpoint.URL, startTime, err)
		case <-tick.C:
		}
	}
}
