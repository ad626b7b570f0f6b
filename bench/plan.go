package main

import (
	"regexp"
	"strings"
)

// server kinds
const (
	kindFloor    = "floor"
	kindMillrace = "millrace"
	kindKeyed    = "millrace+key" // a Millrace with API keys configured
	kindGoSDK    = "go-sdk"
	kindMCPGo    = "mcp-go"
)

// The GOGC settings of the closed loop. Every server gets the first, the floor and Millrace the second too.
const (
	gogcDefault = "100"
	gogcTuned   = "400"
)

// work is one line of what is measured: a server and what is asked of it.
type work struct {
	name    string
	kind    string
	gogc    string
	era     era
	tool    string
	args    string // JSON with a keyMark
	keys    keys
	text    string // what the answer's text must contain
	cache   string // what the answer's cache status must be; empty: any
	floorOf string // name of the Millrace work whose requests and size of answer the floor has; a floor's own
	limit   float64
	least   int // the answer's size where no Millrace is there to ask
}

// id tells works apart: the same name stands once for each GOGC.
func (w work) id() string { return w.name + " @" + w.gogc }

const (
	idArgument = `{"id":` + keyMark + `}`

	hitLegacy = "millrace, L1 hit, 100 B, legacy"
	hitModern = "millrace, L1 hit, 100 B, modern"
	hitKeyed  = "millrace, L1 hit, 100 B, modern, API key"
	hitLarge  = "millrace, L1 hit, 4 KB, modern"
	liteWork  = "millrace, SQLite select, "
	pgWork    = "millrace, PostgreSQL select, "

	// keyLimit is what a key may cost more than no key, in ratios to the floor.
	keyLimit = 0.05
)

// plan lists every closed-loop work that matches, in the order of the table, without the floors: those follow from it.
func plan(only *regexp.Regexp, withMillrace bool) []work {
	payloadHas := strings.TrimSpace(strings.Replace(payloadText(100), "100", keyMark, 1))
	itemHas := strings.Replace(itemName(100), "100", keyMark, 1)
	echo := `{"message":"` + strings.Replace(payloadText(100), "100", keyMark, 1) + strings.Repeat("x", smallPayload-len(payloadText(100))) + `"}`
	eras := []era{legacy, modern}
	var all []work
	add := func(w work) {
		if w.gogc == "" {
			w.gogc = gogcDefault
		}
		if only == nil || only.MatchString(w.name) {
			all = append(all, w)
		}
	}
	for _, gogc := range []string{gogcDefault, gogcTuned} {
		if !withMillrace {
			break
		}
		hit := work{kind: kindMillrace, gogc: gogc, tool: "small", args: idArgument, keys: payloadKeys, text: payloadHas, cache: "hit"}
		w := hit
		w.name, w.era, w.floorOf, w.limit = hitLegacy, legacy, hitLegacy, 1.2
		add(w)
		w = hit
		w.name, w.era, w.floorOf, w.limit = hitModern, modern, hitModern, 1.4
		add(w)
		w.name, w.kind, w.limit = hitKeyed, kindKeyed, 0 // its bar is the difference from hitModern
		add(w)
		w = hit
		w.name, w.era, w.floorOf, w.limit, w.tool = hitLarge, modern, hitLarge, 1.4, "large"
		add(w)
		for _, e := range eras {
			sel := work{kind: kindMillrace, gogc: gogc, era: e, args: idArgument, keys: itemKeys, text: itemHas, floorOf: liteWork + string(e)}
			w := sel
			w.name, w.tool, w.limit = liteWork+string(e), "lite_item", 2.2
			add(w)
			w = sel
			w.name, w.tool, w.limit = pgWork+string(e), "pg_item", 2.8
			add(w)
		}
	}
	for _, peer := range []string{kindGoSDK, kindMCPGo} {
		for _, e := range eras {
			like := map[era]string{legacy: hitLegacy, modern: hitModern}[e]
			add(work{name: peer + ", echo, 100 B, " + string(e), kind: peer, era: e, tool: "echo", args: echo, keys: payloadKeys, text: payloadHas, floorOf: like})
			add(work{name: peer + ", SQLite select, " + string(e), kind: peer, era: e, tool: "get_item", args: idArgument, keys: itemKeys, text: itemHas, floorOf: liteWork + string(e)})
		}
	}
	return all
}

// model returns the Millrace work of that name, which says what a floor is asked and how large its answer is.
func model(name string) work {
	for _, w := range plan(nil, true) {
		if w.name == name {
			switch { // used only where no Millrace is there to be probed
			case w.tool == "large":
				w.least = 8600
			case w.tool == "small":
				w.least = 450
			default:
				w.least = 350
			}
			return w
		}
	}
	panic("no work is named " + name)
}
