package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"

	"github.com/mark3labs/mcp-go/mcp"
	mcpgo "github.com/mark3labs/mcp-go/server"
	gosdk "github.com/modelcontextprotocol/go-sdk/mcp"
	"zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"
)

// The servers of this file run as processes of their own: the program starts itself with their name.

// floorError is how millrace load names the floor's answer to a call: an error without an id, as servers give that could not
// read one. So the floor need not look into a request.
const floorError = "rpc -32000"

// floorAnswer is that answer, size bytes long.
func floorAnswer(size int) []byte {
	const head, tail = `{"jsonrpc":"2.0","id":null,"error":{"code":-32000,"message":"`, `"}}`
	return []byte(head + strings.Repeat("x", max(0, size-len(head)-len(tail))) + tail)
}

// floorHandshake is the longest body of a request of the legacy handshake that has a session already; a call's is longer.
const floorHandshake = 80

// serveFloor answers every call with size bytes after it has read the whole body: what net/http alone costs. It tells calls
// from a client's handshake by what net/http has read by then.
func serveFloor(addr string, e era, size int) error {
	body := floorAnswer(size)
	length := strconv.Itoa(size)
	return http.ListenAndServe(addr, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if e == legacy && (len(r.Header["Mcp-Session-Id"]) == 0 || r.ContentLength < floorHandshake) || e == modern && r.Header.Get("Mcp-Method") != "tools/call" {
			floorHello(w, r)
			return
		}
		io.Copy(io.Discard, r.Body)
		h := w.Header()
		h.Set("Content-Type", "application/json")
		h.Set("Content-Length", length)
		w.Write(body)
	}))
}

// floorHello answers what comes before the calls.
func floorHello(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(io.LimitReader(r.Body, 1<<20))
	if err != nil {
		return
	}
	result, status := rawHandshake(body)
	if status != http.StatusOK {
		w.WriteHeader(status)
		return
	}
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Mcp-Session-Id", floorSession)
	fmt.Fprintf(w, `{"jsonrpc":"2.0","id":%s,"result":%s}`, rawID(body), result)
}

// floorSession is as long as a real one.
const floorSession = "0123456789abcdef0123456789abcdef"

type echoIn struct {
	Message string `json:"message"`
}

type selectIn struct {
	ID int64 `json:"id"`
}

type item struct {
	ID    int64  `json:"id"`
	Name  string `json:"name"`
	Value int64  `json:"value"`
}

type itemRows struct {
	Rows []item `json:"rows"`
}

// database is the peers' way to the SQLite file: the library's own pool and its prepared statements.
type database struct{ pool *sqlitex.Pool }

func openDatabase(path string) (*database, error) {
	pool, err := sqlitex.NewPool(path, sqlitex.PoolOptions{Flags: sqlite.OpenReadOnly | sqlite.OpenWAL})
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	return &database{pool}, nil
}

func (d *database) item(ctx context.Context, id int64) (rows itemRows, err error) {
	conn, err := d.pool.Take(ctx)
	if err != nil {
		return rows, err
	}
	defer d.pool.Put(conn)
	stmt, err := conn.Prepare("SELECT id, name, value FROM items WHERE id = ?1")
	if err != nil {
		return rows, err
	}
	defer stmt.Reset()
	stmt.BindInt64(1, id)
	for {
		found, err := stmt.Step()
		if err != nil || !found {
			return rows, err
		}
		rows.Rows = append(rows.Rows, item{stmt.ColumnInt64(0), stmt.ColumnText(1), stmt.ColumnInt64(2)})
	}
}

// serveGoSDK serves the two tools on the official SDK. One of its handlers cannot serve both eras.
func serveGoSDK(addr string, e era, path string) error {
	db, err := openDatabase(path)
	if err != nil {
		return err
	}
	s := gosdk.NewServer(&gosdk.Implementation{Name: "bench", Version: "1.0.0"}, nil)
	gosdk.AddTool(s, &gosdk.Tool{Name: "echo", Description: "Echo."},
		func(_ context.Context, _ *gosdk.CallToolRequest, in echoIn) (*gosdk.CallToolResult, any, error) {
			return &gosdk.CallToolResult{Content: []gosdk.Content{&gosdk.TextContent{Text: in.Message}}}, nil, nil
		})
	gosdk.AddTool(s, &gosdk.Tool{Name: "get_item", Description: "One item by id."},
		func(ctx context.Context, _ *gosdk.CallToolRequest, in selectIn) (*gosdk.CallToolResult, itemRows, error) {
			rows, err := db.item(ctx, in.ID)
			return nil, rows, err // the SDK writes the text content from the rows
		})
	h := gosdk.NewStreamableHTTPHandler(func(*http.Request) *gosdk.Server { return s },
		&gosdk.StreamableHTTPOptions{Stateless: e == modern, JSONResponse: true})
	return serveMCP(addr, h)
}

// serveMCPGo serves the two tools on mcp-go.
func serveMCPGo(addr string, e era, path string) error {
	db, err := openDatabase(path)
	if err != nil {
		return err
	}
	s := mcpgo.NewMCPServer("bench", "1.0.0")
	s.AddTool(mcp.NewTool("echo", mcp.WithDescription("Echo."), mcp.WithString("message", mcp.Required())),
		func(_ context.Context, req mcp.CallToolRequest) (*mcp.CallToolResult, error) {
			return mcp.NewToolResultText(req.GetString("message", "")), nil
		})
	s.AddTool(mcp.NewTool("get_item", mcp.WithDescription("One item by id."), mcp.WithNumber("id", mcp.Required())),
		func(ctx context.Context, req mcp.CallToolRequest) (*mcp.CallToolResult, error) {
			rows, err := db.item(ctx, int64(req.GetInt("id", 0)))
			if err != nil {
				return nil, err
			}
			text, err := json.Marshal(rows)
			if err != nil {
				return nil, err
			}
			return mcp.NewToolResultStructured(rows, string(text)), nil
		})
	return serveMCP(addr, mcpgo.NewStreamableHTTPServer(s, mcpgo.WithStateful(e == legacy)))
}

func serveMCP(addr string, h http.Handler) error {
	mux := http.NewServeMux()
	mux.Handle("/mcp", h)
	return http.ListenAndServe(addr, mux)
}
