package admin

import (
	"encoding/json"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strconv"

	"millrace/internal/cache"
)

// Cache is what an operator can see of the cache, and do to it.
type Cache interface {
	// Has tells whether a tool, resource or prompt of that name is served.
	Has(target string) bool
	// Purge makes void the results of tags, and of targets by name; PurgeAll makes all void. An error says that a level beyond
	// the process has yet to be told.
	Purge(tags, targets []string) error
	PurgeAll() error
	// Top gives the n results with the most hits.
	Top(n int) []cache.Usage
}

// Purge is the body of POST /cache/purge. Either All stands alone, or there is at least one tag or tool.
type Purge struct {
	Tags  []string `json:"tags,omitempty"`
	Tools []string `json:"tools,omitempty"`
	All   bool     `json:"all,omitempty"`
}

// Top is the body of the answer to GET /cache/top.
type Top struct {
	Entries []cache.Usage `json:"entries"`
}

// Bounds of a purge.
const (
	mostPurgeBytes = 256 << 10
	mostPurgeNames = 1000
)

func addCache(mux *http.ServeMux, held func() Cache) {
	mux.HandleFunc("POST /cache/purge", func(w http.ResponseWriter, r *http.Request) {
		var p Purge
		kind, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type"))
		data, err := io.ReadAll(http.MaxBytesReader(w, r.Body, mostPurgeBytes))
		if err == nil {
			err = json.Unmarshal(data, &p)
		}
		c := held()
		switch {
		case kind != "application/json":
			http.Error(w, "Content-Type must be application/json", http.StatusUnsupportedMediaType)
		case err != nil:
			http.Error(w, fmt.Sprintf("the body is not {\"tags\": [...], \"tools\": [...]} or {\"all\": true} of at most %d bytes: %v", mostPurgeBytes, err), http.StatusBadRequest)
		case p.All == (len(p.Tags)+len(p.Tools) > 0):
			http.Error(w, "name tags or tools, or say all and nothing else", http.StatusBadRequest)
		case len(p.Tags)+len(p.Tools) > mostPurgeNames:
			http.Error(w, fmt.Sprintf("more than %d names: say all", mostPurgeNames), http.StatusBadRequest)
		case p.All:
			purged(w, c.PurgeAll())
		default:
			for _, name := range p.Tools {
				if !c.Has(name) {
					http.Error(w, fmt.Sprintf("nothing is served under the name %q; nothing was purged", name), http.StatusNotFound)
					return
				}
			}
			purged(w, c.Purge(p.Tags, p.Tools))
		}
	})
	mux.HandleFunc("GET /cache/top", func(w http.ResponseWriter, r *http.Request) {
		n, err := 20, error(nil)
		if text := r.URL.Query().Get("n"); text != "" {
			n, err = strconv.Atoi(text)
		}
		if err != nil || n < 1 || n > cache.MostTop {
			http.Error(w, fmt.Sprintf("n is a number from 1 to %d", cache.MostTop), http.StatusBadRequest)
			return
		}
		body, err := json.Marshal(Top{Entries: held().Top(n)})
		if err != nil {
			http.Error(w, "the list cannot be written", http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Cache-Control", "no-store")
		_, _ = w.Write(append(body, '\n'))
	})
}

func purged(w http.ResponseWriter, err error) {
	if err != nil {
		http.Error(w, "the results are void for this server; Redis, or the database of cache.l3, does not answer and will be told as soon as it does: until then other servers may go on serving them",
			http.StatusServiceUnavailable)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}
