package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"
	"unicode"

	"millrace/internal/admin"
	"millrace/internal/load"
)

type cacheCmd struct {
	Purge cachePurgeCmd `cmd:"" help:"Make cached results void, on one server."`
	Top   cacheTopCmd   `cmd:"" help:"Show the cached results with the most hits, on one server."`
}

// adminFlags say where a server's admin listener is.
type adminFlags struct {
	Admin     string `help:"The server's admin listener." default:"http://127.0.0.1:9090" placeholder:"URL"`
	TokenFile string `help:"The file with its token." placeholder:"FILE"`
}

// mostAdmin bounds an answer of the admin listener.
const mostAdmin = 16 << 20

// ask sends a request to the admin listener and gives the body of its answer.
func (f *adminFlags) ask(ctx context.Context, method, path string, body []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, strings.TrimSuffix(f.Admin, "/")+path, bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("--admin %s: %w", f.Admin, err)
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if f.TokenFile != "" {
		token, err := admin.ReadToken(f.TokenFile)
		if err != nil {
			return nil, fmt.Errorf("--token-file: %w", err)
		}
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := http.DefaultClient.Do(req)
	if errors.Is(err, syscall.ECONNREFUSED) {
		return nil, fmt.Errorf("%w; is --admin the admin listener of a running server (admin.address)?", err)
	}
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, mostAdmin))
	if err != nil {
		return nil, err
	}
	if resp.StatusCode >= 300 {
		return nil, fmt.Errorf("%s answered %s: %s", f.Admin, resp.Status, bytes.TrimSpace(data[:min(len(data), 500)]))
	}
	return data, nil
}

type cachePurgeCmd struct {
	adminFlags
	Tag  []string `help:"The results with this tag, such as city:2950159." placeholder:"TAG"`
	Tool []string `help:"The results of this tool or resource." placeholder:"NAME"`
	All  bool     `help:"Every result."`
}

func (c *cachePurgeCmd) Run() error {
	if c.All == (len(c.Tag)+len(c.Tool) > 0) {
		return errors.New("say --tag TAG, --tool NAME, or --all alone")
	}
	ctx, stop := untilSignal()
	defer stop()
	body, err := json.Marshal(admin.Purge{Tags: c.Tag, Tools: c.Tool, All: c.All})
	if err != nil {
		return err
	}
	if _, err := c.ask(ctx, http.MethodPost, "/cache/purge", body); err != nil {
		return err
	}
	fmt.Println("done: what was cached of it is void")
	return nil
}

type cacheTopCmd struct {
	adminFlags
	N    int  `help:"How many." short:"n" default:"20"`
	JSON bool `help:"Print JSON."`
}

func (c *cacheTopCmd) Run() error {
	ctx, stop := untilSignal()
	defer stop()
	data, err := c.ask(ctx, http.MethodGet, "/cache/top?n="+strconv.Itoa(c.N), nil)
	if err != nil {
		return err
	}
	if c.JSON {
		_, err := os.Stdout.Write(data)
		return err
	}
	var top admin.Top
	if err := json.Unmarshal(data, &top); err != nil {
		return fmt.Errorf("%s did not answer as millrace does: %w", c.Admin, err)
	}
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "HITS\tSAVED\tCOST\tBYTES\tAGE\tTOOL\tARGUMENTS")
	for _, e := range top.Entries {
		age := (time.Duration(e.Age*1000) * time.Millisecond).String()
		if !e.Fresh {
			age += ", stale"
		}
		fmt.Fprintf(w, "%d\t%s\t%s\t%d\t%s\t%s\t%s\n", e.Hits, strings.TrimSpace(load.Time(e.Saved)), strings.TrimSpace(load.Time(e.Cost)), e.Bytes, age, e.Target, printable(string(e.Arguments)))
	}
	return w.Flush()
}

// printable takes from callers' text what a terminal would obey.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return '\uFFFD'
		}
		return r
	}, s)
}
