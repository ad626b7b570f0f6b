package main

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
	"time"

	"golang.org/x/term"

	"millrace/internal/client"
	"millrace/internal/conf"
	"millrace/internal/load"
)

type loadCmd struct {
	URL   string `arg:"" optional:"" help:"The server's endpoint, such as http://127.0.0.1:8080/mcp."`
	Stdio string `help:"Start this command instead, and speak over its standard input and output." placeholder:"CMD"`

	Scenario string        `help:"A scenario's file, or ramp, soak, burst, stress or mixed." short:"s" placeholder:"NAME|FILE"`
	Rate     float64       `help:"Requests a second (open loop); with a scenario, its greatest rate." short:"r"`
	Users    int           `help:"Users that wait for their answers (closed loop), instead of a rate." short:"u"`
	Duration time.Duration `help:"How long the run takes." short:"d"`

	Tool      string   `help:"Call this tool instead of what is found."`
	Arguments string   `help:"The tool's arguments as JSON; see the documentation for distributions." default:"{}" placeholder:"JSON"`
	Revision  []string `help:"Speak this revision; several are mixed evenly." placeholder:"DATE"`
	Sessions  int      `help:"How many sessions are open at a time."`
	Seed      uint64   `help:"Where the random numbers begin."`

	HTTP2       bool     `name:"http2" help:"Speak HTTP/2."`
	NoKeepAlive bool     `help:"Open a connection for each request."`
	Key         string   `help:"The API key." env:"MILLRACE_KEY"`
	Header      []string `help:"Send this header too, as NAME: VALUE." placeholder:"LINE"`
	CA          string   `name:"ca" help:"Trust the certificates in this PEM file." type:"existingfile" placeholder:"FILE"`
	Own         bool     `name:"i-own-this-target" help:"The target is yours: needed where it is not this machine."`

	Metrics string `help:"The URL of the server's Prometheus metrics." placeholder:"URL"`
	PID     int    `name:"pid" help:"The server's process on this machine."`

	Out  string `help:"Write the run's JSON here." short:"o" placeholder:"FILE"`
	HTML string `name:"html" help:"Write a report here: one file that needs no network." placeholder:"FILE"`
}

func (c *loadCmd) Run() error {
	scenario, err := c.scenario()
	if err != nil {
		return err
	}
	endpoint, err := c.endpoint()
	if err != nil {
		return err
	}
	ctx, stop := untilSignal()
	defer stop()
	width, _, err := term.GetSize(int(os.Stderr.Fd()))
	view := load.NewView(os.Stderr, err == nil && term.IsTerminal(int(os.Stderr.Fd())), width)
	run, err := load.Execute(ctx, load.Options{Endpoint: endpoint, Scenario: scenario, Watch: load.Watch{Metrics: c.Metrics, PID: c.PID},
		Look: view.Look, Note: func(text string) { fmt.Fprintln(os.Stderr, "note:", text) }})
	if errors.Is(err, syscall.ECONNREFUSED) {
		return fmt.Errorf("%w; is a server running there?", err)
	}
	if err != nil {
		return err
	}
	run.WriteSummary(os.Stdout)
	if c.Out != "" {
		if err := run.Write(c.Out); err != nil {
			return err
		}
	}
	if c.HTML != "" {
		if err := writeFile(c.HTML, func(w io.Writer) error { return run.WriteHTML(w, nil) }); err != nil {
			return err
		}
	}
	if len(run.Invalid) > 0 {
		return errors.New("the run is not valid: " + strings.Join(run.Invalid, "; "))
	}
	return nil
}

// scenario is what the flags say.
func (c *loadCmd) scenario() (*load.Scenario, error) {
	var s *load.Scenario
	switch {
	case c.Scenario != "":
		if c.Users != 0 {
			return nil, errors.New("--users has no meaning with a scenario: its phases say whether they have users or a rate")
		}
		var err error
		if s, err = load.ReadScenario(c.Scenario); err != nil {
			return nil, err
		}
		s.Scale(c.Duration, c.Rate)
	case c.Rate == 0 && c.Users == 0:
		return nil, errors.New("say how much load: --rate N, --users N or --scenario NAME")
	default:
		d := c.Duration
		if d == 0 {
			d = 30 * time.Second
		}
		s = load.Simple(c.Rate, c.Users, d)
	}
	if c.Tool != "" {
		o := load.OperationConfig{Tool: c.Tool}
		o.SetDefaults()
		d := json.NewDecoder(strings.NewReader(c.Arguments))
		d.UseNumber()
		if err := d.Decode(&o.Arguments); err != nil {
			return nil, fmt.Errorf("--arguments: not a JSON object: %w", err)
		}
		s.Operations = []load.OperationConfig{o}
	}
	if len(c.Revision) > 0 {
		s.Revisions = map[string]float64{}
		for _, rev := range c.Revision {
			s.Revisions[rev] = 1
		}
	}
	if c.Sessions != 0 {
		s.Sessions = c.Sessions
	}
	if c.Seed != 0 {
		s.Seed = c.Seed
	}
	s.HTTP2 = s.HTTP2 || c.HTTP2
	s.KeepAlive = s.KeepAlive && !c.NoKeepAlive
	if faults := s.Validate(); len(faults) > 0 {
		return nil, faults
	}
	return s, nil
}

// endpoint is the server that the flags name.
func (c *loadCmd) endpoint() (e load.Endpoint, err error) {
	if (c.URL == "") == (c.Stdio == "") {
		return e, errors.New("name the server: its URL, or --stdio with the command that starts it")
	}
	e = load.Endpoint{URL: c.URL, Command: strings.Fields(c.Stdio), Key: conf.Secret(c.Key), Own: c.Own, Version: version, Stderr: os.Stderr}
	for _, line := range c.Header {
		name, value, ok := strings.Cut(line, ":")
		if !ok {
			return e, fmt.Errorf("--header %q: write NAME: VALUE", name)
		}
		e.Headers = append(e.Headers, client.Header{Name: name, Value: strings.TrimSpace(value)})
	}
	if c.CA != "" {
		pem, err := os.ReadFile(c.CA)
		if err != nil {
			return e, err
		}
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(pem) {
			return e, fmt.Errorf("--ca %s: it holds no certificate in PEM", c.CA)
		}
		e.TLS = &tls.Config{RootCAs: pool}
	}
	return e, nil
}
